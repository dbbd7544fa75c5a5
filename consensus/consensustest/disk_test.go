package consensustest

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func place(d *Disk) Place {
	return Place{
		Open: func(t testing.TB) Opened {
			s, err := d.Open()
			if err != nil {
				t.Fatal(err)
			}
			return Opened{s.Log, s.Stable, s.Snapshots, s.Close}
		},
		Kill: func(testing.TB) { d.Kill() },
	}
}

func TestModelledStores(t *testing.T) {
	Suite(t, func(testing.TB) Place { return place(NewDisk(1)) })
}

func TestWhatWasAnsweredOutlivesEveryLossOfPower(t *testing.T) {
	lost, snaps := 0, 0
	for seed := range uint64(500) {
		synctest.Test(t, func(t *testing.T) {
			d := NewDisk(seed)
			to, newest := uint64(0), uint64(0)
			for range 4 {
				if seed%2 == 0 {
					newest = to
				}
				to = loseInFlight(t, d, to, newest)
				lost += d.Lost()
				s := place(d).Open(t)
				metas, err := s.Snapshots.List()
				if err != nil || newest > 0 && (len(metas) == 0 || metas[0].Index < newest) {
					t.Fatalf("seed %d: the snapshot of %d is gone: %v", seed, newest, err)
				}
				for _, m := range metas {
					if _, _, err := s.Snapshots.Open(m.ID); err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
					snaps++
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if lost == 0 || snaps == 0 {
		t.Errorf("%d bytes lost, %d snapshots read: the test shows less than it should", lost, snaps)
	}
}

// loseInFlight stores three more entries and a snapshot of what there is, cuts
// the power while 40 entries and another snapshot are under way, and returns
// where the log ends: with those 40, or without any of them.
func loseInFlight(t *testing.T, d *Disk, to, snapshot uint64) uint64 {
	t.Helper()
	p := place(d)
	s := p.Open(t)
	store(t, s, to+1, to+3)
	to += 3
	if snapshot > 0 {
		if err := begin(t, s, 1, snapshot, fmt.Sprint("snapshot of ", snapshot)).Close(); err != nil {
			t.Fatal(err)
		}
	}
	d.Hang() // what follows is never answered
	answered := make(chan error, 2)
	go func() { answered <- s.Log.StoreLogs(entries(to+1, to+40)) }()
	unfinished := begin(t, s, 1, to+1, fmt.Sprint("snapshot of ", to+1))
	go func() { answered <- unfinished.Close() }()
	synctest.Wait()
	d.PowerLoss()
	d.Heal()
	for range 2 {
		if err := <-answered; !errors.Is(err, ErrDead) {
			t.Fatalf("the dead were answered %v", err)
		}
	}
	s = p.Open(t)
	last, err := s.Log.LastIndex()
	if err != nil || last != to && last != to+40 {
		t.Fatalf("log ends at %d, %v, want %d or all of what was not answered", last, err, to)
	}
	holds(t, s, 1, last)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return last
}

func TestADiskThatLiesAboutSyncsLosesWhatItAnswered(t *testing.T) {
	shorter, torn := 0, 0
	for seed := range uint64(100) {
		d := NewDisk(seed)
		d.Lazy()
		p := place(d)
		s := p.Open(t)
		store(t, s, 1, 30)
		store(t, s, 31, 60)
		if err := begin(t, s, 1, 20, "snapshot of 20").Close(); err != nil {
			t.Fatal(err)
		}
		d.PowerLoss()
		s = p.Open(t)
		if last, err := s.Log.LastIndex(); err != nil || last < 60 {
			shorter++
		}
		metas, err := s.Snapshots.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metas {
			if _, _, err := s.Snapshots.Open(m.ID); err != nil {
				torn++
			}
		}
	}
	if shorter < 50 || torn == 0 {
		t.Errorf("of 100 disks that do not sync %d lost entries and %d tore a snapshot: that would find no bug", shorter, torn)
	}
}

func TestFaultsOfDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDisk(1)
		p := place(d)
		s := p.Open(t)
		if _, err := d.Open(); !errors.Is(err, ErrOpen) {
			t.Errorf("a second process: %v", err)
		}
		d.Slow(500 * time.Millisecond)
		begun := time.Now()
		store(t, s, 1, 2)
		if took := time.Since(begun); took != 500*time.Millisecond {
			t.Errorf("a slow write took %v", took)
		}
		d.Heal()
		for want, fault := range map[error]func(){syscall.ENOSPC: d.Full, syscall.EROFS: d.ReadOnly} {
			fault()
			if err := s.Log.StoreLogs(entries(3, 3)); !errors.Is(err, want) {
				t.Errorf("store: %v, want %v", err, want)
			}
			if err := s.Stable.Set([]byte("a"), nil); !errors.Is(err, want) {
				t.Errorf("set: %v, want %v", err, want)
			}
			_, transport := raft.NewInmemTransport("n1")
			if _, err := s.Snapshots.Create(1, 2, 1, members, 1, transport); !errors.Is(err, want) {
				t.Errorf("snapshot: %v, want %v", err, want)
			}
			holds(t, s, 1, 2)
			d.Heal()
		}
		store(t, s, 3, 3)

		d.Hang()
		stored := make(chan error, 1)
		go func() { stored <- s.Log.StoreLogs(entries(4, 4)) }()
		time.Sleep(time.Hour)
		select {
		case err := <-stored:
			t.Errorf("a disk that hangs answered %v", err)
		default:
		}
		d.Heal()
		if err := <-stored; err != nil {
			t.Error(err)
		}
		holds(t, s, 1, 4)

		old := d.Clone(2)
		store(t, s, 5, 9)
		d.Kill()
		if err := s.Stable.SetUint64([]byte("CurrentTerm"), 9); err != nil {
			t.Errorf("the dead were told %v, and would panic", err)
		}
		s = p.Open(t)
		holds(t, s, 1, 9)
		if v, err := s.Stable.GetUint64([]byte("CurrentTerm")); v != 0 || err != nil {
			t.Errorf("the dead wrote %d (%v)", v, err)
		}
		holds(t, place(old).Open(t), 1, 4)
	})
}

// Goroutines of a process that was killed run on for a while, and raft would
// spin, or panic, if its snapshots were gone.
func TestTheDeadReadWhatWasThere(t *testing.T) {
	d := NewDisk(1)
	stores, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	sink, err := stores.Snapshots.Create(1, 7, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	d.PowerLoss()
	if list, err := stores.Snapshots.List(); err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v, want the snapshot that was there", list, err)
	}
	if _, err := stores.Snapshots.Create(1, 8, 1, raft.Configuration{}, 1, nil); !errors.Is(err, ErrDead) {
		t.Errorf("Create = %v, want ErrDead", err)
	}
}
