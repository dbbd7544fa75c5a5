package verdict

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A world is a discrete-event simulation of nodes that beat, observers that
// miss beats, a leader with a Machine, and helpers that probe. It is coarse:
// what it must get right is who can hear whom, when.
type world struct {
	rng     *rand.Rand
	loss    float64
	now     time.Time
	queue   events
	seq     int
	steps   int
	names   []string
	nodes   map[string]*simNode
	by      func(string) []string
	machine *Machine
	leader  string
	ticking time.Time

	lost              map[string]time.Time
	gone              map[string]time.Time
	term              int
	declared, wasGone int
}

type simNode struct {
	name      string
	machineUp bool
	agentUp   bool
	died      time.Time
	stalled   time.Time            // until then its agent does nothing
	frozen    time.Time            // until then its kernel does neither
	heard     map[string]time.Time // of those it observes
	said      map[string]time.Time // suspicions, when last told
	tick      time.Time            // when it wanted to look
	observed  []string
}

type simEvent struct {
	at  time.Time
	seq int
	do  func()
}

type events []simEvent

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

const (
	simBeat    = 150 * time.Millisecond
	simSuspect = 480 * time.Millisecond
	simLook    = 30 * time.Millisecond
)

func newWorld(seed uint64, size int, loss float64) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 7)), loss: loss, now: time.Unix(0, 0),
		nodes: map[string]*simNode{}, lost: map[string]time.Time{}, gone: map[string]time.Time{},
	}
	for i := range size {
		name := fmt.Sprintf("n%02d", i+1)
		w.names = append(w.names, name)
		w.nodes[name] = &simNode{
			name: name, machineUp: true, agentUp: true,
			heard: map[string]time.Time{}, said: map[string]time.Time{},
		}
	}
	w.by = successors(w.names)
	for _, of := range w.names {
		for _, by := range w.by(of) {
			w.nodes[by].observed = append(w.nodes[by].observed, of)
			w.nodes[by].heard[of] = w.now
		}
	}
	for _, name := range w.names {
		offset := time.Duration(w.rng.Int64N(int64(simBeat)))
		w.at(offset, func() { w.beat(name) })
		w.at(offset, func() { w.look(name) })
	}
	w.lead(w.names[0])
	return w
}

func (w *world) at(after time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, simEvent{at: w.now.Add(after), seq: w.seq, do: do})
}

func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(simEvent)
		w.now = e.at
		w.steps++
		e.do()
	}
	w.now = end
}

// returns says whether a datagram and the answer to it both arrive.
func (w *world) returns() bool {
	return w.rng.Float64() >= 1-(1-w.loss)*(1-w.loss)
}

func (w *world) passes() bool { return w.rng.Float64() >= w.loss }

// awake says whether a node's agent can act now.
func (w *world) awake(n *simNode) bool {
	return n.machineUp && n.agentUp && !w.now.Before(n.stalled)
}

func (w *world) beat(name string) {
	n := w.nodes[name]
	if w.awake(n) {
		for _, by := range w.by(name) {
			if o := w.nodes[by]; o.machineUp && w.passes() {
				o.heard[name] = w.now // a socket hears for a sleeper, too
			}
		}
	}
	w.at(simBeat, func() { w.beat(name) })
}

func (w *world) look(name string) {
	n := w.nodes[name]
	if !w.awake(n) {
		w.at(max(n.stalled.Sub(w.now), simLook), func() { w.look(name) })
		return
	}
	late := time.Duration(0)
	if !n.tick.IsZero() {
		late = w.now.Sub(n.tick)
	}
	for _, of := range n.observed {
		if late > simBeat/2 {
			n.heard[of] = n.heard[of].Add(late)
		}
		silent := w.now.Sub(n.heard[of])
		said, told := n.said[of]
		switch {
		case silent >= simSuspect && (!told || w.now.Sub(said) >= time.Second):
			n.said[of] = w.now
			w.tell(Report{Reporter: name, Node: of, Epoch: 1})
		case silent < simSuspect && told:
			delete(n.said, of)
			w.tell(Report{Reporter: name, Node: of, Epoch: 1, Cleared: true})
		}
	}
	n.tick = w.now.Add(simLook)
	w.at(simLook, func() { w.look(name) })
}

// tell brings an event to the leader, over a stream.
func (w *world) tell(ev Event) {
	w.at(time.Millisecond, func() { w.step(ev) })
}

