package state

import (
	"bytes"
	"slices"
)

// ApplyBatch makes this store a copy of what a stream tells: b must be a whole
// step (see Whole) of the stream that the store follows, and its rows are shared
// with whoever made them. It reports whether any row, or the epoch, is now
// another.
//
// A Reset changes only the rows that differ, so that those who watch the copy
// are not woken by what stayed as it was, unless the copy belongs to another
// lineage or goes back in time.
func (s *Store) ApplyBatch(b Batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	if b.Epoch != s.epoch || b.Index < s.index {
		changed = b.Epoch != s.epoch
		s.epoch = b.Epoch
		s.index = b.Index
		s.ring.reset(b.Index)
		s.startLife()
	}
	if b.Reset {
		keep := make(map[Key]struct{}, len(b.Puts))
		for _, row := range b.Puts {
			keep[row.Key] = struct{}{}
		}
		for _, row := range s.collect(Selector{Kind: AllKinds}) {
			if _, ok := keep[row.Key]; !ok {
				s.delete(b.Index, row.Key)
				changed = true
			}
		}
	}
	for _, key := range b.Deletes {
		if s.row(key) != nil {
			s.delete(b.Index, key)
			changed = true
		}
	}
	for _, row := range b.Puts {
		if same(s.row(row.Key), row) {
			continue
		}
		s.put(b.Index, row)
		changed = true
	}
	s.reach(b.Index)
	return changed
}

// same reports whether two rows say the same. Versions alone would not do: in
// another lineage they mean something else.
func same(a, b *Row) bool {
	return a == b || a != nil && a.Version == b.Version && a.UID == b.UID &&
		slices.Equal(a.Index, b.Index) && bytes.Equal(a.Body, b.Body)
}
