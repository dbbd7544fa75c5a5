package place

// names gives small numbers to strings, and takes them back.
type names struct {
	ids  map[string]int32
	uses []int32
	free []int32
}

func newNames() names { return names{ids: map[string]int32{}} }

func (n *names) get(name string) int32 {
	id, ok := n.ids[name]
	if !ok {
		if last := len(n.free) - 1; last >= 0 {
			id, n.free = n.free[last], n.free[:last]
		} else {
			id = int32(len(n.uses))
			n.uses = append(n.uses, 0)
		}
		n.ids[name] = id
	}
	n.uses[id]++
	return id
}

func (n *names) drop(name string) {
	id, ok := n.ids[name]
	if !ok {
		return
	}
	if n.uses[id]--; n.uses[id] == 0 {
		delete(n.ids, name)
		n.free = append(n.free, id)
	}
}

func setBit(bits []uint64, i int32) []uint64 {
	for len(bits) <= int(i/64) {
		bits = append(bits, 0)
	}
	bits[i/64] |= 1 << (i % 64)
	return bits
}

func hasBit(bits []uint64, i int32) bool {
	return i >= 0 && int(i/64) < len(bits) && bits[i/64]&(1<<(i%64)) != 0
}
