package disk

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const mb = 1 << 20

func TestStep(t *testing.T) {
	good, late := Write{Took: 10 * time.Millisecond}, Write{Took: 500 * time.Millisecond}
	refused := func(errno syscall.Errno) Write { return Write{Err: &errnoError{errno}} }
	roomy := Look{Free: 1000 * mb, Reserve: 64 * mb, Want: 64 * mb}
	look := func(base Look, change func(*Look)) Look { change(&base); return base }
	wrote := func(w ...Write) Look { return look(roomy, func(l *Look) { l.Done = w }) }
	freed := func(free uint64, w ...Write) Look {
		return Look{Free: free, Want: 64 * mb, Done: w}
	}
	tests := map[string]struct {
		looks  []Look
		want   []string // kinds of trouble
		orders Orders   // of the last look
	}{
		"a disk nobody writes to is left alone": {looks: []Look{roomy, roomy}},
		"one that is used and well too":         {looks: []Look{wrote(good), wrote(good)}},
		"the reserve is made when it can be":    {looks: []Look{freed(200 * mb)}, orders: Orders{Make: true}},
		"but not of the last room":              {looks: []Look{freed(100 * mb)}},
		"no room frees the reserve": {
			looks: []Look{wrote(good, refused(syscall.ENOSPC))},
			want:  []string{Full}, orders: Orders{Free: true, Probe: true},
		},
		"a quota is a disk too": {
			looks: []Look{wrote(refused(syscall.EDQUOT))},
			want:  []string{Full}, orders: Orders{Free: true, Probe: true},
		},
		"the reserve alone is no room": {
			looks: []Look{wrote(refused(syscall.ENOSPC)), freed(64*mb, good)},
			want:  []string{Full}, orders: Orders{Probe: true},
		},
		"room is back, and the reserve made again": {
			looks: []Look{wrote(refused(syscall.ENOSPC)), freed(300*mb, good)},
			want:  []string{Full}, orders: Orders{Make: true},
		},
		"with it all is well": {looks: []Look{wrote(refused(syscall.ENOSPC)), freed(300*mb, good), wrote(good)}},
		"read-only by its mount": {
			looks: []Look{look(roomy, func(l *Look) { l.ReadOnly = true })},
			want:  []string{ReadOnly}, orders: Orders{Probe: true},
		},
		"read-only by its answer": {
			looks: []Look{wrote(refused(syscall.EROFS))},
			want:  []string{ReadOnly}, orders: Orders{Probe: true},
		},
		"read-only until something was written": {
			looks: []Look{wrote(refused(syscall.EROFS)), roomy},
			want:  []string{ReadOnly}, orders: Orders{Probe: true},
		},
		"writable again": {looks: []Look{wrote(refused(syscall.EROFS)), wrote(good)}},
		"a disk that fails": {
			looks: []Look{wrote(refused(syscall.EIO))},
			want:  []string{Failing}, orders: Orders{Probe: true},
		},
		"a write that takes its time is none that hangs": {
			looks: []Look{look(roomy, func(l *Look) { l.Waiting = 1900 * time.Millisecond })},
		},
		"a write that hangs": {
			looks: []Look{look(roomy, func(l *Look) { l.Waiting = 2 * time.Second })},
			want:  []string{Slow},
		},
		"a disk that hung has to show that it is well": {
			looks: []Look{look(roomy, func(l *Look) { l.Waiting = 9 * time.Second }), wrote(Write{Took: 9 * time.Second})},
			want:  []string{Slow}, orders: Orders{Probe: true},
		},
		"two late writes are none":      {looks: []Look{wrote(late, good, late, good)}},
		"three are":                     {looks: []Look{wrote(late), wrote(good, late), wrote(late)}, want: []string{Slow}, orders: Orders{Probe: true}},
		"four prompt ones prove little": {looks: []Look{wrote(late, late, late, good, good, good, good)}, want: []string{Slow}, orders: Orders{Probe: true}},
		"five do":                       {looks: []Look{wrote(late, late, late), wrote(good, good, good, good, good)}},
		"late ones long ago do not add up": {
			looks: []Look{wrote(late, late, good, good, good, good, good, late)},
		},
		"without a reserve a write is proof enough": {
			looks: []Look{{Free: mb, Done: []Write{refused(syscall.ENOSPC)}}, {Free: mb, Done: []Write{good}}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var s State
			var orders Orders
			for _, l := range tt.looks {
				s, orders = Step(s, l)
			}
			got := slices.Sorted(maps.Keys(s.troubles("/data")))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("troubles (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.orders, orders); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
		})
	}
}

type errnoError struct{ errno syscall.Errno }

func (e *errnoError) Error() string { return "write somewhere: " + e.errno.Error() }
func (e *errnoError) Unwrap() error { return e.errno }

// A fake disk.
type fake struct {
	mu       sync.Mutex
	free     uint64
	readOnly bool
	err      error
	delay    time.Duration
	hold     chan struct{}
	have     uint64
	probes   int
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) Space() (uint64, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.free, f.readOnly, nil
}

func (f *fake) Probe() error {
	f.mu.Lock()
	f.probes++
	delay, hold := f.delay, f.hold
	f.mu.Unlock()
	time.Sleep(delay)
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.readOnly:
		return syscall.EROFS
	case f.free == 0:
		return syscall.ENOSPC
	}
	return f.err
}

func (f *fake) Reserve() (uint64, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have, 64 * mb
}

func (f *fake) MakeReserve() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.free < 64*mb {
		return syscall.ENOSPC
	}
	f.have, f.free = 64*mb, f.free-64*mb
	return nil
}

