package gossip

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// The shape of the ring.
const (
	observersEach = 4  // nodes that watch one node, fewer where there are fewer
	ringWindow    = 64 // successors looked at for observers in other failure domains
)

// A Ring is one view of who watches whom: the members on a circle, by the hash
// of their names, each watched by some of its successors. Two nodes that know
// the same members and failure domains have the same Ring, and one member more
// or less changes who watches its neighbours and nobody else. It is immutable.
type Ring struct {
	nodes []ringNode
	index map[string]int
	hash  uint64
}

type ringNode struct {
	name, domain string
	hash         uint64
}

// NewRing makes the ring of these members. Domain names the failure domain of
// each (a zone, say), or is empty where nothing is known; it may be nil.
func NewRing(names []string, domain func(name string) string) *Ring {
	r := &Ring{nodes: make([]ringNode, 0, len(names)), index: make(map[string]int, len(names))}
	for _, name := range names {
		n := ringNode{name: name, hash: hashString(name)}
		if domain != nil {
			n.domain = domain(name)
		}
		r.nodes = append(r.nodes, n)
	}
	slices.SortFunc(r.nodes, func(a, b ringNode) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name))
	})
	r.nodes = slices.CompactFunc(r.nodes, func(a, b ringNode) bool { return a.name == b.name })
	for i, n := range r.nodes {
		r.index[n.name] = i
		r.hash = mix(r.hash ^ n.hash ^ mix(hashString(n.domain)))
	}
	return r
}

// Len is the number of members.
func (r *Ring) Len() int { return len(r.nodes) }

// Has says whether a node is on the ring.
func (r *Ring) Has(name string) bool {
	_, ok := r.index[name]
	return ok
}

// Hash tells views apart: equal for equal members and domains.
func (r *Ring) Hash() uint64 { return r.hash }

// Names lists the members in the order of the ring.
func (r *Ring) Names() []string {
	names := make([]string, len(r.nodes))
	for i, n := range r.nodes {
		names[i] = n.name
	}
	return names
}

// Observers lists those who watch a node: min(4, N-1) of its successors. Where
// labels allow, no failure domain has more than half of them, so that the loss
// of one neither hides a death nor makes one up.
func (r *Ring) Observers(name string) []string {
	i, ok := r.index[name]
	if !ok {
		return nil
	}
	var picked [observersEach]int
	n := r.observersOf(i, &picked)
	names := make([]string, n)
	for j, at := range picked[:n] {
		names[j] = r.nodes[at].name
	}
	return names
}

// Observes says whether one node is among the observers of another.
func (r *Ring) Observes(observer, name string) bool {
	i, ok := r.index[name]
	o, there := r.index[observer]
	if !ok || !there {
		return false
	}
	var picked [observersEach]int
	return slices.Contains(picked[:r.observersOf(i, &picked)], o)
}

// Observed lists the nodes that a node watches.
func (r *Ring) Observed(name string) []string {
	self, ok := r.index[name]
	if !ok {
		return nil
	}
	var names []string
	var picked [observersEach]int
	for back := 1; back <= min(ringWindow, len(r.nodes)-1); back++ {
		i := (self - back + len(r.nodes)) % len(r.nodes)
		if slices.Contains(picked[:r.observersOf(i, &picked)], self) {
			names = append(names, r.nodes[i].name)
		}
	}
	return names
}

// observersOf fills in the positions of the observers of position i and says
// how many there are.
func (r *Ring) observersOf(i int, picked *[observersEach]int) int {
	others := len(r.nodes) - 1
	want := min(observersEach, others)
	most := (want + 1) / 2
	n := 0
	for step := 1; step <= min(ringWindow, others) && n < want; step++ {
		at := (i + step) % len(r.nodes)
		domain, same := r.nodes[at].domain, 0
		for _, p := range picked[:n] {
			if domain != "" && r.nodes[p].domain == domain {
				same++
			}
		}
		if same < most {
			picked[n] = at
			n++
		}
	}
	for step := 1; n < want; step++ { // labels do not allow: the nearest that are left
		if at := (i + step) % len(r.nodes); !slices.Contains(picked[:n], at) {
			picked[n] = at
			n++
		}
	}
	return n
}

func hashString(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return mix(h.Sum64())
}

// mix spreads every bit over all of them: FNV alone leaves "n1" and "n2"
// neighbours, and neighbours would watch each other.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
