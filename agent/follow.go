package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A compass is what a node that takes no part in raft knows of those who do:
// it was told by one of them, the first time by the exchange in which it joined.
type compass struct {
	mu      sync.Mutex
	leader  string
	changed chan struct{} // closed when leader changes
	voters  map[string]netip.AddrPort
	// outcast: a voter that knows the leader does not count this node among the
	// voters. Its own log may say otherwise, if it was away when it lost its vote.
	outcast bool
	turned  chan struct{} // closed when who leads may have changed in any way
}

func newCompass() *compass {
	return &compass{changed: make(chan struct{}), turned: make(chan struct{})}
}

// turns returns a channel that is closed when the leader may be another, by this
// compass or by raft's own. Take it before asking.
func (c *compass) turns() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turned
}

// turn is called with mu held.
func (c *compass) turn() {
	close(c.turned)
	c.turned = make(chan struct{})
}

// elected takes what raft itself says. Who hears a leader there is in it.
func (c *compass) elected(leader string) {
	c.told(leader, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcast = c.outcast && leader == ""
	c.turn()
}

func (c *compass) shunned() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outcast
}

// heard takes the answer of a voter to who leads, asked by this node, and
// returns what to make of it: a voter that names this node, which would know, has
// not noticed yet that it leads no more.
func (c *compass) heard(self, leader string, voters map[string]netip.AddrPort) string {
	if leader == self {
		leader = ""
	}
	if leader != "" {
		c.told(leader, voters)
	} else {
		c.told(c.leads(), voters) // the next one may know: who wavers makes everybody look again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader != "" { // else who says so knows no better
		was := c.outcast
		_, votes := voters[self]
		c.outcast = !votes
		if c.outcast != was {
			c.turn()
		}
	}
	return leader
}

func (c *compass) leads() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

