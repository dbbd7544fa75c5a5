package object

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/skein-dev/skein/consensus/state"
)

var nodeColumns = []column[corev1.Node]{
	{name: "NAME", cell: func(n *corev1.Node, _ *TableOptions) string { return n.Name }},
	{name: "STATUS", cell: func(n *corev1.Node, _ *TableOptions) string {
		status := NodeStatus(n)
		if n.Spec.Unschedulable {
			status += ",SchedulingDisabled"
		}
		for i := range n.Status.Conditions {
			if c := &n.Status.Conditions[i]; Short(c.Type) && c.Status == corev1.ConditionTrue {
				status += "," + string(c.Type)
			}
		}
		return status
	}},
	{name: "VOTER", cell: func(n *corev1.Node, _ *TableOptions) string { return labelText(n.Labels[LabelVoter]) }},
	{name: "LEADER", cell: func(n *corev1.Node, _ *TableOptions) string { return labelText(n.Labels[LabelLeader]) }},
	{name: "PODS", cell: func(n *corev1.Node, opt *TableOptions) string {
		if opt.PodsOn == nil {
			return "-"
		}
		return strconv.Itoa(opt.PodsOn(n.Name))
	}},
	{name: columnAge, cell: func(n *corev1.Node, _ *TableOptions) string { return stamp(n.CreationTimestamp.Time) }},
	{name: "VERSION", cell: func(n *corev1.Node, _ *TableOptions) string { return orNone(n.Status.NodeInfo.KubeletVersion) }},
	{name: "ADDRESS", wide: true, cell: func(n *corev1.Node, _ *TableOptions) string { return orNone(nodeAddress(n)) }},
	{name: "ZONE", wide: true, cell: func(n *corev1.Node, _ *TableOptions) string { return orNone(n.Labels[LabelZone]) }},
	{name: "CPU", wide: true, cell: func(n *corev1.Node, _ *TableOptions) string { return n.Status.Allocatable.Cpu().String() }},
	{name: "MEMORY", wide: true, cell: func(n *corev1.Node, _ *TableOptions) string { return memoryText(n.Status.Allocatable.Memory().Value()) }},
	{name: "OS-IMAGE", wide: true, cell: func(n *corev1.Node, _ *TableOptions) string { return orNone(n.Status.NodeInfo.OSImage) }},
	{name: "KERNEL-VERSION", wide: true, cell: func(n *corev1.Node, _ *TableOptions) string { return orNone(n.Status.NodeInfo.KernelVersion) }},
}

// labelText shows a label that says yes or nothing.
func labelText(v string) string {
	switch v {
	case "true":
		return "yes"
	case "":
		return "-"
	}
	return v
}

// NodeStatus returns a node's state in one word: Ready, NotReady, Suspect or
// Lost. Whether it takes new Pods is another matter.
func NodeStatus(n *corev1.Node) string {
	for i := range n.Status.Conditions {
		c := &n.Status.Conditions[i]
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			return "Ready"
		case c.Reason == ReasonNodeLost:
			return "Lost"
		case c.Reason == ReasonSuspect:
			return "Suspect"
		}
	}
	return "NotReady"
}

// What may be wrong with the disk of a node's data directory, beside being full,
// which is Kubernetes' DiskPressure.
const (
	NodeDiskReadOnly corev1.NodeConditionType = "DiskReadOnly"
	NodeDiskFailing  corev1.NodeConditionType = "DiskFailing" // it answers with errors
	NodeDiskSlow     corev1.NodeConditionType = "DiskSlow"    // or does not answer at all
)

// DiskCondition tells whether a condition of a node is one of these three.
func DiskCondition(t corev1.NodeConditionType) bool {
	return t == NodeDiskReadOnly || t == NodeDiskFailing || t == NodeDiskSlow
}

// Short tells whether a node takes no new Pods while such a condition holds.
func Short(t corev1.NodeConditionType) bool {
	switch t {
	case corev1.NodeDiskPressure, corev1.NodeMemoryPressure, corev1.NodePIDPressure:
		return true
	}
	return DiskCondition(t)
}

// nodeAddress returns where others reach a node.
func nodeAddress(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return n.Annotations[AnnotationAdvertise]
}

// memoryText returns an amount of memory as people read it: 7.6Gi.
func memoryText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	f := float64(n)
	unit := -1
	for f >= 1023.95 && unit < len(units)-1 {
		f /= 1024
		unit++
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + units[unit:unit+1] + "i"
}

// nodeAmounts is what a machine has, bytes as people read them.
func nodeAmounts(list corev1.ResourceList) string {
	text := amounts(list)
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[name]; ok {
			text = strings.Replace(text, string(name)+" "+q.String(), string(name)+" "+memoryText(q.Value()), 1)
		}
	}
	return text
}

var eventColumns = []column[corev1.Event]{
	{name: columnLastSeen, cell: func(e *corev1.Event, _ *TableOptions) string { return stamp(lastSeen(e)) }},
	{name: "TYPE", cell: func(e *corev1.Event, _ *TableOptions) string { return e.Type }},
	{name: "REASON", cell: func(e *corev1.Event, _ *TableOptions) string { return e.Reason }},
	{name: "OBJECT", cell: func(e *corev1.Event, _ *TableOptions) string {
		return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
	}},
	{name: "MESSAGE", cell: func(e *corev1.Event, _ *TableOptions) string { return oneLine(e.Message) }},
	{name: "COUNT", wide: true, cell: func(e *corev1.Event, _ *TableOptions) string { return itoa(max(e.Count, 1)) }},
	{name: "FIRST SEEN", wide: true, cell: func(e *corev1.Event, opt *TableOptions) string {
		return duration.HumanDuration(opt.Now.Sub(firstSeen(e)))
	}},
	{name: "SOURCE", wide: true, cell: func(e *corev1.Event, _ *TableOptions) string { return orNone(source(e)) }},
}

func source(e *corev1.Event) string {
	if e.Source.Host == "" {
		return e.Source.Component
	}
	return e.Source.Component + "@" + e.Source.Host
}

func lastSeen(e *corev1.Event) time.Time {
	switch {
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

func firstSeen(e *corev1.Event) time.Time {
	if !e.FirstTimestamp.IsZero() {
		return e.FirstTimestamp.Time
	}
	return lastSeen(e)
}

// oneLine keeps a table's row in its line.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, unicode.IsControl), " ")
}

// byTime sorts the rows of Events, the latest last.
func byTime(rows []*state.Row) ([]*state.Row, error) {
	type dated struct {
		row  *state.Row
		seen time.Time
	}
	all := make([]dated, len(rows))
	for i, row := range rows {
		e, err := Decode[corev1.Event](row)
		if err != nil {
			return nil, err
		}
		all[i] = dated{row, lastSeen(e)}
	}
	slices.SortStableFunc(all, func(a, b dated) int {
		return cmp.Or(a.seen.Compare(b.seen), cmp.Compare(a.row.Version, b.row.Version))
	})
	out := make([]*state.Row, len(all))
	for i, d := range all {
		out[i] = d.row
	}
	return out, nil
}
