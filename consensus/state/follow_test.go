package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// told is a batch as tests compare it.
type told struct {
	Index         uint64
	Reset, More   bool
	Puts, Deletes []string
}

func tell(b Batch) told {
	t := told{Index: b.Index, Reset: b.Reset, More: b.More}
	if len(b.Puts) > 0 {
		t.Puts = keys(b.Puts)
	}
	for _, key := range b.Deletes {
		t.Deletes = append(t.Deletes, key.String())
	}
	return t
}

// listen follows in the background and returns what it has been told since last
// asked. It must be called in a bubble.
func listen(t *testing.T, s *Store, since uint64, epoch string, selectors ...Selector) func() []told {
	ctx, stop := context.WithCancel(t.Context())
	var heard []told
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b, err := range s.Follow(ctx, since, epoch, selectors) {
			if err != nil {
				return
			}
			heard = append(heard, tell(b))
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return func() []told {
		synctest.Wait()
		h := heard
		heard = nil
		return h
	}
}

func expect(t *testing.T, what string, got []told, want ...told) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestFollowTellsWhatEntersAndLeavesASelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checked(t)
		_ = s.Apply(1, txn(put(pod("a"), "", "node=n1"), put(pod("b"), "", "node=n2")))
		heard := listen(t, s, 0, "", Selector{Kind: "Pod", Index: "node=n1"})
		expect(t, "snapshot", heard(), told{Index: 1, Reset: true, Puts: []string{"Pod default/a"}})

		_ = s.Apply(2, txn(put(pod("b"), "", "node=n1")))
		expect(t, "row that enters", heard(), told{Index: 2, Puts: []string{"Pod default/b"}})
		_ = s.Apply(3, txn(put(pod("a"), "", "node=n2")))
		expect(t, "row that leaves", heard(), told{Index: 3, Deletes: []string{"Pod default/a"}})
		_ = s.Apply(4, txn(put(pod("a"), "2", "node=n2")))
		expect(t, "row of somebody else", heard())
		_ = s.Apply(5, txn(del(pod("b"))))
		expect(t, "row deleted", heard(), told{Index: 5, Deletes: []string{"Pod default/b"}})
	})
}

func TestFollowResumesOrResets(t *testing.T) {
	entries := func(t *testing.T) *Store {
		s := checked(t)
		s.ApplyEntry(1, &logv1.Entry{Epoch: "e", Txns: []*logv1.Txn{txn(put(pod("a"), "1"))}})
		_ = s.Apply(2, txn(put(pod("b"), "1")))
		_ = s.Apply(3, txn(put(pod("a"), "2")))
		_ = s.Apply(4, txn(del(pod("b"))))
		return s
	}
	tests := map[string]struct {
		since uint64
		epoch string
		want  told
	}{
		"nothing missed":          {4, "e", told{Index: 4}},
		"some missed":             {2, "e", told{Index: 4, Puts: []string{"Pod default/a"}, Deletes: []string{"Pod default/b"}}},
		"born and died meanwhile": {1, "e", told{Index: 4, Puts: []string{"Pod default/a"}}},
		"new here":                {0, "", told{Index: 4, Reset: true, Puts: []string{"Pod default/a"}}},
		"from another cluster":    {4, "other", told{Index: 4, Reset: true, Puts: []string{"Pod default/a"}}},
		"from before epochs":      {4, "", told{Index: 4, Reset: true, Puts: []string{"Pod default/a"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				heard := listen(t, entries(t), tt.since, tt.epoch, Selector{Kind: "Pod"})
				expect(t, "first step", heard(), tt.want)
			})
		})
	}
}

func TestFollowWaitsForAStoreThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checked(t)
		_ = s.Apply(1, txn(put(pod("a"), "1")))
		heard := listen(t, s, 3, "", Selector{Kind: "Pod"})
		expect(t, "at index 1", heard())
		_ = s.Apply(2, txn(put(pod("b"), "1")))
		expect(t, "at index 2", heard())
		_ = s.Apply(3, txn(put(pod("c"), "1")))
		expect(t, "at index 3", heard(), told{Index: 3})
		_ = s.Apply(4, txn(put(pod("d"), "1")))
		expect(t, "at index 4", heard(), told{Index: 4, Puts: []string{"Pod default/d"}})
	})
}

func TestFollowResetsWhenTheRingHasMovedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checked(t, RingBytes(4<<10))
		for i := range uint64(100) {
			_ = s.Apply(i+1, txn(put(pod("a"), strings.Repeat("x", 100))))
		}
		heard := listen(t, s, 3, "", Selector{Kind: "Pod"})
		expect(t, "long away", heard(), told{Index: 100, Reset: true, Puts: []string{"Pod default/a"}})
		heard = listen(t, s, 95, "", Selector{Kind: "Pod"})
		expect(t, "shortly away", heard(), told{Index: 100, Puts: []string{"Pod default/a"}})
	})
}

func TestFollowersKeepUpWithARingFullOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checked(t, RingBytes(4<<10))
		heard := listen(t, s, 0, "", Selector{Kind: "Node"})
		heard()
		var last uint64
		for i := range uint64(200) {
			_ = s.Apply(i+1, txn(put(pod("a"), strings.Repeat("x", 100))))
			for _, b := range heard() {
				if b.Reset || len(b.Puts) > 0 {
					t.Fatalf("told %+v, want empty steps", b)
				}
				last = b.Index
			}
		}
		if last < 180 {
			t.Errorf("last told of index %d of 200: a resume from there would need a reset", last)
		}
	})
}

func TestRestoreAndNewEpochsResetStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checked(t)
		_ = s.Apply(1, txn(put(pod("a"), "1")))
		saved := dump(t, s)
		_ = s.Apply(2, txn(put(pod("b"), "1")))
		heard := listen(t, s, 0, "", Selector{Kind: "Pod"})
		watch := s.Changed(Selector{Kind: "Job"})
		defer watch.Close()
		heard()
		if err := s.Restore(bytes.NewReader(saved)); err != nil {
			t.Fatal(err)
		}
		expect(t, "after restore", heard(), told{Index: 1, Reset: true, Puts: []string{"Pod default/a"}})
		select {
		case <-watch.C():
		default:
			t.Error("a watch slept through a restore")
		}
		s.ApplyEntry(2, &logv1.Entry{Epoch: "new"})
		expect(t, "after a new epoch", heard(), told{Index: 2, Reset: true, Puts: []string{"Pod default/a"}})
	})
}

func TestSnapshotsComeInParts(t *testing.T) {
	s := checked(t)
	body := strings.Repeat("x", 100<<10)
	for i := range uint64(10) {
		_ = s.Apply(i+1, txn(put(pod(fmt.Sprint("p", i)), body)))
	}
	_ = s.Apply(11, txn(put(pod("big"), strings.Repeat("x", 1<<20))))
	rows, parts := 0, 0
	for b, err := range s.Follow(t.Context(), 0, "", []Selector{{Kind: "Pod"}}) {
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, row := range b.Puts {
			size += len(row.Body)
		}
		if size > partBytes && len(b.Puts) > 1 {
			t.Errorf("part of %d bytes, at most %d are wanted", size, partBytes)
		}
		if b.Reset != (parts == 0) {
			t.Errorf("part %d has Reset %v", parts, b.Reset)
		}
		parts++
		if rows += len(b.Puts); !b.More {
			break
		}
	}
	if rows != 11 || parts < 5 {
		t.Errorf("%d rows in %d parts, want 11 in at least 5", rows, parts)
	}
	whole := New()
	catchUp(t, whole, s, Selector{Kind: "Pod"})
	if !bytes.Equal(dump(t, whole), dump(t, s)) {
		t.Error("parts do not add up to the store")
	}
}

func TestFollowEndsWithTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := New()
		end := make(chan error, 1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, err := range s.Follow(ctx, 0, "", []Selector{{Kind: "Pod"}}) {
				if err != nil {
					end <- err
				}
			}
		}()
		synctest.Wait()
		cancel(cause)
		if err := <-end; !errors.Is(err, cause) {
			t.Errorf("stream ended with %v, want %v", err, cause)
		}
		<-done
		if len(s.watches) != 0 {
			t.Errorf("%d kinds are still watched", len(s.watches))
		}
	})
}

