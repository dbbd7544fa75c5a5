package consensus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestTermsOfANodeNeverOverlap(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		terms := newTerms(t)
		// Duties take longer to end than an election takes.
		c.three(terms.duty(2 * time.Second))
		for range 20 {
			n := c.leader()
			c.cut(n)
			c.leader(n)
			c.join(n)
			time.Sleep(500 * time.Millisecond)
		}
		if got := terms.count(); got < 15 {
			t.Errorf("%d terms in 20 elections: %v", got, terms.seen)
		}
	})
}

func TestLeadershipLostAndWonAgainIsTwoTerms(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		terms := newTerms(t)
		n1, n2, n3 := c.three(terms.duty(0))
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		begun := func(n int) {
			t.Helper()
			c.within(10*time.Second, "a duty of each term", func() bool { return terms.count() == n })
		}
		begun(1)
		for i := range 3 {
			handOver(t, n1, "n2")
			begun(2*i + 2)
			handOver(t, n2, "n1")
			begun(2*i + 3)
		}
		time.Sleep(time.Second)
		if got := terms.count(); got != 7 {
			t.Errorf("%d terms for 7 elections: %v", got, terms.seen)
		}
	})
}

// handOver makes another node lead. Raft refuses while it does not know yet how
// far that one is, as right after an election.
func handOver(t *testing.T, from *testNode, to string) {
	t.Helper()
	var err error
	for range 100 {
		if err = from.TransferLeadership(t.Context(), to); err == nil || !from.IsLeader() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("leadership was not handed to %s: %v", to, err)
}

func TestADutySeesWhatEarlierTermsCommitted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var n [4]*testNode
		saw := make(chan string, 8)
		prepare := func(cfg *Config, duties *[]Duty) {
			name := cfg.Name
			*duties = append(*duties, func(ctx context.Context, _ uint64) error {
				if name != "n1" {
					saw <- body(c.nodes[name].Store(), "a")
				}
				<-ctx.Done()
				return nil
			})
		}
		n[1], n[2], n[3] = c.three(prepare)
		for range 50 {
			c.commit(n[1], put("b", "x", -1))
		}
		c.commit(n[1], put("a", "last", -1))
		c.cut(n[1])
		if got := <-saw; got != "last" {
			t.Errorf("the next leader began its duty with a = %q", got)
		}
	})
}

func TestAPlannedStopHandsLeadershipOver(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		terms := newTerms(t)
		n1, n2, n3 := c.three(terms.duty(0))
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		time.Sleep(time.Second)
		begin := time.Now()
		n1.stop()
		next := c.leader(n1)
		if took := time.Since(begin); took > 250*time.Millisecond {
			t.Errorf("hand-over took %v, longer than an election timeout", took)
		}
		<-n1.ended
		c.commit(next, put("a", "2", -1))
		if _, err := n1.Commit(t.Context(), put("a", "3", -1)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a stopped node answered %v", err)
		}
		if err := n1.Confirm(t.Context()); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a stopped node confirmed: %v", err)
		}
	})
}

func TestAHandOverPassesByWhoIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, n2, n3 := c.three()
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		c.cut(n2)
		time.Sleep(time.Second)
		begin := time.Now()
		n1.stop()
		<-n1.ended
		if took := time.Since(begin); took > 250*time.Millisecond {
			t.Errorf("stop took %v, as if the one that is away had been tried", took)
		}
		c.join(n2)
		c.cut(n1)
		c.leader(n1)
	})
}

func TestADutyThatFailsEndsRun(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		broken := errors.New("broken")
		n := c.start("n1", newDisk(), alone, with(func(context.Context, uint64) error { return broken }))
		<-n.ended
		if !errors.Is(n.err, broken) {
			t.Errorf("Run returned %v", n.err)
		}
		n.err = nil
	})
}

func TestADutyMayEndBeforeItsTerm(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n := c.start("n1", newDisk(), alone, with(func(context.Context, uint64) error { return nil }))
		c.leader()
		time.Sleep(time.Minute)
		c.commit(n, put("a", "1", 0))
	})
}

func TestALogWriteThatHangsCostsLeadership(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		terms := newTerms(t)
		n1, n2, n3 := c.three(terms.duty(0))
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		n1.disk.hang()
		uncertain := make(chan error, 1)
		go func() {
			_, err := n1.Commit(t.Context(), put("a", "2", -1))
			uncertain <- err
		}()
		begin := time.Now()
		next := c.leader(n1)
		if took := time.Since(begin); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("another leads after %v, want 2 s and an election", took)
		}
		if !n1.Stalled() || next.Stalled() {
			t.Errorf("stalled: n1 %v, %s %v", n1.Stalled(), next.name, next.Stalled())
		}
		if n1.IsLeader() || n1.Leader() == "n1" {
			t.Error("the node with the hanging disk still takes itself for the leader")
		}
		c.commit(next, put("a", "3", -1))
		n1.disk.heal()
		if err := <-uncertain; !errors.Is(err, ErrUncertain) {
			t.Errorf("the write that hung was answered %v", err)
		}
		c.within(10*time.Second, "it follows the new leader", func() bool {
			return body(n1.Store(), "a") == "3" && n1.Leader() == next.name
		})
	})
}

func TestASingleVoterSitsOutAHangingDisk(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n := c.start("n1", newDisk(), alone)
		c.leader()
		n.disk.hang()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.commit(n, put("a", "1", 0))
		}()
		time.Sleep(time.Minute)
		n.disk.heal()
		<-done
	})
}

func TestAStopDoesNotWaitForADiskThatNeverAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		n1, _, _ := c.three()
		n1.disk.hang()
		go func() { _, _ = n1.Commit(t.Context(), put("a", "1", 0)) }()
		time.Sleep(3 * time.Second)
		n1.stop()
		<-n1.ended
		if n1.err == nil {
			t.Error("Run returned nil although something it started still runs")
		}
		n1.err = nil
	})
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	_, transport := raft.NewInmemTransport("n1")
	d := newDisk()
	for name, cfg := range map[string]Config{
		"no name":         {Log: d, Stable: d, Snapshots: d.snaps, Transport: transport},
		"no stores":       {Name: "n1", Transport: transport},
		"another's wires": {Name: "n2", Log: d, Stable: d, Snapshots: d.snaps, Transport: transport},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
