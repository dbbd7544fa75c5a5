package place

// A rank orders nodes within a zone; the lowest wins. Its bits, from the top:
//
//	16 Pods of the same owner on the node
//	 4 how full the node would be, in sixteenths
//	 3 how loaded it is now
//	 5 how much of the images it lacks, see sizeStep
//	12 how full it would be, exactly
//	24 the lot: a hash of names, so that equal nodes share what they get
type rank uint64

// rank is the node's for one more Pod of the shape and owner at hand.
func (c *chooser) rank(k candidate, seed uint32) rank {
	s := &c.view.slots[k.slot]
	cpu := 1 - float32(s.cpu-c.shape.CPU)*s.perCPU
	memory := 1 - float32(s.memory-c.shape.Memory)*s.perMemory
	pods := 1 - float32(s.pods-1)*s.perPods
	// The scarcest decides; the number of Pods tells nodes apart that nobody
	// requests anything of.
	full := min(max((3*max(cpu, memory)+pods)/4, 0), 1)
	exact := rank(full * 4095)
	return rank(min(uint32(c.counts[k.slot]), 0xffff))<<48 |
		exact>>8<<44 |
		rank(s.load)<<41 |
		rank(k.missing)<<36 |
		exact<<24 |
		rank(mix(s.hash^seed)>>8)
}

// fits tells whether a node has room for one more Pod of the shape at hand.
func (c *chooser) fits(slot int32) bool {
	s := &c.view.slots[slot]
	if s.pods < 1 || c.shape.CPU > max(s.cpu, 0) || c.shape.Memory > max(s.memory, 0) || c.shape.Disk > max(s.disk, 0) {
		return false
	}
	return len(c.shape.Ports) == 0 || !c.view.nodes[slot].taken(c.shape.Ports)
}

func (n *node) taken(ports []Port) bool {
	for _, p := range ports {
		if n.ports[p] > 0 {
			return true
		}
	}
	return false
}

// lot makes ties break differently for every owner.
func (c *chooser) lot(owner string) uint32 {
	if owner != "" {
		return hash(owner)
	}
	return hash(c.shape.key)
}

// best looks at every candidate once, for a class of one.
func (c *chooser) best(owner string) int32 {
	found, seed := entry{slot: -1}, c.lot(owner)
	var zone int32
	for _, k := range c.shape.candidates {
		if !c.fits(k.slot) {
			continue
		}
		in := c.inZone[c.view.slots[k.slot].zone]
		if found.slot >= 0 && in > zone {
			continue
		}
		e := entry{rank: c.rank(k, seed), slot: k.slot, missing: k.missing}
		if found.slot < 0 || in < zone || c.before(e, found) {
			found, zone = e, in
		}
	}
	return found.slot
}

// before orders entries fully, whatever slots their nodes happen to have.
func (c *chooser) before(a, b entry) bool {
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	return c.view.nodes[a.slot].Name < c.view.nodes[b.slot].Name
}

type entry struct {
	rank    rank
	slot    int32
	missing uint8
}

// A heap holds the nodes of one zone that have room, the best on top.
type heap struct {
	zone    int32
	entries []entry
}

// pile fills a heap for each zone with the candidates for a class.
func (c *chooser) pile(owner string) {
	for i := range c.heaps {
		c.heaps[i].entries = c.heaps[i].entries[:0]
	}
	c.heaps = c.heaps[:0]
	at := make([]int, len(c.inZone)) // heap of a zone, plus one
	c.seed = c.lot(owner)
	for _, k := range c.shape.candidates {
		if !c.fits(k.slot) {
			continue
		}
		// Without an owner there is nothing to spread, so all is one zone.
		zone := int32(0)
		if owner != "" {
			zone = c.view.slots[k.slot].zone
		}
		if at[zone] == 0 {
			c.heaps = grow(c.heaps)
			at[zone] = len(c.heaps)
			c.heaps[len(c.heaps)-1].zone = zone
		}
		h := &c.heaps[at[zone]-1]
		h.entries = append(h.entries, entry{rank: c.rank(k, c.seed), slot: k.slot, missing: k.missing})
	}
	for i := range c.heaps {
		h := &c.heaps[i]
		for j := len(h.entries)/2 - 1; j >= 0; j-- {
			c.down(h, j)
		}
	}
}

// grow lengthens the slice by one and keeps what room an old heap there had.
func grow(heaps []heap) []heap {
	if len(heaps) < cap(heaps) {
		return heaps[:len(heaps)+1]
	}
	return append(heaps, heap{})
}

// pop answers with the best node of the zone that has the fewest Pods of the
// owner, or -1. The node stays on top of its heap until push.
func (c *chooser) pop() int32 {
	best := -1
	for i := range c.heaps {
		h := &c.heaps[i]
		if len(h.entries) == 0 {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		b := &c.heaps[best]
		in, least := c.inZone[h.zone], c.inZone[b.zone]
		if in < least || in == least && c.before(h.entries[0], b.entries[0]) {
			best = i
		}
	}
	c.top = best
	if best < 0 {
		return -1
	}
	return c.heaps[best].entries[0].slot
}

// push ranks the node that pop answered with anew, or drops it when it is full.
func (c *chooser) push(slot int32) {
	h := &c.heaps[c.top]
	if c.fits(slot) {
		e := &h.entries[0]
		e.rank = c.rank(candidate{slot: slot, missing: e.missing}, c.seed)
	} else {
		last := len(h.entries) - 1
		h.entries[0], h.entries = h.entries[last], h.entries[:last]
	}
	c.down(h, 0)
}

func (c *chooser) down(h *heap, i int) {
	e := h.entries
	for {
		least := i
		if l := 2*i + 1; l < len(e) && c.before(e[l], e[least]) {
			least = l
		}
		if r := 2*i + 2; r < len(e) && c.before(e[r], e[least]) {
			least = r
		}
		if least == i {
			return
		}
		e[i], e[least] = e[least], e[i]
		i = least
	}
}
