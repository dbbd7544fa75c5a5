package state

import (
	"context"
	"slices"
)

// A View reads the store at one moment. It is valid only inside the function
// that Read gave it to, which must not call the store itself.
type View struct{ store *Store }

// Read calls look with a view of the store that does not change meanwhile. No
// write happens until look returns, so look must be quick and must not block.
func (s *Store) Read(look func(View)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	look(View{store: s})
}

// Index returns the index of the last entry applied.
func (v View) Index() uint64 { return v.store.index }

// Epoch returns the lineage that Index belongs to, "" before the first entry.
func (v View) Epoch() string { return v.store.epoch }

// Get returns the row of a key.
func (v View) Get(key Key) (*Row, bool) {
	row := v.store.row(key)
	v.store.guard.check(row)
	return row, row != nil
}

// List returns the rows of a kind, sorted by namespace and name. An empty
// namespace or index means all; AllKinds every kind, sorted by kind first.
func (v View) List(kind, namespace, index string) []*Row {
	rows := v.store.collect(Selector{Kind: kind, Namespace: namespace, Index: index})
	slices.SortFunc(rows, func(a, b *Row) int { return a.Key.Compare(b.Key) })
	v.store.guard.check(rows...)
	return rows
}

// Count returns how many rows List would.
func (v View) Count(kind, namespace, index string) int {
	t := v.store.tables[kind]
	switch {
	case t == nil && kind != AllKinds:
		return 0
	case t != nil && namespace == "" && index == "":
		return len(t.rows)
	case t != nil && namespace == "":
		return len(t.index[index])
	default:
		return len(v.store.collect(Selector{Kind: kind, Namespace: namespace, Index: index}))
	}
}

// Index returns the index of the last entry applied.
func (s *Store) Index() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index
}

// Epoch returns the random id of the lineage that Index belongs to, "" before
// the first entry.
func (s *Store) Epoch() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.epoch
}

// Get returns the row of a key.
func (s *Store) Get(key Key) (row *Row, ok bool) {
	s.Read(func(v View) { row, ok = v.Get(key) })
	return row, ok
}

// List is View.List at this moment.
func (s *Store) List(kind, namespace, index string) (rows []*Row) {
	s.mu.RLock()
	rows = s.collect(Selector{Kind: kind, Namespace: namespace, Index: index})
	s.guard.check(rows...)
	s.mu.RUnlock() // sorting needs no lock: rows are immutable
	slices.SortFunc(rows, func(a, b *Row) int { return a.Key.Compare(b.Key) })
	return rows
}

func (s *Store) row(key Key) *Row {
	return s.tables[key.Kind].get(key.Namespace, key.Name)
}

// collect returns the rows that match any of the selectors, each once, in no
// order.
func (s *Store) collect(selectors ...Selector) []*Row {
	var rows []*Row
	for i, sel := range selectors {
		from := len(rows)
		if sel.Kind == AllKinds {
			for _, t := range s.tables {
				rows = t.collect(rows, sel.Namespace, sel.Index)
			}
		} else {
			rows = s.tables[sel.Kind].collect(rows, sel.Namespace, sel.Index)
		}
		if i > 0 {
			fresh := slices.DeleteFunc(rows[from:], func(r *Row) bool { return matchesAny(selectors[:i], r) })
			rows = rows[:from+len(fresh)]
		}
	}
	return rows
}

type wait struct {
	index uint64
	done  chan struct{}
}

// Wait returns once the entry at index is applied here, or when ctx ends with
// its cause.
func (s *Store) Wait(ctx context.Context, index uint64) error {
	for s.Index() < index {
		if err := s.await(ctx, index); err != nil {
			return err
		}
	}
	return nil
}

// await returns once the entry at index is applied or every stream was broken.
func (s *Store) await(ctx context.Context, index uint64) error {
	s.mu.Lock()
	if s.index >= index {
		s.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	s.waits = append(s.waits, wait{index: index, done: done})
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waits = slices.DeleteFunc(s.waits, func(w wait) bool { return w.done == done })
		return context.Cause(ctx)
	}
}

// releaseWaits ends the waits for entries up to index.
func (s *Store) releaseWaits(index uint64) {
	if len(s.waits) == 0 {
		return
	}
	s.waits = slices.DeleteFunc(s.waits, func(w wait) bool {
		if w.index > index {
			return false
		}
		close(w.done)
		return true
	})
}
