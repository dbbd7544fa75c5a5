package verdict

import (
	"slices"
	"time"
)

// A Machine judges nodes during one leader's term after another. It is not
// safe for concurrent use.
type Machine struct {
	self      string
	rules     Rules
	nodes     map[string]*node
	active    map[string]*node // of which something is to be decided
	observers func(string) []string
	leading   bool
	judgeAt   time.Time
	connectAt time.Time // when nodes without a stream are looked at; zero: they were
	wake      time.Time
	live      int // nodes that are not lost; -1: to be counted
	lastID    uint64
	breaker   breaker
	out       []Action
}

// A stream is a node's connection to us.
type stream int

const (
	streamNever  stream = iota // not in this term
	streamOpen                 // or closed, but the node answered since
	streamClosed               // and nothing is known yet
)

type node struct {
	name  string
	state State
	epoch uint64

	stream  stream
	reports map[string]time.Time // until when each counts
	since   time.Time            // of what is to be verified; zero: nothing
	told    bool                 // Suspect was
	until   time.Time            // of Gone
	silent  time.Time            // since when probes of ours met silence only
	rounds  int

	probe   uint64 // under way, 0 if none
	begun   time.Time
	next    time.Time // not before
	pause   time.Duration
	refuted time.Time
	failed  time.Time // as a helper
	attempt int
	flaps   flaps

	logged State     // as the log has it
	unsaid time.Time // since when the log shows something else than we said
}

// New makes a machine for the node called self. It judges nobody before Term.
func New(self string, rules Rules) *Machine {
	return &Machine{
		self: self, rules: rules, nodes: map[string]*node{}, active: map[string]*node{},
		observers: func(string) []string { return nil },
	}
}

// Deadline is when Step wants to be called with a Tick if nothing else happens
// before; zero: not at all.
func (m *Machine) Deadline() time.Time { return m.wake }

// Step takes in an event and returns what to do, in order. Time never goes
// back from one call to the next.
func (m *Machine) Step(now time.Time, ev Event) []Action {
	m.out, m.live = nil, -1
	m.forgive(now)
	switch ev := ev.(type) {
	case Term:
		m.term(now)
	case Members:
		m.members(now, ev)
	case Report:
		m.report(now, ev)
	case StreamOpen:
		m.opened(now, ev)
	case StreamClosed:
		m.closed(ev)
	case Probed:
		m.probed(now, ev)
	case Tick:
	}
	m.decide(now)
	return m.out
}

func (m *Machine) act(a Action) { m.out = append(m.out, a) }

func (m *Machine) touch(n *node) { m.active[n.name] = n }

// forgive moves all that is waited for by the time that this process slept:
// nobody could reach us meanwhile, and our own probes prove nothing.
func (m *Machine) forgive(now time.Time) {
	if m.wake.IsZero() || now.Sub(m.wake) <= m.rules.Late {
		return
	}
	late := now.Sub(m.wake)
	shift := func(t *time.Time) {
		if !t.IsZero() {
			*t = t.Add(late)
		}
	}
	shift(&m.judgeAt)
	shift(&m.connectAt)
	m.breaker.shift(late)
	for _, n := range m.active {
		for by, until := range n.reports {
			n.reports[by] = until.Add(late)
		}
		for _, t := range []*time.Time{&n.since, &n.until, &n.silent, &n.unsaid} {
			shift(t)
		}
		n.probe = 0 // what it brings is void: begin again
		n.next = time.Time{}
	}
	m.wake = now
}

func (m *Machine) term(now time.Time) {
	m.leading, m.judgeAt = true, now.Add(m.rules.Settle)
	m.connectAt = m.judgeAt.Add(m.rules.Connect)
	if m.breaker.on {
		m.act(SlowOver{})
	}
	m.breaker = breaker{}
	clear(m.active)
	for name, n := range m.nodes {
		m.nodes[name] = &node{name: name, state: n.logged, logged: n.logged, until: n.until}
		if n.logged == Gone {
			m.touch(m.nodes[name])
		}
	}
}