// leaderChanged returns a channel that is closed when leads will answer
// differently. Take it before asking.
func (c *compass) leaderChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
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
	if c.leader != leader {
		c.leader = leader
		close(c.changed)
		c.changed = make(chan struct{})
		c.turn()
	}
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
// says so. Who hears no leader therefore believes a voter that does. One whose
// disk has made it leave raft takes no part either, until it is back.
func (a *Agent) member() (in, votes bool) {
	members, _, err := a.raft.Members()
	if err != nil {
		return false, false
	}
	for _, m := range members {
		if m.Name == a.cfg.Name {
			if a.raft.Leader() == "" && (a.compass.shunned() || a.raft.Away()) {
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
	if leader := a.compass.leads(); leader != a.cfg.Name {
		return leader
	}
	return "" // it did, and nobody has been asked since
}

// A guided node is raft as the API sees it: while this node's disk keeps it out
// of raft, or the others have put it out, it is they who know who leads.
type guided struct {
	*consensus.Node
	agent *Agent
}

// outcast tells whether the others have put this node out of raft, which its own
// log does not tell.
func (g guided) outcast() bool { return g.Node.Leader() == "" && g.agent.compass.shunned() }

// Members lists who takes part. An outcast leaves itself out: what it has is
// brought up to date no more.
func (g guided) Members() ([]consensus.Member, uint64, error) {
	members, index, err := g.Node.Members()
	if g.outcast() {
		members = slices.DeleteFunc(members, func(m consensus.Member) bool { return m.Name == g.agent.cfg.Name })
	}
	return members, index, err
}

// Leader names who leads, "" if nobody is known to.
func (g guided) Leader() string {
	if g.Away() || g.outcast() {
		return g.agent.leader()
	}
	return g.Node.Leader()
}

// LeaderChanged returns a channel that is closed when Leader will answer
// differently. Take it before asking.
func (g guided) LeaderChanged() <-chan struct{} { return g.agent.compass.turns() }

// whileLeads ends the context when somebody else leads, or nobody.
func (a *Agent) whileLeads(ctx context.Context, leader string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for {
			changed, told := a.raft.LeaderChanged(), a.compass.leaderChanged()
			if a.leader() != leader {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-told:
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

// known lists the other nodes that vote as far as this one was told or has it in
// its log, sorted.
func (a *Agent) known() []string {
	names := a.compass.names()
	members, _, _ := a.raft.Members() // none, if it never was one
	for _, m := range members {
		if m.Voter {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == a.cfg.Name })
}

// inquire asks one voter after the other who leads, and returns the last that
// answered where none knows.
func (a *Agent) inquire(ctx context.Context) (leader, last string, err error) {
	for _, name := range a.known() {
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
		if leader := a.compass.heard(a.cfg.Name, answer.GetLeader(), peerAddrs(answer.GetVoters())); leader != "" {
			return leader, name, nil
		}
		last = name
	}
	a.compass.told("", nil)
	return "", last, nil
}

// doubtEvery is how often a node that knows of no leader asks whether it is the
// only one.
const doubtEvery = 2 * time.Second

// ownDoubts asks the voters who leads, as long as this node follows its own
// copy, or another's, for want of a leader. Its list of members may be so old that
// it refuses the leader, or has a vote in it that was taken meanwhile; or its disk
// has made it leave raft, and the others have elected since. While there is a
// leader it asks that one now and then who votes, and often as long as there are
// fewer voters than there will be: they are about to come.
func (a *Agent) ownDoubts(ctx context.Context) error {
	again := time.NewTimer(doubtEvery)
	defer again.Stop()
	asked := time.Now()
	for {
		told := a.compass.leaderChanged()
		few := a.leader() != "" && a.fewVoters()
		again.Reset(doubtEvery)
		if few {
			again.Reset(fewEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-told:
			continue
		case <-again.C:
		}
		if leader := a.leader(); leader != "" {
			if few || time.Since(asked) >= votersEvery {
				a.hearVoters(ctx, leader)
				asked = time.Now()
			}
			continue
		}
		if leader, _, err := a.inquire(ctx); err == nil && leader != "" {
			a.replica.Reconnect()
		}
	}
}

// fewEvery is how often a node asks who votes that knows of too few.
const fewEvery = 250 * time.Millisecond

// fewVoters tells whether this node, which takes no part in raft, knows of fewer
// voters than a cluster of this size keeps.
func (a *Agent) fewVoters() bool {
	if in, _ := a.member(); in {
		return false
	}
	if !a.replica.Synced() {
		return true // how many there are is not known yet
	}
	want := 1
	switch nodes := len(a.replica.Store().List(object.KindNode, "", "")); {
	case nodes >= 7:
		want = 5
	case nodes >= 3:
		want = 3
	}
	return len(a.compass.names()) < want
}

// hearVoters asks the leader who votes, on a node that takes no part in raft. No
// object tells it, and whoever knew only those of the day it joined would have
// nobody left to ask when they are gone.
func (a *Agent) hearVoters(ctx context.Context, leader string) {
	if in, _ := a.member(); in {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	answer, err := a.peers.Client(leader).Leader(ctx, &skeinv1.LeaderRequest{})
	if err == nil && answer.GetLeader() != "" {
		a.compass.heard(a.cfg.Name, answer.GetLeader(), peerAddrs(answer.GetVoters()))
	}
}

// watchLeader makes everybody who follows look again when leadership moves, so
// that nobody waits for a dead leader's connection to time out.
func (a *Agent) watchLeader(ctx context.Context) error {
	last, elected := a.leader(), a.raft.Leader()
	for {
		changed, told, heard := a.raft.LeaderChanged(), a.compass.leaderChanged(), a.gossip.Changed()
		if now := a.raft.Leader(); now != elected {
			elected = now
			a.compass.elected(now)
		}
		if now := a.leader(); now != last {
			a.log.Info("leader changed", "node", now, "before", last)
			last = now
			a.replica.Reconnect()
			a.gossip.LeaderChanged()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-told:
		case <-heard:
			a.missLeader()
		}
	}
}

// missLeader makes a node that takes no part in raft look for another leader
// when the one it was told of is not there. It is for the news of gossip alone:
// voters may name that one until they have elected another.
func (a *Agent) missLeader() {
	leader := a.leader()
	if in, _ := a.member(); in || leader == "" {
		return
	}
	if m, ok := a.gossip.Member(leader); ok && m.State != gossip.StateAlive {
		a.compass.told("", nil)
		a.replica.Reconnect()
	}
}