func TestWatchesWakeForWhatTheySelect(t *testing.T) {
	tests := map[string]struct {
		sels []Selector
		txn  *logv1.Txn
		want bool
	}{
		"kind":                        {[]Selector{{Kind: "Pod"}}, txn(put(pod("b"), "")), true},
		"other kind":                  {[]Selector{{Kind: "Node"}}, txn(put(pod("b"), "")), false},
		"every kind":                  {[]Selector{{Kind: AllKinds}}, txn(put(pod("b"), "")), true},
		"namespace":                   {[]Selector{{Kind: "Pod", Namespace: "default"}}, txn(put(pod("b"), "")), true},
		"other namespace":             {[]Selector{{Kind: "Pod", Namespace: "other"}}, txn(put(pod("b"), "")), false},
		"index":                       {[]Selector{{Kind: "Pod", Index: "node=n2"}}, txn(put(pod("b"), "", "node=n2")), true},
		"other index":                 {[]Selector{{Kind: "Pod", Index: "node=n2"}}, txn(put(pod("b"), "", "node=n1")), false},
		"index that the row left":     {[]Selector{{Kind: "Pod", Index: "node=n1"}}, txn(put(pod("a"), "", "node=n2")), true},
		"index of a deleted row":      {[]Selector{{Kind: "Pod", Index: "node=n1"}}, txn(del(pod("a"))), true},
		"index in a namespace":        {[]Selector{{Kind: "Pod", Namespace: "default", Index: "node=n1"}}, txn(del(pod("a"))), true},
		"index in another namespace":  {[]Selector{{Kind: "Pod", Namespace: "other", Index: "node=n1"}}, txn(del(pod("a"))), false},
		"second selector":             {[]Selector{{Kind: "Node"}, {Kind: "Pod"}}, txn(del(pod("a"))), true},
		"nothing deleted":             {[]Selector{{Kind: "Pod"}}, txn(del(pod("b"))), false},
		"transaction that is refused": {[]Selector{{Kind: "Pod"}}, txn(at(9, put(pod("a"), ""))), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := checked(t)
			_ = s.Apply(1, txn(put(pod("a"), "", "node=n1")))
			w := s.Changed(tt.sels...)
			_ = s.Apply(2, tt.txn)
			if got := len(w.C()) == 1; got != tt.want {
				t.Errorf("woken: %v, want %v", got, tt.want)
			}
			if w.Close(); len(s.watches) != 0 {
				t.Errorf("%d kinds are still watched", len(s.watches))
			}
		})
	}
}

func TestWaitReturnsWhenTheIndexIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		reached := make(chan error, 3)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { reached <- s.Wait(t.Context(), 2) }()
		go func() { reached <- s.Wait(ctx, 9) }()
		_ = s.Apply(1, txn())
		if synctest.Wait(); len(reached) != 0 {
			t.Fatal("returned before its index")
		}
		_ = s.Apply(2, txn())
		if err := <-reached; err != nil {
			t.Error(err)
		}
		s.ApplyEntry(3, &logv1.Entry{Epoch: "new"}) // must not end the other wait
		if synctest.Wait(); len(reached) != 0 {
			t.Fatal("returned before its index")
		}
		cancel()
		if err := <-reached; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if len(s.waits) != 0 {
			t.Errorf("%d waits are left", len(s.waits))
		}
	})
}

// A follower that forgot where it was may be fed by a store that is behind. Who
// follows the follower must hear of it.
func TestACopyGoesBackInTimeWithItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checked(t)
		s.ApplyBatch(Batch{Index: 10, Epoch: "e", Reset: true, Puts: []*Row{{Key: pod("a"), Version: 10}}})
		heard := listen(t, s, 0, "", Selector{Kind: "Pod"})
		expect(t, "before", heard(), told{Index: 10, Reset: true, Puts: []string{"Pod default/a"}})
		s.ApplyBatch(Batch{Index: 5, Epoch: "e", Reset: true, Puts: []*Row{{Key: pod("b"), Version: 5}}})
		expect(t, "after", heard(), told{Index: 5, Reset: true, Puts: []string{"Pod default/b"}})
	})
}

func TestLateChangesAreToldWithTheNextOrInTheirTime(t *testing.T) {
	s := checked(t)
	apply := func(index uint64, key Key) {
		t.Helper()
		if err := s.Apply(index, txn(put(key, "{}"))); err != nil {
			t.Fatal(err)
		}
	}
	node := func(name string) Key { return Key{Kind: "Node", Name: name} }
	apply(1, pod("a"))
	asked, due := make(chan struct{}, 8), make(chan time.Time)
	late := func() <-chan time.Time {
		asked <- struct{}{}
		return due
	}
	batches := make(chan Batch)
	go func() {
		for b, err := range s.FollowLate(t.Context(), 0, "", []Selector{{Kind: "Pod"}, {Kind: "Node", Late: true}}, late) {
			if err != nil {
				return
			}
			batches <- b
		}
	}()
	<-batches // the snapshot
	apply(2, node("n1"))
	<-asked
	select {
	case b := <-batches:
		t.Fatalf("told at once: %v", b)
	default:
	}
	apply(3, pod("b"))
	if b := <-batches; b.Index != 3 || len(b.Puts) != 2 {
		t.Errorf("with the next change: index %d and %d rows, want 3 and both", b.Index, len(b.Puts))
	}
	apply(4, node("n2"))
	<-asked
	due <- time.Time{}
	if b := <-batches; b.Index != 4 || len(b.Puts) != 1 {
		t.Errorf("when it is due: index %d and %d rows, want 4 and one", b.Index, len(b.Puts))
	}
}
