// Package disk watches over the disk that an agent keeps its state on: it tells
// whether it is full, read-only, failing, slow or hangs, by what becomes of the
// agent's own writes, and it keeps a reserve that is given up when there is no
// room left. What follows from it is decided elsewhere.
package disk

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Medium is a disk as far as this package uses it. None of its methods but
// Space may be called by who must not wait.
type Medium interface {
	// Space tells the bytes that are free, and whether the disk is mounted
	// read-only.
	Space() (free uint64, readOnly bool, err error)
	// Probe writes a little and syncs it.
	Probe() error
	// Reserve tells how many bytes the reserve has, and should have.
	Reserve() (have, want uint64)
	MakeReserve() error
	FreeReserve() error
}

const (
	lookEvery  = 10 * time.Second // at a disk that is well
	probeEvery = time.Second      // a disk that is not
	keptWrites = 64               // between two looks, the oldest go first
	farewell   = time.Second      // for a probe that hangs
)

// A Disk is one disk under watch.
type Disk struct {
	dir    string
	medium Medium
	log    *slog.Logger
	woken  chan struct{}

	mu      sync.Mutex
	waiting map[*time.Time]struct{} // when the writes began that have not ended
	done    []Write
	state   State
	told    map[string]string
	changed chan struct{}
}

// New watches a medium that holds a folder; the folder is what people are told.
func New(dir string, medium Medium, log *slog.Logger) *Disk {
	return &Disk{
		dir: dir, medium: medium, log: log.With("component", "disk"),
		woken: make(chan struct{}, 1), waiting: map[*time.Time]struct{}{}, changed: make(chan struct{}),
	}
}

// Write is told that a write begins, and what it returns how it ended. Where
// there was no room the reserve is freed before that returns, so that another
// attempt may succeed.
func (d *Disk) Write() (ended func(error)) {
	begun := time.Now()
	d.mu.Lock()
	d.waiting[&begun] = struct{}{}
	d.mu.Unlock()
	alarm := time.AfterFunc(hangsAfter, d.wake)
	return func(err error) {
		alarm.Stop()
		took := time.Since(begun)
		if have, _ := d.medium.Reserve(); noRoom(err) && have > 0 {
			d.freeReserve()
		}
		d.mu.Lock()
		delete(d.waiting, &begun)
		if len(d.done) == keptWrites {
			d.done = d.done[1:]
		}
		d.done = append(d.done, Write{Took: took, Err: err})
		unwell := d.state.unwell()
		d.mu.Unlock()
		if err != nil || unwell || took >= lateAfter {
			d.wake()
		}
	}
}

// Do writes, and once more if there was no room the first time.
func (d *Disk) Do(write func() error) error {
	ended := d.Write()
	err := write()
	ended(err)
	if noRoom(err) {
		ended = d.Write()
		err = write()
		ended(err)
	}
	return err
}

func (d *Disk) wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

func (d *Disk) freeReserve() {
	if err := d.medium.FreeReserve(); err != nil {
		d.log.Error("the reserve on the disk cannot be freed", "err", err)
		return
	}
	d.log.Warn("the disk is full, its reserve is freed: the agent goes on with it")
}

// Troubles says by kind what is wrong with the disk now. It never waits.
func (d *Disk) Troubles() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.told)
}

// Changed returns a channel that is closed when Troubles will answer
// differently. Take it before asking.
func (d *Disk) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Run watches until ctx ends.
func (d *Disk) Run(ctx context.Context) error {
	var busy chan struct{} // closed when what was begun on the disk has ended; nil: nothing was
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			d.leave(busy)
			return nil
		case <-d.woken:
		case <-busy:
			busy = nil
		case <-timer.C:
		}
		orders, next := d.look(ctx)
		timer.Reset(next)
		if orders.Free {
			d.freeReserve()
		}
		if busy == nil && (orders.Make || orders.Probe) {
			busy = make(chan struct{})
			go d.work(ctx, orders, busy)
		}
	}
}

// leave waits for what was begun, but not for a disk that never answers.
func (d *Disk) leave(busy <-chan struct{}) {
	if busy == nil {
		return
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-busy:
	case <-timer.C:
	}
}

// work does on the disk what may hang, and ends no sooner than the next may
// begin.
func (d *Disk) work(ctx context.Context, orders Orders, done chan<- struct{}) {
	defer close(done)
	pace := time.NewTimer(probeEvery)
	defer pace.Stop()
	if orders.Make {
		if err := d.medium.MakeReserve(); err != nil {
			d.log.Debug("the reserve on the disk cannot be made", "err", err)
		}
	}
	ended := d.Write()
	ended(d.medium.Probe())
	select {
	case <-pace.C:
	case <-ctx.Done():
	}
}

// look takes one look, and says when to take the next.
func (d *Disk) look(ctx context.Context) (Orders, time.Duration) {
	free, readOnly, err := d.medium.Space()
	if err != nil {
		d.log.DebugContext(ctx, "cannot measure the disk", "err", err)
	}
	now := Look{ReadOnly: readOnly, Free: free}
	now.Reserve, now.Want = d.medium.Reserve()

	d.mu.Lock()
	defer d.mu.Unlock()
	for begun := range d.waiting {
		now.Waiting = max(now.Waiting, time.Since(*begun))
	}
	now.Done, d.done = d.done, nil
	var orders Orders
	d.state, orders = Step(d.state, now)
	if told := d.state.troubles(d.dir); !maps.Equal(told, d.told) {
		if len(told) == 0 {
			d.log.InfoContext(ctx, "the disk is well again")
		} else {
			d.log.WarnContext(ctx, "the disk is in trouble", "why", strings.Join(slices.Sorted(maps.Values(told)), "; "))
		}
		d.told = told
		close(d.changed)
		d.changed = make(chan struct{})
	}
	if d.state.unwell() {
		return orders, probeEvery
	}
	return orders, lookEvery
}
