package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/consensus"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A compass is what a node that takes no part in raft knows of those who do:
// it was told by one of them, the first time by the exchange in which it joined.
type compass struct {
	mu     sync.Mutex
	leader string
	voters map[string]netip.AddrPort
	// outcast: a voter that knows the leader does not count this node among the
	// voters. Its own log may say otherwise, if it was away when it lost its vote.
	outcast bool
}

func (c *compass) shunned() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outcast
}

// heard takes the answer of a voter to who leads, asked by this node.
func (c *compass) heard(self, leader string, voters map[string]netip.AddrPort) {
	c.told(leader, voters)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, votes := voters[self]
	c.outcast = leader != "" && !votes
}

func (c *compass) leads() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

func (c *compass) votes(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.voters[name]
	return ok
}

func (c *compass) addr(name string) (netip.AddrPort, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr, ok := c.voters[name]
	return addr, ok
}

func (c *compass) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.voters))
}

// told takes the word of a voter.
func (c *compass) told(leader string, voters map[string]netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = leader
	if len(voters) > 0 {
		c.voters = voters
	}
}

func peerAddrs(list []*skeinv1.Peer) map[string]netip.AddrPort {
	out := map[string]netip.AddrPort{}
	for _, p := range list {
		if addr, err := netip.ParseAddrPort(p.GetAddr()); err == nil {
			out[p.GetName()] = addr
		}
	}
	return out
}

// member tells whether this node takes part in raft. Its own log does not tell
// when it was put out of it while it was away: nobody sends it the entry that
// says so. Who hears no leader therefore believes a voter that does.
func (a *Agent) member() (in, votes bool) {
	members, _, err := a.raft.Members()
	if err != nil {
		return false, false
	}
	for _, m := range members {
		if m.Name == a.cfg.Name {
			if a.compass.shunned() && a.raft.Leader() == "" {
				return false, false
			}
			return true, m.Voter
		}
	}
	return false, false
}

// leader names who leads as far as this node knows, "" if nobody.
func (a *Agent) leader() string {
	if leader := a.raft.Leader(); leader != "" {
		return leader
	}
	if in, _ := a.member(); in {
		return ""
	}
	return a.compass.leads()
}

// whileLeads ends the context when somebody else leads, or nobody.
func (a *Agent) whileLeads(ctx context.Context, leader string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for {
			changed, heard := a.raft.LeaderChanged(), a.gossip.Changed()
			if a.leader() != leader {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-heard: // by which a node outside of raft learns it
			}
		}
	}()
	return ctx, cancel
}

// askPatience is how long one voter may take to say who leads.
const askPatience = time.Second

// source finds somebody to follow: the leader, else this node's own copy if it
// votes and has heard a leader since it started, else any voter like that.
func (a *Agent) source(ctx context.Context) (consensus.Source, error) {
	leader := a.raft.Leader()
	in, votes := a.member()
	switch {
	case leader == a.cfg.Name:
		return a.raft.Store(), nil
	case leader != "":
		return remote{client: a.peers.Client(leader), node: leader}, nil
	case in && votes && a.raft.CaughtUp():
		return a.raft.Store(), nil
	}
	leader, last, err := a.inquire(ctx)
	if err != nil {
		return nil, err
	}
	if leader != "" {
		return remote{client: a.peers.Client(leader), node: leader}, nil
	}
	if last == "" {
		return nil, errNobody
	}
	return remote{client: a.peers.Client(last), node: last}, nil // no leader: its copy is the best there is
}

// inquire asks one voter after the other who leads, and returns the last that
// answered where none knows.
func (a *Agent) inquire(ctx context.Context) (leader, last string, err error) {
	for _, name := range a.compass.names() {
		if name == a.cfg.Name {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, askPatience)
		answer, err := a.peers.Client(name).Leader(ask, &skeinv1.LeaderRequest{})
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return "", "", ctx.Err()
			}
			a.log.Debug("a voter does not answer", "node", name, "err", err)
			continue
		}
		a.compass.heard(a.cfg.Name, answer.GetLeader(), peerAddrs(answer.GetVoters()))
		if leader := answer.GetLeader(); leader != "" {
			return leader, name, nil
		}
		last = name
	}
	return "", last, nil
}

// doubtEvery is how often a voter that hears no leader asks whether it is the
// only one.
const doubtEvery = 2 * time.Second

// ownDoubts asks the other voters who leads, as long as this one follows its own copy
// for want of a leader. Its list of members may be so old that it refuses the
// leader, or has a vote in it that was taken meanwhile.
func (a *Agent) ownDoubts(ctx context.Context) error {
	again := time.NewTicker(doubtEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
		if _, votes := a.member(); !votes || a.raft.Leader() != "" {
			continue
		}
		if leader, _, err := a.inquire(ctx); err == nil && leader != "" && leader != a.cfg.Name {
			a.replica.Reconnect()
		}
	}
}

// watchLeader makes everybody who follows look again when leadership moves, so
// that nobody waits for a dead leader's connection to time out.
func (a *Agent) watchLeader(ctx context.Context) error {
	last := a.leader()
	for {
		changed, heard := a.raft.LeaderChanged(), a.gossip.Changed()
		now := a.leader()
		if now != last {
			a.log.Info("leader changed", "node", now, "before", last)
			last = now
			a.replica.Reconnect()
			a.gossip.LeaderChanged()
		}
		if in, _ := a.member(); !in && now != "" {
			if m, ok := a.gossip.Member(now); ok && m.State != gossip.StateAlive {
				a.compass.told("", nil)
				a.replica.Reconnect()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-heard:
		}
	}
}