// step runs the leader's machine, now or when the leader wakes.
func (w *world) step(ev Event) {
	l := w.nodes[w.leader]
	if !l.machineUp {
		return
	}
	if w.now.Before(l.stalled) {
		w.at(l.stalled.Sub(w.now), func() { w.step(ev) })
		return
	}
	for _, a := range w.machine.Step(w.now, ev) {
		w.perform(a)
	}
	if d := w.machine.Deadline(); !d.IsZero() && !d.Equal(w.ticking) {
		w.ticking = d
		w.at(max(d.Sub(w.now), 0), func() {
			if w.machine.Deadline().Equal(d) {
				w.ticking = time.Time{}
				w.step(Tick{})
			}
		})
	}
}

func (w *world) perform(a Action) {
	switch a := a.(type) {
	case Verify:
		w.verify(a)
	case Declare:
		w.declared++
		w.lost[a.Node] = w.now
		w.at(5*time.Millisecond, w.members)
	case GoneUntil:
		w.wasGone++
		w.gone[a.Node] = w.now
		w.at(5*time.Millisecond, w.members)
	case Return:
		delete(w.lost, a.Node)
		delete(w.gone, a.Node)
		w.at(5*time.Millisecond, w.members)
	}
}

func (w *world) members() {
	var nodes []Node
	for _, name := range w.names {
		n := Node{Name: name}
		if _, ok := w.gone[name]; ok {
			n.State = Gone
		}
		if _, ok := w.lost[name]; ok {
			n.State = Lost
		}
		nodes = append(nodes, n)
	}
	w.step(Members{Nodes: nodes, Observers: w.by})
}

// lead makes a node the leader; all others connect to it within half a second.
func (w *world) lead(name string) {
	w.term++
	w.leader, w.machine, w.ticking = name, New(name, Defaults()), time.Time{}
	w.members()
	w.step(Term{})
	term := w.term
	for _, other := range w.names {
		w.at(time.Duration(w.rng.Int64N(int64(500*time.Millisecond))), func() {
			n := w.nodes[other]
			if w.term != term || other == name || !n.machineUp || !n.agentUp {
				return
			}
			if wait := n.stalled.Sub(w.now); wait > 0 {
				w.at(wait, func() { w.step(StreamOpen{Node: other, Epoch: 1}) })
				return
			}
			w.step(StreamOpen{Node: other, Epoch: 1})
		})
	}
	for _, n := range w.nodes {
		clear(n.said) // told again to the new leader
	}
}