func (f *fake) FreeReserve() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free += f.have
	f.have = 0
	return nil
}

func inBubble(t *testing.T, f *fake, test func(*testing.T, *Disk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := New("/data", f, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		test(t, d)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func within(t *testing.T, d *Disk, limit time.Duration, want ...string) {
	t.Helper()
	deadline := time.After(limit)
	for {
		changed := d.Changed()
		got := slices.Sorted(maps.Keys(d.Troubles()))
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("after %v: troubles %v, want %v", limit, got, want)
		}
	}
}

func TestAFullDiskGivesItsReserveAndTakesItBack(t *testing.T) {
	f := &fake{free: 1000 * mb}
	inBubble(t, f, func(t *testing.T, d *Disk) {
		time.Sleep(time.Minute)
		if have, want := f.Reserve(); have != want {
			t.Fatalf("the reserve has %d bytes, want %d", have, want)
		}
		f.set(func() { f.free = 0 }) // others have taken it all
		attempts := 0
		err := d.Do(func() error {
			attempts++
			if free, _, _ := f.Space(); free == 0 {
				return syscall.ENOSPC
			}
			return nil
		})
		if err != nil || attempts != 2 {
			t.Errorf("%d attempts, %v: want a second one that succeeds", attempts, err)
		}
		within(t, d, time.Second, Full)
		time.Sleep(time.Minute)
		within(t, d, 0, Full)
		f.set(func() { f.free = 500 * mb })
		within(t, d, 5*time.Second)
		if have, want := f.Reserve(); have != want {
			t.Errorf("the reserve has %d bytes again, want %d", have, want)
		}
	})
}

func TestADiskThatHangsIsToldAndHoldsNobodyUp(t *testing.T) {
	f := &fake{free: 1000 * mb}
	inBubble(t, f, func(t *testing.T, d *Disk) {
		hold := make(chan struct{})
		time.Sleep(time.Minute)
		ended := d.Write()
		within(t, d, hangsAfter+time.Second, Slow)
		time.Sleep(time.Minute)
		f.set(func() { f.hold = hold })
		ended(nil) // this one came back, and what comes next hangs again
		time.Sleep(time.Minute)
		within(t, d, 0, Slow)
		f.set(func() { f.hold = nil })
		close(hold)
		within(t, d, 20*time.Second)
	})
}

func TestAnEndDoesNotWaitForADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{free: 1000 * mb, have: 64 * mb, readOnly: true, hold: make(chan struct{})}
		d := New("/data", f, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		begin := time.Now()
		if err := <-ended; err != nil || time.Since(begin) > farewell {
			t.Errorf("ended after %v: %v", time.Since(begin), err)
		}
		close(f.hold)
	})
}

func TestADiskThatIsWellIsNotWrittenTo(t *testing.T) {
	f := &fake{free: 1000 * mb, have: 64 * mb}
	inBubble(t, f, func(t *testing.T, d *Disk) {
		time.Sleep(time.Hour)
		for range 100 {
			if err := d.Do(func() error { return nil }); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Hour)
		if f.probes != 0 {
			t.Errorf("%d probes of a disk in no trouble", f.probes)
		}
		if err := d.Do(func() error { return errors.New("not the disk's fault") }); err == nil || f.probes != 0 {
			t.Errorf("%v, and %d probes", err, f.probes)
		}
	})
}

func TestADiskFailsUntilSomethingCanBeWritten(t *testing.T) {
	f := &fake{free: 1000 * mb, have: 64 * mb, err: syscall.EIO}
	inBubble(t, f, func(t *testing.T, d *Disk) {
		if err := d.Do(f.Probe); !errors.Is(err, syscall.EIO) {
			t.Errorf("got %v", err)
		}
		within(t, d, time.Second, Failing)
		time.Sleep(time.Minute)
		within(t, d, 0, Failing)
		f.set(func() { f.err = nil })
		within(t, d, 5*time.Second)
	})
}

func TestASlowDiskIsSlowUntilItIsNot(t *testing.T) {
	f := &fake{free: 1000 * mb, have: 64 * mb, delay: 500 * time.Millisecond}
	inBubble(t, f, func(t *testing.T, d *Disk) {
		for range 3 {
			if err := d.Do(f.Probe); err != nil {
				t.Error(err)
			}
		}
		within(t, d, time.Second, Slow)
		time.Sleep(time.Minute)
		within(t, d, 0, Slow)
		f.set(func() { f.delay = 0 })
		within(t, d, 10*time.Second)
	})
}

func TestAFolderKeepsItsReserve(t *testing.T) {
	dir := t.TempDir()
	m, err := Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, readOnly, err := m.Space()
	if err != nil || readOnly {
		t.Fatalf("read-only %v, %v", readOnly, err)
	}
	if err := m.Probe(); err != nil {
		t.Fatal(err)
	}
	_, want := m.Reserve()
	if want == 0 {
		t.Logf("%s lies in memory, where no reserve is kept", dir)
		return
	}
	if err := m.MakeReserve(); err != nil {
		t.Fatal(err)
	}
	again, err := Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if have, _ := again.Reserve(); have != want {
		t.Errorf("after a restart the reserve has %d bytes, want %d", have, want)
	}
	if after, _, err := m.Space(); err != nil || after+want/2 > before {
		t.Errorf("%d bytes are free after %d of %d were reserved (%v)", after, want, before, err)
	}
	if err := again.FreeReserve(); err != nil {
		t.Error(err)
	}
	if have, _ := again.Reserve(); have != 0 {
		t.Errorf("the reserve has %d bytes although it was freed", have)
	}
}
