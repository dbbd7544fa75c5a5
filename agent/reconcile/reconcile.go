// Package reconcile owns the loop that level-triggered reconcilers run in: look
// at everything, act on the difference, sleep until told to look again. What to
// look at, and what to do about it, it leaves to those who own the loops.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Bounds of the pause after a failure. It doubles from the first to the last,
// and half of it is drawn by lot, so that loops which failed together do not
// try again together.
const (
	FirstPause = 50 * time.Millisecond
	LastPause  = 30 * time.Second
)

// A Loop drives one reconciler. Wake says only "look again", so wake-ups may be
// merged, repeated or spurious without harm, and Resync repairs whatever a lost
// one would have left behind.
type Loop struct {
	Name   string
	Wake   func() <-chan struct{} // taken before Do reads, so no change falls between; nil: never woken
	Resync time.Duration          // look again after this long at the latest; 0: only when woken
	// Do is idempotent; a failure is retried, with back-off and jitter. An
	// error made by After is no failure.
	Do func(context.Context) error
	// Logger hears of failures; nil for nobody.
	Logger *slog.Logger
}

// Run looks once at once and then whenever it is time to, until ctx ends. It
// always returns nil: no failure of Do is the end of the loop.
func (l *Loop) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for ctx.Err() == nil {
		var wake <-chan struct{}
		if l.Wake != nil {
			wake = l.Wake()
		}
		err := l.Do(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait, failed := l.Resync, false
		later, due := err.(*laterError) //nolint:errorlint // one that is joined to a failure is a failure
		switch {
		case due:
			if wait == 0 || later.in < wait {
				wait = max(later.in, time.Nanosecond)
			}
		case err != nil:
			failures++
			failed = true
			wait, wake = pause(failures), nil // busy as the store may be
		}
		if !failed {
			failures = 0
		}
		l.report(ctx, err, failed, failures, wait)
		if !sleep(ctx, timer, wait, wake) {
			return nil
		}
	}
	return nil
}

func (l *Loop) report(ctx context.Context, err error, failed bool, failures int, wait time.Duration) {
	if !failed || l.Logger == nil {
		return
	}
	level := slog.LevelDebug // the first failures are mostly a conflict that the next look resolves
	if failures > 2 {
		level = slog.LevelWarn
	}
	l.Logger.Log(ctx, level, "reconciler failed and tries again", "loop", l.Name, "failures", failures, "wait", wait, "err", err)
}

// sleep waits for the first of wake and wait (0 for ever). It answers false
// when ctx has ended.
func sleep(ctx context.Context, timer *time.Timer, wait time.Duration, wake <-chan struct{}) bool {
	var expired <-chan time.Time
	if wait > 0 {
		timer.Reset(wait)
		expired = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-expired:
	}
	return true
}

// pause is how long to wait after so many failures in a row, the first being 1.
func pause(failures int) time.Duration {
	p := LastPause
	if failures < 16 {
		p = min(FirstPause<<(failures-1), LastPause)
	}
	return p/2 + rand.N(p/2+1)
}

type laterError struct{ in time.Duration }

func (e *laterError) Error() string { return fmt.Sprintf("look again in %s", e.in) }

// After lets Do say that something falls due in d: the loop looks again then,
// or earlier when woken.
func After(d time.Duration) error { return &laterError{in: d} }

// A Bell wakes loops. Its zero value does not work; see NewBell.
type Bell struct{ c chan struct{} }

// NewBell returns a bell that nobody has rung.
func NewBell() Bell { return Bell{c: make(chan struct{}, 1)} }

// Ring wakes whoever waits on C, or the next who does. It never blocks; rings
// that nobody has heard yet are one.
func (b Bell) Ring() {
	select {
	case b.c <- struct{}{}:
	default:
	}
}

// C is for one listener.
func (b Bell) C() <-chan struct{} { return b.c }
