package consensus

import (
	"testing"
	"time"
)

// A leader that writes nothing is heard by its heartbeats alone, which it sends
// more slowly than raft would.
func TestFollowersOfAQuietLeaderKeepIt(t *testing.T) {
	quiet := func(c *Config, _ *[]Duty) { c.CommitTimeout = time.Minute } // heartbeats alone
	wires := newNetwork()
	leader := wires.boot(t, "n1", t.TempDir(), alone, quiet)
	follower := wires.boot(t, "n2", t.TempDir(), quiet)
	wires.boot(t, "n3", t.TempDir(), quiet)
	awaitLeader(t, leader)
	for _, name := range []string{"n2", "n3"} {
		if err := leader.AddVoter(t.Context(), name, 0); err != nil {
			t.Fatal(err)
		}
	}
	for changed := follower.LeaderChanged(); follower.Leader() != "n1"; changed = follower.LeaderChanged() {
		<-changed
	}
	select {
	case <-follower.LeaderChanged():
		t.Errorf("a follower has lost its leader, and now takes %q for it", follower.Leader())
	case <-leader.LeaderChanged():
		t.Error("the leader has stepped down")
	case <-time.After(2 * time.Second): // several timeouts
	}
}

// What a follower has applied may lack what was committed since it last heard of a
// commit, and that is not whenever it hears its leader.
func TestAFollowerDoesNotTakeAHeartbeatForNews(t *testing.T) {
	const late = 2 * 10 * time.Second
	quiet := func(c *Config, _ *[]Duty) { c.CommitTimeout = late / 2 }
	wires := newNetwork()
	leader := wires.boot(t, "n1", t.TempDir(), alone, quiet)
	follower := wires.boot(t, "n2", t.TempDir(), quiet)
	awaitLeader(t, leader)
	if err := leader.AddVoter(t.Context(), "n2", 0); err != nil {
		t.Fatal(err)
	}
	for changed := follower.LeaderChanged(); follower.Leader() != "n1"; changed = follower.LeaderChanged() {
		<-changed
	}
	if age := time.Since(follower.Contact()); age < late {
		t.Errorf("the follower takes what it has for %s old, and may hear of a commit %s late", age, late)
	}
	if age := time.Since(leader.Contact()); age > time.Second {
		t.Errorf("the leader takes what it has for %s old", age)
	}
}
