package verdict

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// decide looks at every node of which something is to be decided, in the order
// of their names, and works out when to look again.
func (m *Machine) decide(now time.Time) {
	m.wake = time.Time{}
	if !m.leading {
		return
	}
	m.connect(now)
	busy := false
	for _, name := range slices.Sorted(maps.Keys(m.active)) {
		n := m.active[name]
		if again := m.look(now, n); again.IsZero() {
			delete(m.active, name)
		} else {
			m.sooner(again)
		}
		busy = busy || n.state == OK && !n.since.IsZero()
	}
	if m.breaker.rest(!busy, now) {
		m.act(SlowOver{})
	}
}

func (m *Machine) sooner(t time.Time) {
	if m.wake.IsZero() || t.Before(m.wake) {
		m.wake = t
	}
}

// connect looks, once, at those that never opened a stream to this leader.
func (m *Machine) connect(now time.Time) {
	switch {
	case m.connectAt.IsZero():
	case now.Before(m.connectAt):
		m.sooner(m.connectAt)
	default:
		m.connectAt = time.Time{}
		for _, n := range m.nodes {
			if n.stream == streamNever && n.state != Lost && n.name != m.self {
				m.touch(n)
			}
		}
	}
}

// look decides on one node and returns when to look again; zero: only when
// there is news of it.
func (m *Machine) look(now time.Time, n *node) time.Time {
	again := m.trusted(now, n)
	if n.name == m.self || m.size() < 2 && n.state != Lost { // who is alone judges nobody, but welcomes who returns
		return again
	}
	sooner := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	if !n.unsaid.IsZero() { // the log does not show our verdict yet
		if at := n.unsaid.Add(insistAfter); now.Before(at) {
			sooner(at)
		} else {
			m.insist(n)
			n.unsaid = now
			sooner(now.Add(insistAfter))
		}
	}
	// A verification may begin so that its result is there when we may judge.
	early := m.judgeAt.Add(-time.Duration(m.rules.Rounds) * m.rules.Verify)
	if now.Before(early) {
		sooner(early)
		return again
	}
	if !m.wanted(now, n) {
		for _, until := range n.reports {
			sooner(until)
		}
		return again
	}
	if n.probe != 0 && now.Before(n.begun.Add(answerIn)) {
		sooner(n.begun.Add(answerIn))
		return again
	}
	if now.Before(n.next) {
		sooner(n.next)
		return again
	}
	m.verify(now, n)
	sooner(n.begun.Add(answerIn))
	return again
}

// insist gives again a verdict that did not reach the log.
func (m *Machine) insist(n *node) {
	switch n.state {
	case OK:
		m.act(Return{Node: n.name})
	case Gone:
		m.act(GoneUntil{Node: n.name, Until: n.until})
	case Lost:
		m.act(Declare{Node: n.name, Evidence: Evidence{Why: "lost, as was said before"}})
	}
}

// wanted says whether there is reason to verify a node, and tells of a
// suspicion that begins or ends.
func (m *Machine) wanted(now time.Time, n *node) bool {
	if n.state == Lost {
		return !n.since.IsZero() // its stream is open again
	}
	by := m.reporters(now, n)
	missed := len(by) >= m.enough(n)
	unconnected := n.stream == streamNever && m.connectAt.IsZero()
	if !missed && n.told {
		n.told = false
		m.act(Clear{Node: n.name})
		m.flapped(now, n, 1)
	}
	if !missed && n.stream != streamClosed && !unconnected && n.state != Gone {
		n.since, n.silent, n.rounds = time.Time{}, time.Time{}, 0
		return false
	}
	if n.since.IsZero() {
		n.since = now
		m.suspectAnother(now, n)
	}
	if missed && !n.told && n.state == OK {
		n.told = true
		m.act(Suspect{Node: n.name})
	}
	return true
}

func (m *Machine) verify(now time.Time, n *node) {
	m.lastID++
	n.attempt++
	n.probe, n.begun = m.lastID, now
	m.act(Verify{ID: n.probe, Node: n.name, Helpers: m.helpers(now, n)})
}

