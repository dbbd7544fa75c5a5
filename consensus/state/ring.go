package state

import "sort"

// A change is one object before and after an entry; either may be nil. Both are
// kept so that a row which leaves a selector can be told as a delete.
type change struct {
	index    uint64
	old, row *Row
}

// A ring remembers recent changes, oldest first, as many as fit. Positions count
// changes for ever, from 1.
type ring struct {
	changes []change
	head    int    // changes[:head] are forgotten
	first   uint64 // position of changes[head]
	floor   uint64 // all changes above this index are here
	bytes   int    // that rows kept alive by the ring alone take, about
	max     int
	since   int // bytes pushed since the last lap
}

func newRing(maxBytes int) ring {
	return ring{first: 1, max: maxBytes}
}

// cost counts the old row only: the new one lives in the store, or is the old
// one of a later change.
func (c change) cost() int {
	n := 64
	if c.old != nil {
		n += c.old.size()
	}
	return n
}

// push adds a change and returns its position.
func (r *ring) push(c change) uint64 {
	at := r.next()
	r.changes = append(r.changes, c)
	r.bytes += c.cost()
	r.since += c.cost()
	for r.bytes > r.max && r.head < len(r.changes) {
		r.forget()
	}
	return at
}

func (r *ring) forget() {
	c := r.changes[r.head]
	r.changes[r.head] = change{}
	r.head++
	r.first++
	r.floor = c.index
	r.bytes -= c.cost()
	if r.head > 64 && r.head > len(r.changes)/2 {
		n := copy(r.changes, r.changes[r.head:])
		clear(r.changes[n:])
		r.changes = r.changes[:n]
		r.head = 0
	}
}

// next returns the position that the next change will have.
func (r *ring) next() uint64 {
	return r.first + uint64(len(r.changes)-r.head)
}

// from returns the changes from a position on, which must not be before first.
func (r *ring) from(at uint64) []change {
	return r.changes[r.head+int(at-r.first):]
}

// after returns the position of the first change above an index.
func (r *ring) after(index uint64) uint64 {
	kept := r.changes[r.head:]
	return r.first + uint64(sort.Search(len(kept), func(i int) bool { return kept[i].index > index }))
}

// reset forgets everything; what follows comes after index.
func (r *ring) reset(index uint64) {
	r.first = r.next()
	r.changes, r.head, r.bytes, r.since = nil, 0, 0, 0
	r.floor = index
}

// lap reports, once for each quarter of the ring that went by, that followers
// for whom nothing changed should move on, or the ring would leave them behind.
func (r *ring) lap() bool {
	if r.since < r.max/4 {
		return false
	}
	r.since = 0
	return true
}
