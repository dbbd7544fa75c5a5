package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

func TestThreeNodesAgree(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, n2, n3 := c.three()
		index := c.commit(n1, put("a", "1", 0))
		c.everywhere(index, n1, n2, n3)
		for _, n := range c.nodes {
			if got := body(n.Store(), "a"); got != "1" {
				t.Errorf("%s holds %q", n.name, got)
			}
			if n.Leader() != "n1" {
				t.Errorf("%s takes %q for its leader", n.name, n.Leader())
			}
			if n.Store().Epoch() == "" || n.Store().Epoch() != n1.Store().Epoch() {
				t.Errorf("%s has epoch %q, the leader %q", n.name, n.Store().Epoch(), n1.Store().Epoch())
			}
		}
		_, err := n1.Commit(t.Context(), put("a", "2", 0))
		mustConflict(t, err)
		c.commit(n1, put("a", "2", int64(index)))
		if _, err := n2.Commit(t.Context(), put("a", "3", -1)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower answered %v", err)
		}
	})
}

func TestASuccessorHoldsEveryAcknowledgedWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, _, _ := c.three()
		c.commit(n1, put("a", "1", 0))
		changed := c.nodes["n2"].LeaderChanged()
		lost := time.Now()
		c.cut(n1)
		next := c.leader(n1)
		if took := time.Since(lost); took > 3*time.Second {
			t.Errorf("election took %v", took)
		}
		if got := body(next.Store(), "a"); got != "1" {
			t.Errorf("%s leads with a = %q", next.name, got)
		}
		<-changed
		c.commit(next, put("a", "2", -1))
		c.within(time.Second, "the isolated leader steps down", func() bool { return !n1.IsLeader() && n1.Leader() == "" })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n1.Commit(ctx, put("a", "9", -1)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("the isolated node answered %v", err)
		}
		c.join(n1)
		c.within(5*time.Second, "the old leader follows", func() bool { return body(n1.Store(), "a") == "2" && n1.Leader() == next.name })
	})
}

func TestAWriteThatNobodyConfirmsIsUncertain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, _, _ := c.three()
		c.cut(n1)
		if _, err := n1.Commit(t.Context(), put("a", "1", 0)); !errors.Is(err, ErrUncertain) {
			t.Errorf("got %v, want that nobody knows", err)
		}
		if err := n1.Confirm(t.Context()); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Confirm answered %v", err)
		}
	})
}

func TestConfirmAsksAQuorum(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, n2, _ := c.three()
		index := c.commit(n1, put("a", "1", 0))
		if err := n1.Confirm(t.Context()); err != nil {
			t.Error(err)
		}
		if got, err := n1.ReadIndex(t.Context()); err != nil || got < index {
			t.Errorf("ReadIndex is %d, %v; a write was acknowledged at %d", got, err, index)
		}
		if err := n2.Confirm(t.Context()); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower confirmed: %v", err)
		}
		c.cut(n1)
		// Still leader by its own lights, but no longer confirmed.
		if _, err := n1.ReadIndex(t.Context()); err == nil {
			t.Error("an isolated leader gave out a read index")
		}
	})
}

func TestWritersThatWaitTogetherShareEntries(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n := c.start("n1", newDisk(), alone)
		c.leader()
		before := n.Store().Index()
		n.disk.hang()
		var writers sync.WaitGroup
		refused := 0
		var mu sync.Mutex
		for i := range 500 {
			writers.Go(func() {
				// Every fifth creates what another one creates too.
				name := fmt.Sprint("p", i)
				if i%5 == 4 {
					name = fmt.Sprint("p", i-1)
				}
				_, err := n.Commit(t.Context(), put(name, fmt.Sprint(i), 0))
				if conflict := new(state.ConflictError); errors.As(err, &conflict) {
					mu.Lock()
					refused++
					mu.Unlock()
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		n.disk.heal()
		writers.Wait()
		if refused != 100 {
			t.Errorf("%d writers were refused, want 100", refused)
		}
		if got := len(n.Store().List("Pod", "", "")); got != 400 {
			t.Errorf("%d pods, want 400", got)
		}
		// Entries end early where two write the same, so their number varies.
		if used := n.Store().Index() - before; used > 300 {
			t.Errorf("500 transactions took %d entries", used)
		}
	})
}

func TestNoEntryWritesARowTwice(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n := c.start("n1", newDisk(), alone)
		c.leader()
		var writers sync.WaitGroup
		versions := make(chan uint64, 100)
		for i := range 100 {
			writers.Go(func() { versions <- c.commit(n, put("a", fmt.Sprint(i), -1)) })
		}
		writers.Wait()
		seen := make(map[uint64]bool)
		for range 100 {
			if v := <-versions; seen[v] {
				t.Errorf("two writes of one row have version %d", v)
			} else {
				seen[v] = true
			}
		}
	})
}

