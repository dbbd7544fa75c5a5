package place

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Filter is a reason for which a node cannot take a Pod.
type Filter int

// The filters, in the order in which a node that fails several is counted.
const (
	NotReady Filter = iota
	Cordoned
	Flapping // the node comes and goes
	Pinned   // the Pod must be on another node
	Selector // the node lacks labels
	Users    // the node has no users for Pods
	Ports    // the node's ports are taken
	PodCount // the node has its number of Pods
	CPU
	Memory
	Disk
	filters
)

// A Reason is how many nodes a filter refused.
type Reason struct {
	Filter Filter
	Nodes  int
	Detail string // "needs 4Gi, most free 1.2Gi on n2", or empty
}

// A Refusal says why no node can take a Pod.
type Refusal struct {
	Nodes   int      // that were looked at
	Reasons []Reason // the most frequent first; every node counts once
	// Change is the smallest change that would make the Pod fit, or empty
	// when no single one would.
	Change string
}

// String says it in a line: "0/3 nodes fit: 2 too little memory (needs 4Gi,
// most free 1.2Gi on n2), 1 cordoned; uncordon n3 to make room".
func (r *Refusal) String() string {
	if r.Nodes == 0 {
		return "no node has joined yet"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes fit: ", r.Nodes)
	for i, reason := range r.Reasons {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d %s", reason.Nodes, reason.Filter)
		if reason.Detail != "" {
			fmt.Fprintf(&b, " (%s)", reason.Detail)
		}
	}
	if r.Change != "" {
		b.WriteString("; " + r.Change)
	}
	return b.String()
}

func (f Filter) String() string {
	return [...]string{
		"not ready", "cordoned", "coming and going", "not the node it is pinned to", "without its labels", "without user namespaces",
		"with its ports taken", "full of Pods", "too little cpu", "too little memory", "too little disk",
	}[f]
}

type filterSet uint16

func (s filterSet) has(f Filter) bool { return s&(1<<f) != 0 }

func (s filterSet) only(allowed ...Filter) bool {
	for _, f := range allowed {
		s &^= 1 << f
	}
	return s == 0
}

// suits applies the filters that no placement changes.
func (n *node) suits(s *Shape) filterSet {
	var failed filterSet
	if !n.Ready {
		failed |= 1 << NotReady
	}
	if n.Cordoned {
		failed |= 1 << Cordoned
	}
	if n.Flapping {
		failed |= 1 << Flapping
	}
	if s.Pin != "" && s.Pin != n.Name {
		failed |= 1 << Pinned
	}
	if s.Users && !n.Users {
		failed |= 1 << Users
	}
	for k, want := range s.Selector {
		if have, ok := n.Labels[k]; !ok || have != want {
			return failed | 1<<Selector
		}
	}
	return failed
}

// room applies the filters that placements do change. chooser.fits is the same
// in a hurry.
func (v *View) room(i int32, s *Shape) filterSet {
	var failed filterSet
	at := &v.slots[i]
	if v.nodes[i].taken(s.Ports) {
		failed |= 1 << Ports
	}
	if at.pods < 1 {
		failed |= 1 << PodCount
	}
	if s.CPU > max(at.cpu, 0) {
		failed |= 1 << CPU
	}
	if s.Memory > max(at.memory, 0) {
		failed |= 1 << Memory
	}
	if s.Disk > max(at.disk, 0) {
		failed |= 1 << Disk
	}
	return failed
}

// refuse explains why no node takes a Pod of the shape.
func (v *View) refuse(s *Shape) *Refusal {
	r := &Refusal{}
	var counts [filters]int
	change := easiest{view: v, shape: s}
	var free [filters]most
	for i := range v.nodes {
		n := &v.nodes[i]
		if !n.known {
			continue
		}
		r.Nodes++
		at := &v.slots[i]
		failed := n.suits(s) | v.room(int32(i), s)
		change.consider(int32(i), failed)
		for f := range filters {
			if !failed.has(f) {
				continue
			}
			f = s.worst(at, f, failed)
			counts[f]++
			if left, _, measured := s.amounts(at, f); measured {
				free[f].see(max(left, 0), n.Name)
			}
			break
		}
	}
	r.Reasons = reasons(s, counts, free)
	slices.SortStableFunc(r.Reasons, func(a, b Reason) int { return cmp.Compare(b.Nodes, a.Nodes) })
	r.Change = change.String()
	return r
}

// amounts are what is left of what a filter measures, and what the shape needs.
func (s *Shape) amounts(at *slot, f Filter) (left, need int64, measured bool) {
	switch f {
	case CPU:
		return at.cpu, s.CPU, true
	case Memory:
		return at.memory, s.Memory, true
	case Disk:
		return at.disk, s.Disk, true
	}
	return 0, 0, false
}

// worst is, of several shortages, the greatest one: it alone is told.
func (s *Shape) worst(at *slot, first Filter, failed filterSet) Filter {
	worst, most := first, 0.0
	for _, f := range []Filter{CPU, Memory, Disk} {
		left, need, _ := s.amounts(at, f)
		if lack := short(left, need); first >= CPU && failed.has(f) && lack > most {
			worst, most = f, lack
		}
	}
	return worst
}

// reasons tells the counts, with what would have been needed.
func reasons(s *Shape, counts [filters]int, free [filters]most) (out []Reason) {
	for f, nodes := range counts {
		if nodes == 0 {
			continue
		}
		reason := Reason{Filter: Filter(f), Nodes: nodes}
		switch reason.Filter {
		case CPU:
			reason.Detail = fmt.Sprintf("needs %s, most free %s on %s", cores(s.CPU), cores(free[f].n), free[f].on)
		case Memory:
			reason.Detail = fmt.Sprintf("needs %s, most free %s on %s", size(s.Memory), size(free[f].n), free[f].on)
		case Disk:
			reason.Detail = fmt.Sprintf("needs %s, most free %s on %s", size(s.Disk), size(free[f].n), free[f].on)
		case Pinned:
			reason.Detail = "needs " + s.Pin
		case Selector:
			reason.Detail = "needs " + labels(s.Selector)
		}
		out = append(out, reason)
	}
	return out
}

// most keeps the greatest amount seen, and where; of equals the first by name.
type most struct {
	n  int64
	on string
}

func (m *most) see(n int64, on string) {
	if m.on == "" || n > m.n || n == m.n && on < m.on {
		m.n, m.on = n, on
	}
}

// short is how much of a need is not there, 0 to 1.
func short(have, need int64) float64 {
	if need <= 0 {
		return 0
	}
	return 1 - float64(max(have, 0))/float64(need)
}

// easiest finds the smallest change after which one node would fit: lifting a
// cordon, then asking for less, then a label, then waiting for the node.
type easiest struct {
	view  *View
	shape *Shape

	kind  int // of the change at hand; 0: none
	cost  float64
	on    string
	slot  int32
	lacks []string
}

const (
	noChange = iota
	uncordon
	askLess
	addLabels
	awaitReady
)

func (e *easiest) consider(slot int32, failed filterSet) {
	n := &e.view.nodes[slot]
	switch at := &e.view.slots[slot]; {
	case failed.only(Cordoned):
		e.offer(uncordon, 0, slot)
	case failed.only(CPU, Memory, Disk):
		e.offer(askLess, short(at.cpu, e.shape.CPU)+short(at.memory, e.shape.Memory)+short(at.disk, e.shape.Disk), slot)
	case failed.only(Selector):
		var lacks []string
		for _, k := range sortedKeys(e.shape.Selector) {
			if have, ok := n.Labels[k]; !ok || have != e.shape.Selector[k] {
				lacks = append(lacks, k+"="+e.shape.Selector[k])
			}
		}
		if e.offer(addLabels, float64(len(lacks)), slot) {
			e.lacks = lacks
		}
	case failed.only(NotReady):
		e.offer(awaitReady, 0, slot)
	}
}

func (e *easiest) offer(kind int, cost float64, slot int32) bool {
	on := e.view.nodes[slot].Name
	if e.kind != noChange && cmp.Or(cmp.Compare(e.kind, kind), cmp.Compare(e.cost, cost), strings.Compare(e.on, on)) <= 0 {
		return false
	}
	e.kind, e.cost, e.on, e.slot = kind, cost, on, slot
	return true
}

func (e *easiest) String() string {
	switch e.kind {
	case uncordon:
		return "uncordon " + e.on + " to make it fit"
	case askLess:
		at := &e.view.slots[e.slot]
		var less []string
		if max(at.cpu, 0) < e.shape.CPU {
			less = append(less, cores(max(at.cpu, 0))+" cpu")
		}
		if max(at.memory, 0) < e.shape.Memory {
			less = append(less, size(max(at.memory, 0))+" memory")
		}
		if max(at.disk, 0) < e.shape.Disk {
			less = append(less, size(max(at.disk, 0))+" ephemeral-storage")
		}
		return "a request of " + strings.Join(less, " and ") + " would fit on " + e.on
	case addLabels:
		return "label " + e.on + " with " + strings.Join(e.lacks, ",") + " to make it fit"
	case awaitReady:
		return "it would fit on " + e.on + " once that is ready"
	}
	return ""
}

func labels(m map[string]string) string {
	all := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, ",")
}

// cores writes thousandths of a core as Kubernetes does: "2", "500m".
func cores(milli int64) string {
	if milli%1000 == 0 {
		return strconv.FormatInt(milli/1000, 10)
	}
	return strconv.FormatInt(milli, 10) + "m"
}

// size writes bytes with one digit after the point, rounded down: what is free
// must not look like more than it is.
func size(bytes int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}
	unit, scale := 0, int64(1)
	for bytes/scale >= 1024 && unit < len(units)-1 {
		unit++
		scale *= 1024
	}
	whole, tenth := bytes/scale, bytes%scale*10/scale
	if tenth == 0 {
		return strconv.FormatInt(whole, 10) + units[unit]
	}
	return fmt.Sprintf("%d.%d%s", whole, tenth, units[unit])
}
