package disk

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// What counts as what.
const (
	hangsAfter = 2 * time.Second        // a write that has not come back
	lateAfter  = 250 * time.Millisecond // a write that came back
	soonBefore = 100 * time.Millisecond
	lateWrites = 3 // that make a disk slow
	soonWrites = 5 // in a row that make it a good one again
)

// The kinds of trouble, as keys of Troubles.
const (
	Full     = "full"
	ReadOnly = "read-only"
	Failing  = "failing" // it answers with errors
	Slow     = "slow"    // or does not answer at all
)

// A Write is one that has ended.
type Write struct {
	Took time.Duration
	Err  error
}

// A Look is what can be seen of a disk at one moment.
type Look struct {
	Done     []Write       // since the look before
	Waiting  time.Duration // since the oldest write began that has not ended; 0: there is none
	ReadOnly bool          // mounted so
	Free     uint64        // bytes
	Reserve  uint64        // bytes that the reserve has, 0: it was freed, or never made
	Want     uint64        // bytes that it should have, 0: none is kept here
}

// A State is what is known of a disk. It is a value; Step returns another.
type State struct {
	full, readOnly, hangs, slow bool
	failing                     string
	late, soon                  int // writes in a row, or nearly
}

// Orders are what is to be done now.
type Orders struct {
	Free  bool // the reserve
	Make  bool // the reserve
	Probe bool // write something, to learn how the disk does
}

// Step judges a disk anew. A disk in trouble is probed until it is well: nobody
// else may write to it meanwhile. One that is well never is, so that a machine
// where nothing changes writes nothing.
func Step(s State, now Look) (State, Orders) {
	refusedRoom := false
	for _, w := range now.Done {
		s = s.wrote(w)
		refusedRoom = refusedRoom || noRoom(w.Err)
	}
	waits := now.Waiting >= hangsAfter
	s.hangs = s.hangs || waits
	s.readOnly = s.readOnly || now.ReadOnly
	orders := Orders{Free: s.full && now.Reserve > 0 && refusedRoom}
	switch {
	case orders.Free:
	case now.Want > now.Reserve && !refusedRoom && !s.readOnly && !waits && now.Free >= 2*(now.Want-now.Reserve):
		orders.Make = true
	case now.Reserve >= now.Want && !refusedRoom && len(now.Done) > 0:
		s.full = false // the reserve is whole, and something could be written
	}
	orders.Probe = s.unwell() && !waits && !orders.Make
	return s, orders
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// wrote takes in one write.
func (s State) wrote(w Write) State {
	switch {
	case noRoom(w.Err):
		s.full = true
		return s
	case errors.Is(w.Err, syscall.EROFS):
		s.readOnly = true
		return s
	case w.Err != nil:
		var errno syscall.Errno
		if errors.As(w.Err, &errno) { // else it was not the disk that failed
			s.failing = errno.Error() // the kernel's word, the same for every file
		}
		return s
	}
	s.readOnly, s.failing = false, ""
	s.hangs = s.hangs && w.Took >= hangsAfter // a disk that goes on, and stops again, was not well between
	switch {
	case w.Took >= lateAfter:
		s.late, s.soon = s.late+1, 0
		s.slow = s.slow || s.late >= lateWrites || w.Took >= hangsAfter
	case w.Took < soonBefore:
		s.soon++
		if s.soon >= soonWrites {
			s.slow, s.late, s.soon = false, 0, 0
		}
	default:
		s.soon = 0
	}
	return s
}

func (s State) unwell() bool {
	return s.full || s.readOnly || s.hangs || s.slow || s.failing != ""
}

// troubles says by kind what is wrong. The words stay the same while the trouble
// does: they travel to all who look on.
func (s State) troubles(dir string) map[string]string {
	out := map[string]string{}
	if s.full {
		out[Full] = fmt.Sprintf("the disk of %s is full", dir)
	}
	if s.readOnly {
		out[ReadOnly] = fmt.Sprintf("the disk of %s is read-only", dir)
	}
	if s.failing != "" {
		out[Failing] = fmt.Sprintf("the disk of %s fails: %s", dir, s.failing)
	}
	switch {
	case s.hangs:
		out[Slow] = fmt.Sprintf("the disk of %s hangs: a write has not come back for %s and more", dir, hangsAfter)
	case s.slow:
		out[Slow] = fmt.Sprintf("the disk of %s is slow: writes take %s and more", dir, lateAfter)
	}
	return out
}