func TestCommitRefusesWhatReplicasCouldNotApply(t *testing.T) {
	key := pod("a").Proto()
	tests := map[string]*logv1.Op{
		"no change":         {Key: key},
		"delete that isn't": {Key: key, Change: &logv1.Op_Delete{}},
		"no key":            {Change: &logv1.Op_Delete{Delete: true}},
		"no name":           {Key: &logv1.Key{Kind: "Pod"}, Change: &logv1.Op_Delete{Delete: true}},
		"every kind":        {Key: &logv1.Key{Kind: "*", Name: "a"}, Change: &logv1.Op_Delete{Delete: true}},
		"too large":         put("a", strings.Repeat("x", maxTxn), -1).GetOps()[0],
	}
	inBubble(t, func(t *testing.T, c *cluster) {
		n := c.start("n1", newDisk(), alone)
		c.leader()
		for name, op := range tests {
			if _, err := n.Commit(t.Context(), &logv1.Txn{Ops: []*logv1.Op{op}}); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

func TestCommitStopsWaitingWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n := c.start("n1", newDisk(), alone)
		c.leader()
		n.disk.hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Commit(ctx, put("a", "1", 0)); !errors.Is(err, ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		n.disk.heal()
		c.within(time.Second, "the write happens all the same", func() bool { return body(n.Store(), "a") == "1" })
	})
}

func TestMembersChangeOnlyAsPlanned(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1 := c.start("n1", newDisk(), alone)
		n2 := c.start("n2", newDisk())
		c.leader()
		if _, _, err := n2.Members(); !errors.Is(err, ErrNoCluster) {
			t.Errorf("a newcomer says %v", err)
		}
		_, before, _ := n1.Members()
		if err := n1.AddNonvoter(t.Context(), "n2", before); err != nil {
			t.Fatal(err)
		}
		members, index, err := n1.Members()
		if diff := cmp.Diff([]Member{{"n1", true}, {"n2", false}}, members); diff != "" || err != nil {
			t.Errorf("members (-want +got):\n%s %v", diff, err)
		}
		if err := n1.AddVoter(t.Context(), "n2", before); !errors.Is(err, ErrMembersChanged) {
			t.Errorf("a stale plan was answered %v", err)
		}
		c.within(time.Second, "n2 caught up", func() bool {
			p, ok := n1.Progress("n2")
			return ok && p.Behind == 0 && time.Since(p.LastContact) < 200*time.Millisecond
		})
		if err := n1.AddVoter(t.Context(), "n2", index); err != nil {
			t.Fatal(err)
		}
		if err := n2.AddVoter(t.Context(), "n1", 0); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower answered %v", err)
		}
		_, index, _ = n1.Members()
		c.within(time.Second, "n2 knows", func() bool {
			members, at, err := n2.Members()
			return err == nil && at == index && len(members) == 2 && members[1].Voter
		})
		if err := n1.Demote(t.Context(), "n2", index); err != nil {
			t.Fatal(err)
		}
		if err := n1.Remove(t.Context(), "n2", 0); err != nil {
			t.Fatal(err)
		}
		members, _, _ = n1.Members()
		if diff := cmp.Diff([]Member{{"n1", true}}, members); diff != "" {
			t.Errorf("members (-want +got):\n%s", diff)
		}
		c.commit(n1, put("a", "1", 0)) // n1 alone is a quorum again
	})
}

func TestMembersAreKnownAfterARestartFromASnapshot(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, n2, n3 := c.three(func(cfg *Config, _ *[]Duty) {
			cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 5, 1, time.Second
		})
		for i := range 20 {
			c.commit(n1, put("a", fmt.Sprint(i), -1))
		}
		time.Sleep(10 * time.Second)
		index := c.commit(n1, put("a", "last", -1))
		c.everywhere(index, n2, n3)
		_, at, _ := n1.Members()
		if first, _ := n3.disk.FirstIndex(); first <= at {
			t.Fatalf("the log of n3 begins at %d, it should have let go of %d", first, at)
		}
		n3.stop()
		<-n3.ended
		n3 = c.start("n3", n3.disk)
		c.everywhere(index, n3)
		if got := body(n3.Store(), "a"); got != "last" {
			t.Errorf("a is %q after the restart", got)
		}
		if members, again, err := n3.Members(); err != nil || again != at || len(members) != 3 {
			t.Errorf("after the restart members are %v at %d (%v), want three at %d", members, again, err, at)
		}
		// A newcomer gets the snapshot.
		n4 := c.start("n4", newDisk())
		if err := n1.AddNonvoter(t.Context(), "n4", 0); err != nil {
			t.Fatal(err)
		}
		c.everywhere(index, n4)
		if n4.Store().Epoch() != n1.Store().Epoch() {
			t.Errorf("the newcomer has epoch %q", n4.Store().Epoch())
		}
	})
}