// probed weighs what a verification found.
func (m *Machine) probed(now time.Time, ev Probed) {
	var n *node
	for _, c := range m.active {
		if c.probe == ev.ID && ev.ID != 0 {
			n = c
		}
	}
	if n == nil {
		return // void, or overtaken
	}
	n.probe = 0
	found := map[Outcome]int{ev.Self: 1}
	var silent []string
	for _, name := range slices.Sorted(maps.Keys(ev.Helpers)) {
		outcome := ev.Helpers[name]
		found[outcome]++
		if h := m.nodes[name]; h != nil {
			if h.failed = (time.Time{}); outcome == Unknown {
				h.failed = now
			}
		}
		if outcome == Silent {
			silent = append(silent, name)
		}
	}
	switch {
	case found[Alive] > 0:
		n.epoch = max(n.epoch, ev.Epoch)
		m.refute(now, n)
	case n.state == Lost:
		n.next = now.Add(pauseMost) // as it was, as long as its stream is open
	case found[AgentGone] > 0:
		m.gone(now, n, ev.Confirmed)
	default:
		m.silence(now, n, ev, silent)
	}
}

// refute ends a suspicion, and paces the next verifications of a node that
// keeps being reported and keeps answering.
func (m *Machine) refute(now time.Time, n *node) {
	if now.Sub(n.refuted) > 10*time.Second {
		n.pause = 0
	}
	n.pause = min(max(2*n.pause, againEvery), pauseMost)
	n.refuted, n.next = now, now.Add(n.pause)
	m.answered(now, n)
}

func (m *Machine) gone(now time.Time, n *node, confirmed bool) {
	n.silent, n.rounds = time.Time{}, 0
	n.next = now.Add(goneEvery)
	if n.state != Gone {
		n.state, n.until = Gone, now.Add(m.rules.Grace)
		n.told = false
		m.act(GoneUntil{Node: n.name, Until: n.until})
		m.disagree(now, n)
		return
	}
	if now.Before(n.until) {
		n.next = minTime(n.next, n.until)
		return
	}
	if confirmed {
		m.declare(now, n, fmt.Sprintf("its agent was gone for %v", m.rules.Grace), nil)
	}
}

// silence weighs a verification in which nobody heard anything of a node.
func (m *Machine) silence(now time.Time, n *node, ev Probed, silent []string) {
	n.next = now.Add(againEvery)
	if !ev.Confirmed {
		return
	}
	if m.size() == 2 {
		m.alone(now, n, ev)
		return
	}
	// Nobody of the helpers answered us: we are the isolated one. And if we
	// could not even send, one helper's word is not enough.
	if len(silent) == 0 || ev.Self != Silent && len(silent) < 2 {
		n.silent, n.rounds = time.Time{}, 0
		return
	}
	if n.silent.IsZero() {
		n.silent = n.begun
	}
	if n.rounds++; n.rounds < m.rules.Rounds {
		n.next = now
		return
	}
	m.declare(now, n, "its machine answers neither "+strings.Join(append(slices.Clone(silent), m.self), " nor "), silent)
}

// alone judges the other one of two nodes, which nobody else can see.
func (m *Machine) alone(now time.Time, n *node, ev Probed) {
	if ev.Self != Silent {
		n.silent, n.rounds = time.Time{}, 0
		return
	}
	n.rounds++
	if n.silent.IsZero() {
		n.silent = n.begun
	}
	n.next = now
	if now.Sub(n.silent) >= m.rules.Alone {
		m.declare(now, n, fmt.Sprintf("%s did not reach its machine for %v, and there is nobody else to ask", m.self, m.rules.Alone), nil)
	}
}

// declare gives the verdict, unless the breaker holds it back.
func (m *Machine) declare(now time.Time, n *node, why string, silent []string) {
	at := maxTime(m.judgeAt, n.since.Add(n.flaps.later(now)))
	if !now.Before(at) {
		at = m.breaker.allows(now, n, m.rules)
	}
	if now.Before(at) {
		n.next = minTime(at, now.Add(slowEvery))
		return
	}
	e := Evidence{
		Why: why, Since: n.since, Reporters: m.reporters(now, n),
		StreamClosed: n.stream == streamClosed, Silent: silent, Rounds: n.rounds,
	}
	n.state, n.told, m.live = Lost, false, -1
	n.since, n.silent, n.until, n.reports, n.rounds = time.Time{}, time.Time{}, time.Time{}, nil, 0
	if n.stream == streamOpen { // it may come back without ever closing it
		n.since, n.next = now, now.Add(pauseMost)
	}
	m.breaker.lost++
	m.act(Declare{Node: n.name, Evidence: e})
	m.disagree(now, n)
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
