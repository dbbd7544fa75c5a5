package reconcile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// start runs the loop in the bubble until the test ends.
func start(t *testing.T, l *Loop) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
}

func TestLoopLooksOnceAtOnceAndThenWhenWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		bell := NewBell()
		start(t, &Loop{Name: "x", Wake: bell.C, Do: func(context.Context) error { looks.Add(1); return nil }})
		synctest.Wait()
		if got := looks.Load(); got != 1 {
			t.Fatalf("looked %d times after start, want 1", got)
		}
		time.Sleep(time.Hour)
		if got := looks.Load(); got != 1 {
			t.Fatalf("looked %d times though nobody rang, want 1", got)
		}
		bell.Ring()
		synctest.Wait()
		if got := looks.Load(); got != 2 {
			t.Errorf("looked %d times after a ring, want 2", got)
		}
	})
}

func TestLoopMissesNoChangeThatFallsIntoDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bell := NewBell()
		var looks atomic.Int32
		start(t, &Loop{Name: "x", Wake: bell.C, Do: func(context.Context) error {
			if looks.Add(1) == 1 {
				bell.Ring() // after Do has read
				bell.Ring()
				bell.Ring()
				time.Sleep(time.Second)
			}
			return nil
		}})
		time.Sleep(2 * time.Second)
		if got := looks.Load(); got != 2 {
			t.Errorf("looked %d times, want 2", got)
		}
	})
}

func TestLoopResyncsWithoutBeingWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		start(t, &Loop{Name: "x", Resync: time.Minute, Do: func(context.Context) error { looks.Add(1); return nil }})
		time.Sleep(10*time.Minute + time.Second)
		if got := looks.Load(); got != 11 {
			t.Errorf("looked %d times in ten minutes, want 11", got)
		}
	})
}

func TestLoopBacksOffHoweverOftenItIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		bell := NewBell()
		start(t, &Loop{Name: "x", Wake: bell.C, Resync: time.Millisecond, Do: func(context.Context) error {
			looks.Add(1)
			return errors.New("no")
		}})
		for range 100 * 60 {
			time.Sleep(10 * time.Millisecond)
			bell.Ring()
		}
		// 50 ms doubling, at least half of each: at most 11 pauses begin within 60 s.
		if got := looks.Load(); got < 8 || got > 14 {
			t.Errorf("looked %d times in a minute of failures, want about 10", got)
		}
	})
}

func TestLoopForgetsFailuresOnceItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		var healthy atomic.Bool
		bell := NewBell()
		start(t, &Loop{Name: "x", Wake: bell.C, Do: func(context.Context) error {
			looks.Add(1)
			if healthy.Load() {
				return nil
			}
			return errors.New("no")
		}})
		time.Sleep(5 * time.Minute)
		healthy.Store(true)
		time.Sleep(LastPause)
		healthy.Store(false)
		bell.Ring()
		synctest.Wait()
		before := looks.Load()
		time.Sleep(FirstPause)
		if got := looks.Load(); got <= before {
			t.Errorf("did not try again within the first pause after a success in between")
		}
	})
}

func TestLoopLooksAgainWhenSomethingFallsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		bell := NewBell()
		start(t, &Loop{Name: "x", Wake: bell.C, Resync: time.Hour, Do: func(context.Context) error {
			looks.Add(1)
			return After(10 * time.Second)
		}})
		time.Sleep(35 * time.Second)
		if got := looks.Load(); got != 4 {
			t.Errorf("looked %d times in 35 s, want 4", got)
		}
		bell.Ring()
		synctest.Wait()
		if got := looks.Load(); got != 5 {
			t.Errorf("a ring did not cut the wait short: %d looks, want 5", got)
		}
	})
}

func TestLoopSaysWhatFailsOnceItIsNoPassingThing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l := &Loop{Name: "nodes", Logger: slog.New(slog.NewTextHandler(&out, nil)), Do: func(context.Context) error {
			return errors.New("disk full")
		}}
		if err := l.Run(ctx); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"loop=nodes", `err="disk full"`, "failures=3"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("log lacks %q:\n%s", want, out.String())
			}
		}
		if strings.Contains(out.String(), "failures=1 ") {
			t.Errorf("log tells the first failure:\n%s", out.String())
		}
	})
}
