// Package place owns the choice of a node for a Pod, as a pure function of a
// View: what nodes there are, what runs on them, and what is left. It says, for
// each Pod that it refuses, what stood in the way. Where the facts come from
// and what becomes of the choice it leaves to others.
package place

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// A Choice is where a Pod shall run, or why it cannot.
type Choice struct {
	Node    string   // empty when refused
	Refused *Refusal // shared by the Pods that are refused alike
}

// Choose finds a node for each Pod that waits, and answers in their order. No
// node is given more than it has, counting what Choose itself has just given.
// Neither the order of the Pods nor that in which the view learned of its nodes
// matters: the greedy come first, equals by their keys, and ties between nodes
// break by name. The view is as before when Choose returns.
//
// Pods of one owner are spread over zones first and then over nodes. Among
// nodes that are alike in this the emptier one wins, then the less loaded, then
// the one that has less of the images to fetch.
func Choose(v *View, pods []Pod) []Choice {
	choices := make([]Choice, len(pods))
	c := chooser{view: v, pods: pods, choices: choices, counts: make([]int32, len(v.slots)), inZone: make([]int32, len(v.zones.uses))}
	for class := range c.classes() {
		c.place(class)
	}
	for _, at := range c.given {
		v.give(at)
		if !at.leaving {
			v.own(at.owner, at.slot, -1)
		}
	}
	return choices
}

// chooser is one pass.
type chooser struct {
	view    *View
	pods    []Pod
	choices []Choice
	given   []placed // to be taken back

	shape shape // of the class at hand; classes of one shape follow each other
	heaps []heap
	top   int    // the heap that pop took from
	seed  uint32 // of its ties

	counts []int32 // by slot: Pods of the owner at hand
	inZone []int32 // by zone
}

// A class is Pods that are equal to placement: one shape, one owner.
type class struct {
	key   string // of the shape
	owner string
	pods  []int // indexes
}

// candidate is a node that passes the filters that do not change in a pass.
type candidate struct {
	slot    int32
	missing uint8 // of the images, as sizeStep has it
}

// shape is what Pods of one shape share in a pass.
type shape struct {
	*Shape
	key        string
	candidates []candidate
	refused    *Refusal // once one is, all are: what is left only shrinks
}

// classes yields the waiting Pods, equals together, in an order that depends on
// nothing but them.
func (c *chooser) classes() func(yield func(class) bool) {
	return func(yield func(class) bool) {
		keys := map[*Shape]string{}
		waiting := map[string]int{}
		all := make([]member, len(c.pods))
		for i, p := range c.pods {
			key, ok := keys[p.Shape]
			if !ok {
				key = p.Shape.key()
				keys[p.Shape] = key
			}
			waiting[p.Owner]++
			all[i] = member{index: i, shape: key, size: p.Shape.size(), owner: p.Owner, key: p.Key}
		}
		for i, m := range all {
			// The first and only Pod of its owner has nothing to keep away
			// from, so it is as good as one without.
			if waiting[m.owner] == 1 && len(c.view.owners[m.owner]) == 0 {
				all[i].owner = ""
			}
		}
		slices.SortFunc(all, member.compare)
		for start := 0; start < len(all); {
			end := start + 1
			for end < len(all) && all[end].shape == all[start].shape && all[end].owner == all[start].owner {
				end++
			}
			k := class{key: all[start].shape, owner: all[start].owner, pods: make([]int, 0, end-start)}
			for _, m := range all[start:end] {
				k.pods = append(k.pods, m.index)
			}
			if !yield(k) {
				return
			}
			start = end
		}
	}
}

// member is a Pod on its way into a class.
type member struct {
	index int
	size  int64
	shape string
	owner string
	key   string
}

// compare puts the greedy first: what is small fits in between.
func (m member) compare(o member) int {
	return cmp.Or(
		cmp.Compare(o.size, m.size),
		cmp.Compare(m.shape, o.shape),
		cmp.Compare(m.owner, o.owner),
		cmp.Compare(m.key, o.key),
	)
}

// size weighs a core like 4 GiB.
func (s *Shape) size() int64 { return s.CPU<<22 + s.Memory }

// key tells shapes apart.
func (s *Shape) key() string {
	b := make([]byte, 0, 64)
	b = strconv.AppendInt(b, s.CPU, 36)
	b = append(b, ' ')
	b = strconv.AppendInt(b, s.Memory, 36)
	b = append(b, ' ')
	b = strconv.AppendInt(b, s.Disk, 36)
	b = append(b, ' ')
	b = append(b, s.Pin...)
	b = strconv.AppendBool(append(b, ' '), s.Users)
	for _, name := range sortedKeys(s.Selector) {
		b = append(b, 0, 's')
		b = append(b, name...)
		b = append(b, '=')
		b = append(b, s.Selector[name]...)
	}
	for _, p := range s.Ports {
		b = append(b, 0, 'p')
		b = append(b, p.Protocol...)
		b = strconv.AppendInt(b, int64(p.Number), 10)
	}
	for _, image := range s.Images {
		b = append(b, 0, 'i')
		b = append(b, image...)
	}
	return string(b)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}

// place finds nodes for the Pods of one class.
func (c *chooser) place(k class) {
	c.enter(k)
	c.count(k.owner)
	defer c.uncount(k.owner)
	if len(k.pods) == 1 {
		c.settle(k, 0, c.best(k.owner))
		return
	}
	c.pile(k.owner)
	for i := range k.pods {
		slot := c.pop()
		c.settle(k, i, slot)
		if slot >= 0 {
			c.push(slot)
		}
	}
}

// enter takes up a class, and its shape if it is another than the last one's.
func (c *chooser) enter(k class) {
	if c.shape.Shape != nil && c.shape.key == k.key {
		return
	}
	s := shape{Shape: c.pods[k.pods[0]].Shape, key: k.key, candidates: c.shape.candidates[:0]}
	images := c.view.wants(s.Images)
	for i := range c.view.nodes {
		n := &c.view.nodes[i]
		if !n.known || n.suits(s.Shape) != 0 {
			continue
		}
		s.candidates = append(s.candidates, candidate{slot: int32(i), missing: c.view.lacks(n, images)})
	}
	c.shape = s
}

// count sets what the spread looks at: how many Pods of the owner are where.
func (c *chooser) count(owner string) {
	for slot, n := range c.view.owners[owner] {
		c.counts[slot] = n
		if c.view.nodes[slot].known {
			c.inZone[c.view.slots[slot].zone] += n
		}
	}
}

// uncount undoes count, and what settle added to it.
func (c *chooser) uncount(owner string) {
	for slot := range c.view.owners[owner] {
		c.counts[slot] = 0
		if c.view.nodes[slot].known {
			c.inZone[c.view.slots[slot].zone] = 0
		}
	}
}

// settle notes where a Pod goes, and takes its room there.
func (c *chooser) settle(k class, i int, slot int32) {
	at := k.pods[i]
	if slot < 0 {
		if c.shape.refused == nil {
			c.shape.refused = c.view.refuse(c.shape.Shape)
		}
		c.choices[at].Refused = c.shape.refused
		return
	}
	c.choices[at].Node = c.view.nodes[slot].Name
	took := c.shape.at(slot)
	took.owner = k.owner
	c.given = append(c.given, took)
	c.view.take(took)
	if k.owner != "" {
		c.view.own(k.owner, slot, 1)
		c.counts[slot]++
		c.inZone[c.view.slots[slot].zone]++
	}
}
