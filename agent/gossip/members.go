package gossip

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	maxSeeds   = 64
	maxStrange = 256
	// A member that memberlist gave up stays on the ring this long, so that
	// its observers tell a leader who comes late.
	ringKeeps = time.Minute
)

// A State is how a member is, by this node's view.
type State int

// The states, in no order.
const (
	StateAlive State = iota
	// StateSuspect: two of its observers miss its beats. Reversible.
	StateSuspect
	// StateGone: two of its observers miss its beats, but its kernel answers.
	StateGone
	// StateDead: memberlist gave it up, after several seconds.
	StateDead
	// StateLeft: it said that it stops.
	StateLeft
)

// String returns the state in a word.
func (s State) String() string {
	return [...]string{"alive", "suspect", "agent-gone", "dead", "left"}[s]
}

// A Member is a node of the cluster that has been heard of since this agent
// started.
type Member struct {
	Name  string
	Addr  netip.AddrPort // the last one that is known
	Meta  Meta           // what it said of itself last
	State State
	Since time.Time // of this state
}

// member is what we keep of one. Its State is worked out by assess.
type member struct {
	Member
	dead    time.Time // when memberlist gave it up; zero: it did not
	leaving bool      // it said so
}

// Members lists all members, this node among them, by name.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	list := make([]Member, 0, len(g.members))
	for _, m := range g.members {
		list = append(list, m.Member)
	}
	g.mu.Unlock()
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Member returns one of Members.
func (g *Gossip) Member(name string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.members[name]
	if !ok {
		return Member{}, false
	}
	return m.Member, true
}

// Addr is the last known address of a node, dead or alive.
func (g *Gossip) Addr(name string) (netip.AddrPort, bool) {
	m, ok := g.Member(name)
	return m.Addr, ok
}

// Suspects lists the nodes that two of their observers miss, by name.
func (g *Gossip) Suspects() []string {
	var names []string
	for _, m := range g.Members() {
		if m.State == StateSuspect {
			names = append(names, m.Name)
		}
	}
	return names
}

// Changed returns a channel that is closed when Members would answer
// differently. Take it before calling Members.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// notify is called with mu held.
func (g *Gossip) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// assess works out a member's state and says whether it changed. With mu held.
func (g *Gossip) assess(now time.Time, m *member) bool {
	boot := m.Meta.Epoch
	if p := g.detector.peer(m.Name); p != nil {
		boot = max(boot, p.epoch)
	}
	state := StateAlive
	switch said := g.claims.of(now, m.Name, boot); {
	case !m.dead.IsZero() && m.leaving:
		state = StateLeft
	case !m.dead.IsZero():
		state = StateDead
	case said == claimSilent:
		state = StateSuspect
	case said == claimGone:
		state = StateGone
	}
	if state == m.State {
		return false
	}
	g.log.Debug("member changed", "node", m.Name, "from", m.State.String(), "to", state.String())
	m.State, m.Since = state, now
	return true
}

// assessAll is called with mu held.
func (g *Gossip) assessAll(now time.Time) {
	changed := false
	for _, m := range g.members {
		changed = g.assess(now, m) || changed
	}
	if changed {
		g.notify()
	}
}

// size counts the living members, this node among them.
func (g *Gossip) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.living()
}

// living is called with mu held.
func (g *Gossip) living() int {
	n := 0
	for _, m := range g.members {
		if m.dead.IsZero() {
			n++
		}
	}
	return n
}

// events takes memberlist's callbacks. memberlist holds its lock while it
// calls, so nothing here may block or call back into it.
type events struct{ g *Gossip }

// NotifyJoin is told of a member that is new or back.
func (e events) NotifyJoin(n *memberlist.Node) { e.g.heardOf(n) }

// NotifyUpdate is told of new metadata.
func (e events) NotifyUpdate(n *memberlist.Node) { e.g.heardOf(n) }

// NotifyLeave is told of a member that was given up or said that it leaves.
func (e events) NotifyLeave(n *memberlist.Node) {
	g, now := e.g, time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[n.Name]
	if m == nil || n.Name == g.cfg.Name {
		return
	}
	m.dead = now
	g.dirty = true
	if g.assess(now, m) {
		g.notify()
	}
	signal(g.poke)
}

func (g *Gossip) heardOf(n *memberlist.Node) {
	addr, ok := nodeAddr(n)
	meta, err := parseMeta(n.Meta)
	if !ok || err != nil {
		return // NotifyAlive has refused it
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[n.Name]
	if m == nil {
		m = &member{Member: Member{Name: n.Name, Since: now}}
		g.members[n.Name] = m
		g.dirty = true
	}
	if !m.dead.IsZero() {
		m.dead, m.leaving = time.Time{}, false
		g.dirty = true
		g.newcomer(n.Name)
	}
	if m.Meta.Epoch != meta.Epoch {
		g.newcomer(n.Name) // it has started again, and forgotten
	}
	m.Addr, m.Meta = addr, meta
	delete(g.strange, n.Name)
	g.assess(now, m)
	g.notify()
	if g.dirty {
		signal(g.poke)
	}
}

var (
	errUnknown  = errors.New("no node of this cluster")
	errNonsense = errors.New("address or metadata make no sense")
)

// NotifyAlive decides whether to believe in a member. Those we do not know may
// only be news that has not reached us yet: a few are remembered.
func (e events) NotifyAlive(n *memberlist.Node) error {
	addr, ok := nodeAddr(n)
	if !ok || n.Name == "" || len(n.Name) > maxName {
		return errNonsense
	}
	if _, err := parseMeta(n.Meta); err != nil {
		return errNonsense
	}
	g := e.g
	if s := g.cfg.Simulated; s != nil && n.Name != g.cfg.Name && !s.Real(n.Name) {
		return errUnknown
	}
	if n.Name == g.cfg.Name || g.cfg.Known(n.Name) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.strange) < maxStrange {
		g.strange[strings.Clone(n.Name)] = addr
	}
	return errUnknown
}

// NotifyConflict is told when a member is said to be elsewhere. memberlist
// moves it once the old address is dead; if it is about us, we ask until then.
func (e events) NotifyConflict(existing, _ *memberlist.Node) {
	g := e.g
	if existing.Name != g.cfg.Name {
		return
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.After(g.displaced) {
		signal(g.tend) // the first; later ones come of what it does
	}
	g.displaced = now.Add(movedFor)
}

func nodeAddr(n *memberlist.Node) (netip.AddrPort, bool) {
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok || n.Port == 0 || ip.IsUnspecified() || ip.IsMulticast() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), n.Port), true
}

// NodeMeta is what we say of ourselves.
func (e events) NodeMeta(limit int) []byte {
	e.g.mu.Lock()
	defer e.g.mu.Unlock()
	if len(e.g.meta) > limit {
		return nil
	}
	return e.g.meta
}

// NotifyMsg takes in a claim or a hint that came by gossip.
func (e events) NotifyMsg(b []byte) { e.g.heardRumour(slices.Clone(b)) }

// GetBroadcasts hands claims and hints to memberlist to pass on.
func (e events) GetBroadcasts(overhead, limit int) [][]byte {
	return e.g.rumours.GetBroadcasts(overhead, limit)
}

// LocalState adds nothing to an exchange of the membership: builds before hints
// refuse one that says more.
func (e events) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores what others add.
func (e events) MergeRemoteState([]byte, bool) {}
