package state

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// Checked makes the store fingerprint every row it takes and compare whenever
// the row is read, followed, replaced or verified. fail is told of each row that
// somebody modified; it may be called with the store locked, so it must not call
// the store. For tests: it costs a hash of the body each time.
func Checked(fail func(problem string)) Option {
	return func(s *Store) { s.guard = &guard{sums: make(map[*Row]uint64), fail: fail} }
}

// Verify compares every row with its fingerprint. It does nothing unless the
// store is Checked.
func (s *Store) Verify() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.guard.check(s.collect(Selector{Kind: AllKinds})...)
}

// A guard finds rows that somebody modified. A nil one finds nothing.
type guard struct {
	sums map[*Row]uint64
	fail func(string)
}

func (g *guard) replaced(old, row *Row) {
	if g == nil {
		return
	}
	if old != nil {
		g.check(old)
		delete(g.sums, old)
	}
	if row != nil {
		g.sums[row] = fingerprint(row)
	}
}

func (g *guard) check(rows ...*Row) {
	if g == nil {
		return
	}
	for _, row := range rows {
		if row == nil {
			continue
		}
		if sum, known := g.sums[row]; known && sum != fingerprint(row) {
			g.fail(fmt.Sprintf("%s at version %d was modified in place: rows are shared, write another", row.Key, row.Version))
		}
	}
}

func (g *guard) reset(rows []*Row) {
	if g == nil {
		return
	}
	clear(g.sums)
	for _, row := range rows {
		g.sums[row] = fingerprint(row)
	}
}

func fingerprint(r *Row) uint64 {
	h := fnv.New64a()
	text := func(s string) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	text(r.Key.Kind)
	text(r.Key.Namespace)
	text(r.Key.Name)
	text(r.UID)
	for _, s := range r.Index {
		text(s)
	}
	text(string(r.Body))
	var version [8]byte
	binary.BigEndian.PutUint64(version[:], r.Version)
	h.Write(version[:])
	return h.Sum64()
}
