package history

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"

	"github.com/skein-dev/skein/consensus/state"
)

// A Stream judges what one follower is told, across as many connections as it
// takes: within one, indexes rise and every change is one; a connection that
// resumes begins where the last one ended, or with a Reset; time goes back only
// by a Reset. It keeps the copy that the follower would have.
type Stream struct {
	rows   map[state.Key]*state.Row
	index  uint64
	epoch  string
	begun  bool
	resets int
	agreed *Agreement
	name   string
}

// NewStream returns one that has been told nothing. Agreed, if not nil, compares
// it with others.
func NewStream(name string, agreed *Agreement) *Stream {
	return &Stream{name: name, rows: map[state.Key]*state.Row{}, agreed: agreed}
}

// Begin says that the follower held these rows before, as of an index of an
// epoch, and compares it with others from now on.
func (s *Stream) Begin(rows []*state.Row, index uint64, epoch string, agreed *Agreement) {
	s.index, s.epoch, s.begun, s.agreed = index, epoch, false, agreed
	clear(s.rows)
	for _, row := range rows {
		s.rows[row.Key] = row
	}
}

// Place is where to resume.
func (s *Stream) Place() (index uint64, epoch string) { return s.index, s.epoch }

// Resets counts how often the stream began anew.
func (s *Stream) Resets() int { return s.resets }

// Resume says that a new connection was made, at Place.
func (s *Stream) Resume() { s.begun = false }

// Told takes one whole step and returns what is wrong with it.
func (s *Stream) Told(b state.Batch) error {
	first := !s.begun
	s.begun = true
	var problems []error
	wrong := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf(s.name+" at "+fmt.Sprint(b.Index)+" after "+fmt.Sprint(s.index)+": "+format, args...))
	}
	switch {
	case b.Reset:
		s.resets++
		clear(s.rows)
	case b.More:
		wrong("only part of a step was told")
	case first && s.index == 0:
		wrong("the beginning is missing")
	case b.Epoch != s.epoch:
		wrong("epoch changed from %q to %q without a reset", s.epoch, b.Epoch)
	case b.Index < s.index:
		wrong("time went back without a reset")
	case !first && b.Index == s.index:
		wrong("the same index was told twice")
	}
	for _, key := range b.Deletes {
		if _, ok := s.rows[key]; !ok {
			wrong("%s was deleted, and was not there", key)
		}
		delete(s.rows, key)
	}
	for _, row := range b.Puts {
		old := s.rows[row.Key]
		switch {
		case row.Version > b.Index:
			wrong("%s has version %d", row.Key, row.Version)
		case !b.Reset && row.Version <= s.index:
			wrong("%s of version %d is told only now", row.Key, row.Version)
		case old != nil && old.Version >= row.Version:
			wrong("%s went from version %d to %d", row.Key, old.Version, row.Version)
		}
		s.rows[row.Key] = row
	}
	s.index, s.epoch = b.Index, b.Epoch
	if s.agreed != nil {
		problems = append(problems, s.agreed.Compare(s.name, s.epoch, s.index, s.rows))
	}
	return errors.Join(problems...)
}

// Equal returns nil if the copy is what a store holds in the end.
func (s *Stream) Equal(rows []*state.Row) error {
	want := map[state.Key]*state.Row{}
	for _, row := range rows {
		want[row.Key] = row
	}
	var problems []error
	for _, key := range slices.SortedFunc(maps.Keys(want), state.Key.Compare) {
		got, ok := s.rows[key]
		if !ok {
			problems = append(problems, fmt.Errorf("%s was never told of %s", s.name, key))
		} else if w := want[key]; got.Version != w.Version || !bytes.Equal(got.Body, w.Body) {
			problems = append(problems, fmt.Errorf("%s has %s of version %d, the store of %d", s.name, key, got.Version, w.Version))
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.rows), state.Key.Compare) {
		if _, ok := want[key]; !ok {
			problems = append(problems, fmt.Errorf("%s still has %s", s.name, key))
		}
	}
	return errors.Join(problems...)
}

// Agreement compares what different stores and followers hold at one index of
// one epoch. It is safe for concurrent use.
type Agreement struct {
	mu   sync.Mutex
	seen map[place]holding
}

type place struct {
	epoch string
	index uint64
}

type holding struct {
	sum  uint64
	name string
}

// NewAgreement returns one that has seen nothing.
func NewAgreement() *Agreement { return &Agreement{seen: map[place]holding{}} }

// Compare returns an error if another held other rows at that index.
func (a *Agreement) Compare(name, epoch string, index uint64, rows map[state.Key]*state.Row) error {
	sum := uint64(0)
	for _, row := range rows { // in any order
		h := fnv.New64a()
		fmt.Fprintf(h, "%q %q %q %d %q", row.Key.Kind, row.Key.Namespace, row.Key.Name, row.Version, row.Body)
		sum += h.Sum64() | 1
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := place{epoch, index}
	have, ok := a.seen[at]
	if !ok {
		a.seen[at] = holding{sum, name}
		return nil
	}
	if have.sum != sum {
		return fmt.Errorf("%s and %s differ at index %d", cmp.Or(name, "somebody"), have.name, index)
	}
	return nil
}

// Places is how many indexes were compared.
func (a *Agreement) Places() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}
