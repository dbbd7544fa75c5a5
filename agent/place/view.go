package place

// A Node is what placement knows of a machine.
type Node struct {
	Name   string
	Zone   string // empty counts as a zone of its own
	Labels map[string]string

	CPU    int64 // thousandths of a core that Pods may request
	Memory int64 // bytes that Pods may request
	Disk   int64 // bytes that Pods may request of what goes with them
	Pods   int64 // how many Pods it takes

	Ready    bool
	Cordoned bool
	Users    bool     // it has users for Pods that want their own
	Flapping bool     // it comes and goes too often
	Load     float64  // how busy it is now, 0 to 1; 0 where unknown
	Images   []string // what it holds, named as a Shape names them
}

// A Port is one of the machine's own, taken by one Pod at a time.
type Port struct {
	Protocol string
	Number   int32
}

// A Shape is what a Pod asks of its node. Many Pods share one, so nobody may
// change it once a Pod bears it.
type Shape struct {
	CPU    int64 // thousandths of a core
	Memory int64 // bytes
	Disk   int64 // bytes
	// Selector holds the labels that the node must have.
	Selector map[string]string
	Users    bool   // it wants users of its own
	Pin      string // the only node that will do; empty: any
	Ports    []Port
	Images   []string
}

// A Pod is what placement knows of one.
type Pod struct {
	Key   string // tells it from all others
	Owner string // Pods of one owner are spread; empty for a Pod that has none
	Shape *Shape
	Node  string // where it runs; empty while it waits
	// Leaving is for a Pod that is being stopped: it takes its room until it is
	// gone, but there is no need to keep its siblings away.
	Leaving bool
}

// A View is what runs where and what is left. It is kept up to date by changes
// and never rebuilt: each costs the same whatever else is there. It is not safe
// for use by several goroutines.
type View struct {
	slots   []slot           // hot: read for every candidate of every Pod
	nodes   []node           // alike indexed
	free    []int32          // slots without a node
	byName  map[string]int32 // to slots
	zones   names
	images  names
	library library
	pods    map[string]placed
	owners  map[string]map[int32]int32 // how many of an owner's Pods are in a slot
	gained  uint64
}

// slot is what ranks a node.
type slot struct {
	cpu, memory, disk, pods    int64   // left
	perCPU, perMemory, perPods float32 // one over what it has
	zone                       int32
	hash                       uint32
	load                       uint8 // 0 to 7
}

// node is what filters it.
type node struct {
	Node
	known    bool // false where only Pods say that there is such a node
	images   []uint64
	layers   []uint64 // of those, as the library was at layersAt
	layersAt uint64
	ports    map[Port]int32
	pods     int32 // in this slot
}

type placed struct {
	slot              int32
	leaving           bool
	cpu, memory, disk int64
	owner             string
	ports             []Port
}

// NewView returns a view without nodes and Pods.
func NewView() *View {
	return &View{
		byName:  map[string]int32{},
		zones:   newNames(),
		images:  newNames(),
		library: library{images: map[string]Image{}, turn: 1},
		pods:    map[string]placed{},
		owners:  map[string]map[int32]int32{},
	}
}

// Gained counts the changes after which a Pod that was refused before may fit.
func (v *View) Gained() uint64 { return v.gained }

// Len tells how many nodes and placed Pods there are.
func (v *View) Len() (nodes, pods int) {
	for i := range v.nodes {
		if v.nodes[i].known {
			nodes++
		}
	}
	return nodes, len(v.pods)
}

// PutNode adds a node or replaces what was known of it. Its Pods stay.
func (v *View) PutNode(n Node) {
	i := v.slotOf(n.Name)
	s, old := &v.slots[i], &v.nodes[i]
	// What is left is what it had less what is used: of a node that is not known, 0.
	s.cpu, s.memory, s.disk, s.pods = s.cpu+n.CPU, s.memory+n.Memory, s.disk+n.Disk, s.pods+n.Pods
	if old.known {
		s.cpu, s.memory, s.disk, s.pods = s.cpu-old.CPU, s.memory-old.Memory, s.disk-old.Disk, s.pods-old.Pods
	}
	v.forgetNode(i)
	old.Node, old.known = n, true
	s.perCPU, s.perMemory, s.perPods = inverse(n.CPU), inverse(n.Memory), inverse(n.Pods)
	s.zone = v.zones.get(n.Zone)
	s.load = steps(n.Load)
	for _, image := range n.Images {
		old.images = setBit(old.images, v.images.get(image))
	}
	v.gained++
}