// verify probes from everywhere and answers.
func (w *world) verify(v Verify) {
	p := Probed{ID: v.ID, Helpers: map[string]Outcome{}}
	begun := w.now
	var done time.Time
	outcome := func(prober string) (Outcome, time.Time) {
		from := w.nodes[prober]
		if !from.machineUp || !from.agentUp {
			return Unknown, begun.Add(400 * time.Millisecond)
		}
		start := begun
		if from.stalled.After(start) {
			start = from.stalled
		}
		o, at := w.probe(w.nodes[v.Node], start)
		if prober != w.leader && at.Sub(begun) > 400*time.Millisecond {
			return Unknown, begun.Add(400 * time.Millisecond)
		}
		return o, at
	}
	var at time.Time
	p.Self, at = outcome(w.leader)
	done = later(done, at)
	for _, h := range v.Helpers {
		p.Helpers[h], at = outcome(h)
		done = later(done, at)
		p.Confirmed = p.Confirmed || p.Helpers[h] != Unknown
	}
	// A quorum answers if more than half of the voters do; take the nodes for it.
	up := 0
	for _, n := range w.nodes {
		if n.machineUp && n.agentUp {
			up++
		}
	}
	p.Confirmed = 2*up > len(w.nodes) || len(w.nodes) == 2
	if p.Self == Alive {
		p.Epoch = 1
	}
	w.at(done.Sub(w.now), func() { w.step(p) })
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// probe is two pings in a quarter of a second. A sleeper's socket keeps them
// until it wakes.
func (w *world) probe(to *simNode, start time.Time) (Outcome, time.Time) {
	end := start.Add(250 * time.Millisecond)
	if !to.machineUp {
		return Silent, end
	}
	for _, sent := range []time.Time{start, start.Add(120 * time.Millisecond)} {
		if !w.returns() {
			continue
		}
		if !to.agentUp {
			return AgentGone, sent.Add(time.Millisecond)
		}
		if at := later(sent, to.stalled).Add(time.Millisecond); at.Before(end) {
			return Alive, at
		}
	}
	// A datagram to a closed port, with each ping: the kernel refuses it.
	for _, sent := range []time.Time{start, start.Add(120 * time.Millisecond)} {
		if w.returns() && later(sent, to.frozen).Before(end) {
			return AgentGone, end
		}
	}
	return Silent, end
}

func (w *world) powerOff(name string) {
	n := w.nodes[name]
	n.machineUp, n.agentUp, n.died = false, false, w.now
}

func TestNobodyIsLostToLossAndStalls(t *testing.T) {
	steps, gone := 0, 0
	for seed := range uint64(20) {
		size := []int{3, 4, 5, 9, 20}[seed%5]
		w := newWorld(seed, size, 0.05)
		for range 300 {
			victim := w.nodes[w.names[w.rng.IntN(size)]]
			if w.rng.IntN(2) == 0 { // the whole machine stands still for up to half a second
				victim.frozen = w.now.Add(time.Duration(w.rng.IntN(500)) * time.Millisecond)
				victim.stalled = later(victim.stalled, victim.frozen)
			} else { // its agent gets no CPU for up to 3 s, its kernel answers
				victim.stalled = later(victim.stalled, w.now.Add(time.Duration(w.rng.IntN(3000))*time.Millisecond))
			}
			w.run(time.Second)
		}
		w.run(10 * time.Second)
		if len(w.lost) > 0 || len(w.gone) > 0 || w.declared > 0 {
			t.Errorf("seed %d, %d nodes: lost %v, gone %v, though nobody died", seed, size, w.lost, w.gone)
		}
		steps += w.steps
		gone += w.wasGone
	}
	t.Logf("%d steps, %d times an agent was held gone for a while", steps, gone)
}

func TestEveryDeathIsFoundInTime(t *testing.T) {
	worst := map[int]time.Duration{}
	for seed := range uint64(60) {
		size := []int{3, 4, 5, 9, 20}[seed%5]
		w := newWorld(seed, size, 0.05)
		w.run(10*time.Second + time.Duration(w.rng.Int64N(int64(time.Second))))
		victim := w.names[1+w.rng.IntN(size-1)]
		w.powerOff(victim)
		died := w.now
		w.run(20 * time.Second)
		at, ok := w.lost[victim]
		if !ok || at.Sub(died) > 1500*time.Millisecond {
			t.Errorf("seed %d, %d nodes: %s lost %v after its death, want within 1.5 s", seed, size, victim, at.Sub(died))
		}
		if len(w.lost) != 1 {
			t.Errorf("seed %d: lost %v, want only %s", seed, w.lost, victim)
		}
		worst[size] = max(worst[size], at.Sub(died))
	}
	t.Logf("worst by size: %v", worst)
}

func TestTheDeathOfTheLeaderWithAnotherIsFound(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(seed, 7, 0.02)
		w.run(10 * time.Second)
		victim := w.names[2+w.rng.IntN(5)]
		w.powerOff(victim)
		w.powerOff(w.leader)
		first := w.leader
		w.run(700 * time.Millisecond) // the election
		second := w.names[1]
		if second == victim {
			second = w.names[2]
		}
		w.lead(second)
		begun := w.now
		w.run(20 * time.Second)
		for _, dead := range []string{victim, first} {
			at, ok := w.lost[dead]
			if !ok || at.Sub(begun) > 4*time.Second {
				t.Errorf("seed %d: %s lost %v into the term, want within 4 s", seed, dead, at.Sub(begun))
			}
			if ok && at.Sub(begun) < time.Second {
				t.Errorf("seed %d: %s judged %v into the term, want no verdict before 1 s", seed, dead, at.Sub(begun))
			}
		}
		if len(w.lost) != 2 {
			t.Errorf("seed %d: lost %v, want two", seed, w.lost)
		}
	}
}

func TestACrashedAgentIsNotALostMachine(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(seed, 5, 0.05)
		w.run(10 * time.Second)
		victim := w.names[1+w.rng.IntN(4)]
		n := w.nodes[victim]
		n.agentUp = false
		w.tell(StreamClosed{victim})
		w.run(time.Duration(1+w.rng.IntN(27)) * time.Second)
		if _, ok := w.gone[victim]; !ok || len(w.lost) > 0 {
			t.Fatalf("seed %d: gone %v, lost %v, want %s gone alone", seed, w.gone, w.lost, victim)
		}
		n.agentUp = true
		w.tell(StreamOpen{Node: victim, Epoch: 2})
		w.run(60 * time.Second)
		if len(w.gone) > 0 || len(w.lost) > 0 {
			t.Errorf("seed %d: gone %v, lost %v, want it back", seed, w.gone, w.lost)
		}

		n.agentUp = false
		w.tell(StreamClosed{victim})
		w.run(29 * time.Second)
		if len(w.lost) > 0 {
			t.Errorf("seed %d: lost before its 30 s were over", seed)
		}
		w.run(10 * time.Second)
		if !slices.Contains(keys(w.lost), victim) {
			t.Errorf("seed %d: lost %v after 39 s, want %s", seed, w.lost, victim)
		}
	}
}

func keys(m map[string]time.Time) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	return names
}
