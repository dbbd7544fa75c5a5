package agent

import (
	"net/netip"
	"testing"
)

// Found by the simulation: a voter that was put out of raft while it was away
// waited for a leader for ever, as nobody sends it the entry that says so. Its
// Pods ran, and nobody heard of it.
func TestAVoterPutOutOfRaftWhileItWasAwayBelievesTheVoters(t *testing.T) {
	c := newCompass()
	addr := netip.MustParseAddrPort("10.0.0.1:7373")
	for _, tt := range []struct {
		leader string
		voters map[string]netip.AddrPort
		want   bool
	}{
		{leader: "n2", voters: map[string]netip.AddrPort{"n2": addr, "n3": addr, "n4": addr}, want: true},
		{leader: "", voters: map[string]netip.AddrPort{"n2": addr, "n3": addr, "n4": addr}, want: true}, // who hears nobody knows no better
		{leader: "n2", voters: map[string]netip.AddrPort{"n1": addr, "n2": addr, "n3": addr}, want: false},
	} {
		c.heard("n1", tt.leader, tt.voters)
		if got := c.shunned(); got != tt.want {
			t.Errorf("told that %q leads %v: out of raft = %t, want %t", tt.leader, tt.voters, got, tt.want)
		}
	}
	turned := c.turns()
	c.heard("n1", "n2", map[string]netip.AddrPort{"n2": addr})
	select {
	case <-turned:
	default:
		t.Error("who follows a node is not told that it is out of raft")
	}
	if c.elected("n2"); c.shunned() {
		t.Error("raft itself hears the leader, and the node believes that it is out of it")
	}
}

// A leader whose disk stopped taking writes left raft, asked a voter who leads,
// was told "you" by one that had not noticed yet, and followed itself for good.
func TestANodeThatAsksWhoLeadsDoesNotBelieveThatItIsTheOne(t *testing.T) {
	c := newCompass()
	voters := map[string]netip.AddrPort{"n1": netip.MustParseAddrPort("10.0.0.1:7373")}
	if got := c.heard("n1", "n1", voters); got != "" || c.leads() != "" {
		t.Errorf("told that it leads, n1 heard %q and takes %q for the leader, want nobody", got, c.leads())
	}
	changed := c.leaderChanged()
	if got := c.heard("n1", "n2", voters); got != "n2" || c.leads() != "n2" {
		t.Errorf("told that n2 leads, n1 heard %q and takes %q for the leader", got, c.leads())
	}
	select {
	case <-changed:
	default:
		t.Error("who waits for a leader is not woken")
	}
}