// RemoveNode forgets a node. The Pods that are said to be on it stay until they
// are removed themselves.
func (v *View) RemoveNode(name string) {
	i, ok := v.byName[name]
	if !ok || !v.nodes[i].known {
		return
	}
	n, s := &v.nodes[i], &v.slots[i]
	s.cpu, s.memory, s.disk, s.pods = s.cpu-n.CPU, s.memory-n.Memory, s.disk-n.Disk, s.pods-n.Pods
	v.forgetNode(i)
	v.release(i)
}

// PutPod adds a Pod or replaces what was known of it. One that waits takes no
// room: it is as if removed.
func (v *View) PutPod(p Pod) {
	v.RemovePod(p.Key)
	if p.Node == "" {
		return
	}
	i := v.slotOf(p.Node)
	at := p.Shape.at(i)
	at.owner, at.leaving = p.Owner, p.Leaving
	v.pods[p.Key] = at
	v.take(at)
	if !p.Leaving {
		v.own(p.Owner, i, 1)
	}
}

// at is what a Pod of the shape takes in a slot.
func (s *Shape) at(slot int32) placed {
	return placed{slot: slot, cpu: s.CPU, memory: s.Memory, disk: s.Disk, ports: s.Ports}
}

// RemovePod forgets a Pod and gives its room back.
func (v *View) RemovePod(key string) {
	at, ok := v.pods[key]
	if !ok {
		return
	}
	delete(v.pods, key)
	v.give(at)
	if !at.leaving {
		v.own(at.owner, at.slot, -1)
	}
	v.release(at.slot)
	v.gained++
}

func (v *View) take(at placed) {
	s, n := &v.slots[at.slot], &v.nodes[at.slot]
	s.cpu, s.memory, s.disk, s.pods = s.cpu-at.cpu, s.memory-at.memory, s.disk-at.disk, s.pods-1
	n.pods++
	for _, port := range at.ports {
		if n.ports == nil {
			n.ports = map[Port]int32{}
		}
		n.ports[port]++
	}
}

func (v *View) give(at placed) {
	s, n := &v.slots[at.slot], &v.nodes[at.slot]
	s.cpu, s.memory, s.disk, s.pods = s.cpu+at.cpu, s.memory+at.memory, s.disk+at.disk, s.pods+1
	n.pods--
	for _, port := range at.ports {
		if n.ports[port]--; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
}

func (v *View) own(owner string, slot, by int32) {
	if owner == "" {
		return
	}
	in := v.owners[owner]
	if in == nil {
		in = map[int32]int32{}
		v.owners[owner] = in
	}
	if in[slot] += by; in[slot] == 0 {
		delete(in, slot)
	}
	if len(in) == 0 {
		delete(v.owners, owner)
	}
}

func (v *View) slotOf(name string) int32 {
	if i, ok := v.byName[name]; ok {
		return i
	}
	var i int32
	if last := len(v.free) - 1; last >= 0 {
		i, v.free = v.free[last], v.free[:last]
	} else {
		i = int32(len(v.slots))
		v.slots, v.nodes = append(v.slots, slot{}), append(v.nodes, node{})
	}
	v.slots[i] = slot{hash: hash(name)}
	v.nodes[i] = node{Node: Node{Name: name}}
	v.byName[name] = i
	return i
}

// release gives a slot back once neither a node nor a Pod needs it.
func (v *View) release(i int32) {
	if n := &v.nodes[i]; !n.known && n.pods == 0 {
		delete(v.byName, n.Name)
		v.free = append(v.free, i)
		*n = node{}
	}
}

func (v *View) forgetNode(i int32) {
	n := &v.nodes[i]
	if !n.known {
		return
	}
	v.zones.drop(n.Zone)
	for _, image := range n.Images {
		v.images.drop(image)
	}
	n.Node, n.known, n.images, n.layers, n.layersAt = Node{Name: n.Name}, false, nil, nil, 0
}

func inverse(n int64) float32 {
	if n <= 0 {
		return 0
	}
	return float32(1 / float64(n))
}

// hash is FNV-1a with a final mix: alike on every machine and in every run, so
// that ties break alike.
func hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return mix(h)
}

func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// SetLoad says how busy a node is now, 0 to 1. It makes no refused Pod fit.
func (v *View) SetLoad(name string, load float64) {
	if i, ok := v.byName[name]; ok {
		v.nodes[i].Load = load
		v.slots[i].load = steps(load)
	}
}

// steps tells loads apart coarsely: what differs less than that is noise.
func steps(load float64) uint8 { return uint8(min(max(load, 0), 1) * 7) }
