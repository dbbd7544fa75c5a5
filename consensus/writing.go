package consensus

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// refusedAgain is the pause between two attempts at what a disk refuses.
const refusedAgain = 100 * time.Millisecond

// errStopping ends a write that a disk still refuses when the node stops.
var errStopping = errors.New("the node stops, and its disk takes no writes")

// writing watches over what raft writes. It tells when a write hangs, and it
// makes raft wait for a disk that is full, read-only or fails: told of the error, a
// leader would only step down and stand again, and whoever cannot keep a new
// term would end in a panic, with the agent and its heartbeats. A disk that
// refuses is to raft one that hangs.
type writing struct {
	patience time.Duration
	began    func() func(error) // Config.Writes
	stalled  func()             // a write hangs, or is refused
	returned func()             // called by the writer when such a write has ended
	stopping chan struct{}

	mu      sync.Mutex
	hanging int
	stopped bool
}

func newWriting(cfg *Config, stalled, returned func()) *writing {
	return &writing{patience: cfg.StallAfter, began: cfg.Writes, stalled: stalled, returned: returned, stopping: make(chan struct{})}
}

// refuses tells whether a disk may take later what it did not take now. Each
// attempt writes everything anew, so that nothing rests on pages that an earlier
// one has left in the cache and whose sync failed.
func refuses(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// do writes, again and again while the disk refuses.
func (w *writing) do(write func() error) error {
	late := &alarm{writes: w}
	timer := time.AfterFunc(w.patience, late.raise)
	defer late.end()
	defer timer.Stop()
	for attempt := 0; ; attempt++ {
		ended := w.began()
		err := write()
		ended(err)
		if !refuses(err) {
			return err
		}
		if attempt == 0 {
			continue // who was told of the error may have made room
		}
		late.raise()
		pause := time.NewTimer(refusedAgain)
		select {
		case <-pause.C:
		case <-w.stopping:
			pause.Stop()
			return errors.Join(errStopping, err)
		}
	}
}

// stop makes writes that are refused fail from now on.
func (w *writing) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.stopped = true
		close(w.stopping)
	}
}

// hangs reports whether a write hangs, or is refused, right now.
func (w *writing) hangs() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hanging > 0
}

// An alarm is that of one write, raised once at most and never after its end.
type alarm struct {
	writes        *writing
	raised, ended bool // guarded by writes.mu
}

func (a *alarm) raise() {
	a.writes.mu.Lock()
	defer a.writes.mu.Unlock()
	if a.raised || a.ended {
		return
	}
	a.raised = true
	a.writes.hanging++
	a.writes.stalled()
}

func (a *alarm) end() {
	a.writes.mu.Lock()
	a.ended = true
	if a.raised {
		a.writes.hanging--
	}
	a.writes.mu.Unlock()
	if a.raised {
		a.writes.returned()
	}
}

// stable is the store of the term and the vote.
type stable struct {
	raft.StableStore
	writes *writing
}

func (s stable) Set(key, value []byte) error {
	return s.writes.do(func() error { return s.StableStore.Set(key, value) })
}

// SetUint64 lets a node end that cannot keep a term, which the library takes for
// a reason to panic. Nothing follows from a term alone: a vote that cannot be
// kept is not given, an entry that cannot be kept is not acknowledged.
func (s stable) SetUint64(key []byte, value uint64) error {
	err := s.writes.do(func() error { return s.StableStore.SetUint64(key, value) })
	if errors.Is(err, errStopping) && string(key) == string(stableTerm) {
		return nil
	}
	return err
}
