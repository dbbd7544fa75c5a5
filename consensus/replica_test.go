package consensus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A wire is a source that can be cut, and counts how it was used.
type wire struct {
	mu     sync.Mutex
	store  *state.Store // nil: nobody answers
	asked  int
	sinces []uint64
	cut    context.CancelFunc
}

func (w *wire) source(context.Context) (Source, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.store == nil {
		return nil, errors.New("nobody answers")
	}
	return w, nil
}

func (w *wire) Follow(ctx context.Context, since uint64, epoch string, selectors []state.Selector) iter.Seq2[state.Batch, error] {
	ctx, cut := context.WithCancel(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	w.sinces = append(w.sinces, since)
	return w.store.Follow(ctx, since, epoch, selectors)
}

// lead makes another store the source of new streams.
func (w *wire) lead(s *state.Store) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store = s
}

func (w *wire) timesAsked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

func (w *wire) lastSince() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sinces[len(w.sinces)-1]
}

func (w *wire) firstSince() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sinces[0]
}

// replicate runs a replica of the Pods of n1 and returns it and how to stop it.
func replicate(t *testing.T, path string, w *wire) (*Replica, func()) {
	r := NewReplica(ReplicaConfig{
		Path:      path,
		Selectors: []state.Selector{{Kind: "Pod", Index: "node=n1"}},
		Source:    w.source,
		Store:     state.New(state.Checked(func(problem string) { t.Error(problem) })),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run returned %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return r, stop
}

func newSource(t *testing.T) *state.Store {
	s := state.New(state.Checked(func(problem string) { t.Error(problem) }))
	s.ApplyEntry(1, &logv1.Entry{Epoch: "e1"})
	return s
}

func write(t *testing.T, s *state.Store, name, body, node string) {
	t.Helper()
	if err := s.Apply(s.Index()+1, put(name, body, -1, "node="+node)); err != nil {
		t.Fatal(err)
	}
}

func TestAReplicaHoldsWhatItSelects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		write(t, s, "a", "1", "n1")
		write(t, s, "b", "1", "n2")
		r, _ := replicate(t, "", &wire{store: s})
		<-r.SyncedC()
		if got := body(r.Store(), "a") + " " + body(r.Store(), "b"); got != "1 (none)" {
			t.Errorf("holds %s", got)
		}
		watch := r.Store().Changed(state.Selector{Kind: "Pod"})
		defer watch.Close()
		write(t, s, "a", "2", "n1")
		<-watch.C()
		row, _ := r.Store().Get(pod("a"))
		if string(row.Body) != "2" || row.Version != s.Index() {
			t.Errorf("a is %q at version %d, the source has it at %d", row.Body, row.Version, s.Index())
		}
		write(t, s, "a", "3", "n2")
		synctest.Wait()
		if got := body(r.Store(), "a"); got != "(none)" {
			t.Errorf("still holds a = %s after it moved", got)
		}
	})
}

func TestAReplicaResumesAndFollowsTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newSource(t), newSource(t)
		for _, s := range []*state.Store{first, second} {
			write(t, s, "a", "1", "n1")
		}
		w := &wire{store: first}
		r, _ := replicate(t, "", w)
		<-r.SyncedC()
		w.lead(second)
		write(t, second, "a", "2", "n1")
		begin := time.Now()
		r.Reconnect()
		synctest.Wait()
		if got := body(r.Store(), "a"); got != "2" || time.Since(begin) > 0 {
			t.Errorf("a is %s after %v, want 2 at once", got, time.Since(begin))
		}
		if got := w.lastSince(); got != 2 {
			t.Errorf("resumed from %d, want 2", got)
		}
		// A stream that breaks is asked for again soon.
		w.cut()
		synctest.Wait()
		write(t, second, "a", "3", "n1")
		time.Sleep(2 * minRetry)
		if got := body(r.Store(), "a"); got != "3" {
			t.Errorf("a is %s after the stream broke", got)
		}
	})
}

func TestAReplicaStartsAgainInAnotherEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newSource(t)
		for i := range 10 {
			write(t, old, fmt.Sprint("old", i), "1", "n1")
		}
		w := &wire{store: old}
		r, _ := replicate(t, "", w)
		<-r.SyncedC()
		reformed := state.New()
		reformed.ApplyEntry(1, &logv1.Entry{Epoch: "e2"})
		write(t, reformed, "a", "1", "n1")
		w.lead(reformed)
		r.Reconnect()
		synctest.Wait()
		if rows := r.Store().List("Pod", "", ""); len(rows) != 1 || rows[0].Key.Name != "a" {
			t.Errorf("holds %d rows of before", len(rows))
		}
		if r.Store().Index() != reformed.Index() || r.Store().Epoch() != "e2" {
			t.Errorf("is at %d of %q", r.Store().Index(), r.Store().Epoch())
		}
	})
}

func TestAReplicaBacksOffWhileNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r, _ := replicate(t, "", w)
		time.Sleep(10 * time.Minute)
		if n := w.timesAsked(); n > 400 || n < 100 {
			t.Errorf("asked %d times in ten minutes, want once in 2.5 to 5 s", n)
		}
		if r.Synced() || !r.Contact().IsZero() {
			t.Error("claims to have heard somebody")
		}
		s := newSource(t)
		write(t, s, "a", "1", "n1")
		w.lead(s)
		r.Reconnect()
		synctest.Wait()
		if !r.Synced() || body(r.Store(), "a") != "1" {
			t.Error("did not ask at once when told to")
		}
		time.Sleep(time.Minute)
		if r.Contact() != time.Now() {
			t.Error("an open stream is contact")
		}
		w.lead(nil)
		w.cut()
		synctest.Wait()
		lost := time.Now()
		time.Sleep(time.Minute)
		if got := r.Contact(); got != lost {
			t.Errorf("contact was at %v, lost at %v", got, lost)
		}
	})
}

func TestAReplicaRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "replica")
		s := newSource(t)
		write(t, s, "a", "1", "n1")
		r, stop := replicate(t, path, &wire{store: s})
		<-r.SyncedC()
		write(t, s, "a", "2", "n1")
		synctest.Wait()
		stop()

		w := &wire{}
		r, stop = replicate(t, path, w)
		if got := body(r.Store(), "a"); got != "2" || r.Synced() {
			t.Errorf("without a source a is %s, synced %v", got, r.Synced())
		}
		write(t, s, "b", "1", "n1")
		w.lead(s)
		r.Reconnect()
		synctest.Wait()
		if got := w.firstSince(); got != s.Index()-1 || body(r.Store(), "b") != "1" {
			t.Errorf("resumed from %d, want %d; b is %s", got, s.Index()-1, body(r.Store(), "b"))
		}
		stop()

		// With other selectors the old index is no place to resume from, but the
		// rows are better than nothing.
		other := NewReplica(ReplicaConfig{Path: path, Selectors: []state.Selector{{Kind: "Pod"}}, Source: w.source})
		if other.resume || body(other.Store(), "b") != "1" {
			t.Errorf("other selectors: resumes %v, b is %s", other.resume, body(other.Store(), "b"))
		}
	})
}

func TestAReplicaWritesSeldomAndOnlyWhenChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "replica")
		s := newSource(t)
		r, _ := replicate(t, path, &wire{store: s})
		<-r.SyncedC()
		writes := 0
		var last os.FileInfo
		look := func() {
			synctest.Wait()
			info, err := os.Stat(path)
			if err == nil && (last == nil || !os.SameFile(info, last)) {
				writes++
				last = info
			}
		}
		look()
		writes = 0
		for i := range 100 { // 10 s of changes
			write(t, s, "a", fmt.Sprint(i), "n1")
			time.Sleep(100 * time.Millisecond)
			look()
		}
		if writes < 5 || writes > 12 {
			t.Errorf("%d writes in 10 s of changes, want one a second", writes)
		}
		time.Sleep(5 * time.Second)
		look()
		writes = 0
		for range 100 {
			write(t, s, "b", "1", "n2") // nothing of ours
			time.Sleep(time.Minute)
			look()
		}
		if writes != 0 {
			t.Errorf("%d writes while nothing changed", writes)
		}
	})
}

func TestADamagedReplicaFileIsAsGoodAsNone(t *testing.T) {
	s := newSource(t)
	write(t, s, "a", "1", "n1")
	f := newReplicaFile(filepath.Join(t.TempDir(), "replica"), nil)
	if err := f.write(s); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"empty":          {},
		"cut in half":    whole[:len(whole)/2],
		"another header": append([]byte("something else 1 00000000\n"), whole...),
		"flipped":        append(append([]byte{}, whole[:len(whole)-3]...), whole[len(whole)-3]^1, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(f.path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			r := NewReplica(ReplicaConfig{Path: f.path})
			if r.resume || r.Store().Index() != 0 || len(r.Store().List("Pod", "", "")) != 0 {
				t.Errorf("took something from it: index %d", r.Store().Index())
			}
		})
	}
}

func TestAReplicaOfANodeFollowsThroughAFailover(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, _, _ := c.three()
		r := NewReplica(ReplicaConfig{
			Selectors: []state.Selector{{Kind: "Pod"}},
			Source: func(context.Context) (Source, error) {
				for _, n := range c.nodes {
					if n.IsLeader() {
						return n.Store(), nil
					}
				}
				return nil, errors.New("no leader")
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		c.commit(n1, put("a", "1", -1))
		<-r.SyncedC()
		c.cut(n1)
		next := c.leader(n1)
		r.Reconnect()
		c.commit(next, put("a", "2", -1))
		c.within(time.Second, "the replica follows", func() bool { return body(r.Store(), "a") == "2" })
		cancel()
		<-done
	})
}
