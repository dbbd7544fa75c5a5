package state

import (
	"context"
	"iter"
	"time"
)

// partBytes bounds the rows in one Batch, unless a single row is larger.
const partBytes = 256 << 10

// A Batch is one step of a stream: rows that now match its selectors and keys of
// rows that no longer do. All of the same Index belong together: while More is
// set the step is incomplete and must not be shown to anybody.
type Batch struct {
	Index   uint64 // all up to here is told once More is not set
	Epoch   string // the lineage that Index belongs to
	Reset   bool   // drop what you have, the step is a snapshot; on its first part
	More    bool   // the step goes on in the next batch
	Puts    []*Row // in no order
	Deletes []Key
}

// Follow streams the rows that match any of the selectors: what changed since an
// index of an epoch, or a snapshot (Reset) when since is 0, when the epoch is
// another one or when the ring no longer reaches back; then every change. Changes
// of one object that come faster than they are consumed are told as one. The
// first step comes at once, even if it is empty, so that a follower knows that it
// is up to date; later ones may be empty too. If since is ahead of this store, or
// the store has no epoch yet and the follower has one, the stream begins when the
// store has caught up.
//
// The stream ends with an error, the cause of ctx, once ctx ends.
func (s *Store) Follow(ctx context.Context, since uint64, epoch string, selectors []Selector) iter.Seq2[Batch, error] {
	return s.FollowLate(ctx, since, epoch, selectors, func() <-chan time.Time { return now })
}

// now has been for ever.
var now = func() chan time.Time { c := make(chan time.Time); close(c); return c }()

// FollowLate is Follow, but for changes that only Late selectors match: when
// there are some, late is asked, and they are told once its answer delivers, or
// with the next change that others match. What is told is whole all the same:
// the step goes up to its Index.
func (s *Store) FollowLate(ctx context.Context, since uint64, epoch string, selectors []Selector, late func() <-chan time.Time) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		f := &stream{store: s, watch: s.watch(selectors, true)}
		defer f.watch.Close()
		if err := f.resume(ctx, since, epoch); err != nil {
			yield(Batch{}, err)
			return
		}
		for {
			if b, news := f.step(); news && !tellParts(ctx, b, yield) {
				return
			}
			if !f.await(ctx, late) {
				yield(Batch{}, context.Cause(ctx))
				return
			}
		}
	}
}

// await waits until there is something to tell, or for the end of ctx.
func (f *stream) await(ctx context.Context, late func() <-chan time.Time) bool {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-f.watch.C():
			return true
		case <-f.watch.late:
			if due == nil {
				due = late()
			}
		case <-due:
			return true
		}
	}
}

// tellParts reports whether whoever listens wants more.
func tellParts(ctx context.Context, b Batch, yield func(Batch, error) bool) bool {
	for part := range b.parts() {
		if ctx.Err() != nil {
			return true // which Follow will tell
		}
		if !yield(part, nil) {
			return false
		}
	}
	return true
}

// A stream is how far one follower has been told.
type stream struct {
	store *Store
	watch *Watch
	life  uint64 // of the store when at was right
	index uint64 // told last
	at    uint64 // position of the first change not told, 0: begin with a snapshot
	begun bool   // every change from at on has been marked on the watch
}

// resume finds the place after an index, and waits for the store to get there.
func (f *stream) resume(ctx context.Context, since uint64, epoch string) error {
	s := f.store
	for {
		s.mu.RLock()
		index := s.index
		blank := s.epoch == "" && epoch != "" && since > 0 // it has yet to learn what it was
		f.life = s.life
		f.at = 0
		if since > 0 && epoch == s.epoch && since >= s.ring.floor {
			f.at = s.ring.after(since)
		}
		s.mu.RUnlock()
		until := since
		switch {
		case blank:
			until = index + 1
		case f.at == 0 || since <= index:
			return nil
		}
		if err := s.await(ctx, until); err != nil {
			return err
		}
	}
}

// step returns what the follower has not been told and moves on. It reports
// whether that is anything: the first step always is, so is a higher index.
func (f *stream) step() (Batch, bool) {
	s := f.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := Batch{Index: s.index, Epoch: s.epoch}
	at := f.at
	if pending := f.watch.take(); f.begun {
		switch {
		case pending == 0:
			at = s.ring.next() // a lap: nothing in between matters here
		case pending > at:
			at = pending
		}
	}
	if f.at == 0 || f.life != s.life || at < s.ring.first {
		b.Reset = true
		b.Puts = s.collect(f.watch.selectors...)
	} else {
		b.Puts, b.Deletes = merge(s.ring.from(at), f.watch.selectors)
	}
	s.guard.check(b.Puts...)
	news := !f.begun || b.Reset || b.Index > f.index
	f.at, f.life, f.index, f.begun = s.ring.next(), s.life, b.Index, true
	return b, news
}

// merge tells changes as the difference between before the first and after the
// last of each object.
func merge(changes []change, selectors []Selector) (puts []*Row, deletes []Key) {
	var order []change
	place := make(map[Key]int)
	for _, c := range changes {
		if !matchesAny(selectors, c.old) && !matchesAny(selectors, c.row) {
			continue
		}
		key := c.key()
		if i, seen := place[key]; seen {
			order[i].row = c.row
			continue
		}
		place[key] = len(order)
		order = append(order, c)
	}
	for _, c := range order {
		switch {
		case matchesAny(selectors, c.row):
			puts = append(puts, c.row)
		case matchesAny(selectors, c.old):
			deletes = append(deletes, c.key())
		}
	}
	return puts, deletes
}

func (c change) key() Key {
	if c.row != nil {
		return c.row.Key
	}
	return c.old.Key
}

// parts cuts a step into batches of at most partBytes.
func (b Batch) parts() iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		part := Batch{Index: b.Index, Epoch: b.Epoch, Reset: b.Reset}
		size := 0
		room := func(n int) bool { // makes room for n more bytes
			if size += n; size == n || size <= partBytes {
				return true
			}
			part.More = true
			if !yield(part) {
				return false
			}
			part, size = Batch{Index: b.Index, Epoch: b.Epoch}, n
			return true
		}
		for _, key := range b.Deletes {
			if !room(64 + len(key.Kind) + len(key.Namespace) + len(key.Name)) {
				return
			}
			part.Deletes = append(part.Deletes, key)
		}
		for _, row := range b.Puts {
			if !room(row.size()) {
				return
			}
			part.Puts = append(part.Puts, row)
		}
		yield(part)
	}
}

// Whole joins the parts of every step of a stream, so that each batch that it
// gives stands by itself. A step that its stream breaks off is dropped.
func Whole(batches iter.Seq2[Batch, error]) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		var whole Batch
		for part, err := range batches {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if part.Reset {
				whole = Batch{Reset: true}
			}
			whole.Index, whole.Epoch = part.Index, part.Epoch
			whole.Puts = append(whole.Puts, part.Puts...)
			whole.Deletes = append(whole.Deletes, part.Deletes...)
			if part.More {
				continue
			}
			if !yield(whole, nil) {
				return
			}
			whole = Batch{}
		}
	}
}