func (m *Machine) members(now time.Time, ev Members) {
	if m.observers = ev.Observers; m.observers == nil {
		m.observers = func(string) []string { return nil }
	}
	here := make(map[string]bool, len(ev.Nodes))
	for _, in := range ev.Nodes {
		here[in.Name] = true
		n := m.nodes[in.Name]
		if n == nil {
			n = &node{name: in.Name, state: in.State, logged: in.State, until: in.Until}
			if in.State == Gone && in.Until.IsZero() {
				n.until = now.Add(m.rules.Grace)
			}
			if now.After(m.judgeAt) {
				n.stream = streamOpen // a newcomer: it has not had the time
			}
			m.nodes[in.Name] = n
			if n.state == Gone {
				m.touch(n)
			}
		}
		m.adopt(n, in)
	}
	m.live = -1
	for name := range m.nodes {
		if !here[name] {
			delete(m.nodes, name)
			delete(m.active, name)
		}
	}
}

// adopt takes over what the log says, unless it does not say yet what we said.
func (m *Machine) adopt(n *node, in Node) {
	if in.State != n.logged && n.unsaid.IsZero() && in.State != n.state {
		fresh := node{name: n.name, state: in.State, until: in.Until, stream: n.stream, epoch: n.epoch, attempt: n.attempt, flaps: n.flaps}
		*n = fresh
		m.touch(n)
	}
	if n.logged = in.State; n.logged == n.state {
		n.unsaid = time.Time{}
	}
}

func (m *Machine) report(now time.Time, ev Report) {
	n, by := m.nodes[ev.Node], m.nodes[ev.Reporter]
	if n == nil || by == nil || n == by || n.name == m.self || n.state == Lost || by.state == Lost ||
		ev.Epoch != 0 && ev.Epoch < n.epoch {
		return
	}
	if ev.Cleared {
		delete(n.reports, ev.Reporter)
		m.touch(n)
		return
	}
	if !slices.Contains(m.observers(ev.Node), ev.Reporter) {
		return
	}
	if n.reports == nil {
		n.reports = map[string]time.Time{}
	}
	if _, again := n.reports[ev.Reporter]; !again {
		n.next = time.Time{} // news: no pause
	}
	n.reports[ev.Reporter] = now.Add(m.rules.Forget)
	m.touch(n)
}

func (m *Machine) closed(ev StreamClosed) {
	n := m.nodes[ev.Node]
	if n == nil || n.name == m.self {
		return
	}
	n.stream, n.next = streamClosed, time.Time{}
	if n.state == Lost {
		n.since = time.Time{}
	}
	m.touch(n)
}

// opened takes in a certified sign of life.
func (m *Machine) opened(now time.Time, ev StreamOpen) {
	n := m.nodes[ev.Node]
	if n == nil || n.name == m.self {
		return
	}
	n.stream = streamOpen
	n.epoch = max(n.epoch, ev.Epoch)
	m.touch(n)
	if n.state == Lost { // its beats too, before it gets work again
		n.since, n.next = now, time.Time{}
		return
	}
	m.answered(now, n)
}

// answered notes that a node's agent lives, and ends every suspicion.
func (m *Machine) answered(now time.Time, n *node) {
	if n.told {
		m.act(Clear{Node: n.name})
		m.flapped(now, n, 1)
	}
	if n.state != OK {
		lost := n.state == Lost
		n.state, m.live = OK, -1
		m.act(Return{Node: n.name})
		m.disagree(now, n)
		if lost {
			m.flapped(now, n, 2)
		}
	}
	if n.stream == streamClosed || n.stream == streamNever && m.connectAt.IsZero() {
		n.stream = streamOpen
	}
	n.reports, n.told, n.since, n.silent, n.until = nil, false, time.Time{}, time.Time{}, time.Time{}
	n.probe, n.rounds = 0, 0
}

func (m *Machine) disagree(now time.Time, n *node) {
	n.unsaid = time.Time{}
	if n.logged != n.state {
		n.unsaid = now
	}
}