// logged keeps the records at or above info.
type logged struct {
	slog.Handler
	mu      *sync.Mutex
	records *[]string
}

func newLogged() logged { return logged{slog.DiscardHandler, new(sync.Mutex), new([]string)} }

func (l logged) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l logged) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l logged) WithGroup(string) slog.Handler                    { return l }

func (l logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.records = append(*l.records, r.Level.String()+" "+r.Message)
	return nil
}

func (l logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), *l.records...)
}

func TestANodeNobodyAddedIsSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		log := newLogged()
		n := c.start("n1", newDisk(), func(cfg *Config, _ *[]Duty) { cfg.Logger = slog.New(log) })
		time.Sleep(time.Hour)
		if lines := log.lines(); len(lines) > 0 {
			t.Errorf("logged in an hour: %q", lines)
		}
		if n.Leader() != "" || n.Term() != 0 {
			t.Errorf("leader is %q, term %d", n.Leader(), n.Term())
		}
	})
}

func TestALostPeerDoesNotFillTheLog(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		log := newLogged()
		n1, n2, n3 := c.three(func(cfg *Config, _ *[]Duty) {
			if cfg.Name == "n1" {
				cfg.Logger = slog.New(log)
			}
		})
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		before := len(log.lines())
		c.cut(n3)
		time.Sleep(10 * time.Minute)
		if lines := log.lines()[before:]; len(lines) > 40 {
			t.Errorf("%d lines in ten minutes, the first: %q", len(lines), lines[:10])
		}
	})
}

// writes counts what reaches the disk.
type writes struct {
	*disk
	mu sync.Mutex
	n  int
}

func (w *writes) note() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
}

func (w *writes) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func (w *writes) StoreLogs(logs []*raft.Log) error     { w.note(); return w.disk.StoreLogs(logs) }
func (w *writes) Set(key, value []byte) error          { w.note(); return w.disk.Set(key, value) }
func (w *writes) SetUint64(key []byte, v uint64) error { w.note(); return w.disk.SetUint64(key, v) }

func TestAnIdleClusterWritesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var counted []*writes
		n1, n2, n3 := c.three(func(cfg *Config, _ *[]Duty) {
			w := &writes{disk: cfg.Log.(*disk)}
			cfg.Log, cfg.Stable = w, w
			counted = append(counted, w)
		})
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		time.Sleep(time.Second)
		before := make([]int, len(counted))
		for i, w := range counted {
			before[i] = w.count()
		}
		time.Sleep(30 * time.Minute)
		if _, err := n1.ReadIndex(t.Context()); err != nil {
			t.Error(err)
		}
		for i, w := range counted {
			if n := w.count() - before[i]; n > 0 {
				t.Errorf("disk %d was written %d times in an idle half hour", i, n)
			}
		}
	})
}

// A node that has started again holds nothing yet, and a heartbeat does not tell
// it what was agreed on.
func TestAHeartbeatDoesNotMakeAnEmptyStoreCaughtUp(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, n2, n3 := c.three()
		index := c.commit(n1, put("a", "1", -1))
		c.everywhere(index, n2, n3)
		if !n1.CaughtUp() {
			t.Error("the leader has not caught up with itself")
		}
		c.within(time.Second, "a follower has caught up", n3.CaughtUp)
		epoch := n3.Store().Epoch()
		n3.stop()
		<-n3.ended
		term := n1.raft.Load().CurrentTerm()
		for _, n := range []*testNode{n1, n2} {
			n.stop()
			<-n.ended
		}
		n3 = c.start("n3", n3.disk)
		c.cut(n3)
		_, other := raft.NewInmemTransport("n1")
		other.Connect("n3", n3.net)
		beat := &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("n1"), Addr: []byte("n1")}, Term: term,
		}
		if err := other.AppendEntries("n3", "n3", beat, &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
		c.within(time.Second, "the leader is heard", func() bool { return n3.Leader() == "n1" })
		if n3.CaughtUp() {
			t.Error("a heartbeat alone: caught up with an empty store")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for b, err := range n3.Store().Follow(ctx, index, epoch, []state.Selector{{Kind: "Pod"}}) {
			if err == nil {
				t.Errorf("an empty store tells a follower of index %d: %+v", index, b)
			}
		}
		c.start("n1", n1.disk)
		c.start("n2", n2.disk)
		c.everywhere(index, n3)
		c.within(5*time.Second, "it has caught up", n3.CaughtUp)
		if got := body(n3.Store(), "a"); got != "1" {
			t.Errorf("a is %q, want 1", got)
		}
	})
}
