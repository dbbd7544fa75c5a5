package gossip

import (
	"hash/maphash"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/skein-dev/skein/agent/gossip/gossiptest"
	"github.com/skein-dev/skein/agent/leader/verdict"
)

// An alarmWorld is a discrete-event simulation of the path from a beat to a
// verdict: the detector of each node, the probes, the reports, elections, and
// the machine by which the leader judges. The detectors and the machine are the
// real ones; kernels, network and raft are modelled. Everybody lives, but
// processes stand still now and then, and datagrams are lost. One seed is one
// run, to the last event.
type alarmWorld struct {
	rng    *rand.Rand
	now    time.Duration
	queue  alarmQueue
	serial uint32
	nodes  []*alarmNode
	index  map[string]int
	names  []string
	ring   *Ring
	voters int
	mute   bool // kernels do not answer for processes that stand still

	leader   int
	term     int
	machine  *verdict.Machine
	ticking  time.Time
	logged   map[string]verdict.State
	until    map[string]time.Time
	settling bool // a new leader is being elected

	alarmCounts
	finger maphash.Hash                     // of all events, in order
	say    func(format string, args ...any) // of what is judged; nil: nothing
}

// alarmCounts is what came of it.
type alarmCounts struct {
	Steps, Stalls, Suspicions, Verifications, Gones, Elections int
	Moves                                                      int // verdicts that replace a node's Pods
}

func (c *alarmCounts) add(o alarmCounts) {
	c.Steps += o.Steps
	c.Stalls += o.Stalls
	c.Suspicions += o.Suspicions
	c.Verifications += o.Verifications
	c.Gones += o.Gones
	c.Elections += o.Elections
	c.Moves += o.Moves
}

type alarmNode struct {
	name     string
	detector *detector
	seq      uint64
	awake    time.Duration // until then its process stands still
	tick     time.Duration // for when it is to be woken
	buf      []action
}

// The modelled world.
const (
	alarmLoss   = 0.05
	retransmit  = 200 * time.Millisecond // of a stream, where a segment was lost
	alarmEvery  = 30 * time.Second       // between two stalls of a node
	alarmVerify = 500 * time.Millisecond // what the leader's court waits for helpers
)

var alarmStart = time.Unix(1_000_000, 0)

func newAlarmWorld(seed uint64, size int, key maphash.Seed) *alarmWorld {
	w := &alarmWorld{
		rng: rand.New(rand.NewPCG(seed, 17)), index: map[string]int{}, names: names(size), voters: 5,
		logged: map[string]verdict.State{}, until: map[string]time.Time{},
	}
	w.finger.SetSeed(key)
	switch {
	case size < 3:
		w.voters = 1
	case size < 7:
		w.voters = 3
	}
	w.ring = NewRing(w.names, nil)
	for i, name := range w.names {
		w.index[name] = i
		w.nodes = append(w.nodes, &alarmNode{name: name, detector: newDetector(name)})
	}
	for i := range w.nodes {
		w.after(time.Duration(w.rng.Int64N(int64(beatEvery))), func() { w.step(i, event{kind: evView, ring: w.ring}) })
	}
	w.stallAll(seed)
	w.lead(0)
	return w
}

func (w *alarmWorld) time() time.Time { return alarmStart.Add(w.now) }

func (w *alarmWorld) after(d time.Duration, do func()) {
	w.push(alarmEvent{at: w.now + d, do: do})
}

func (w *alarmWorld) push(e alarmEvent) {
	w.serial++
	e.serial = w.serial
	w.queue.push(e)
}

// in runs do in a node's process: later, if that stands still.
func (w *alarmWorld) in(node int, do func()) {
	if n := w.nodes[node]; w.now < n.awake {
		w.after(n.awake-w.now+w.jitter(), func() { w.in(node, do) })
		return
	}
	do()
}

// jitter is what a scheduler takes to wake somebody.
func (w *alarmWorld) jitter() time.Duration {
	return time.Duration(w.rng.Int64N(int64(200 * time.Microsecond)))
}

func (w *alarmWorld) latency() time.Duration {
	return 50*time.Microsecond + time.Duration(w.rng.Int64N(int64(500*time.Microsecond)))
}

func (w *alarmWorld) lost() bool { return w.rng.Float64() < alarmLoss }

// stream is how long a message on a connection takes one way.
func (w *alarmWorld) stream() time.Duration {
	d := w.latency()
	for wait := retransmit; w.lost(); wait *= 2 {
		d += wait
	}
	return d
}

func (w *alarmWorld) run(d time.Duration) {
	for end := w.now + d; ; {
		e, ok := w.queue.pop(end)
		if !ok {
			w.now = end
			return
		}
		w.now = e.at
		w.Steps++
		switch e.kind {
		case alarmCall:
			e.do()
		case alarmBeat:
			w.beaten(e)
		case alarmTick:
			w.woken(e)
		}
	}
}

// beaten delivers a beat: the socket of a process that stands still keeps it.
func (w *alarmWorld) beaten(e alarmEvent) {
	n := w.nodes[e.node]
	if w.now < n.awake {
		e.at = n.awake + w.jitter()
		w.push(e)
		return
	}
	from := w.nodes[e.from]
	w.step(int(e.node), event{kind: evBeat, name: from.name, epoch: 1, seq: e.seq, view: w.ring.Hash()})
}

func (w *alarmWorld) woken(e alarmEvent) {
	n := w.nodes[e.node]
	if e.at != n.tick {
		return // another deadline took its place
	}
	if w.now < n.awake {
		e.at = n.awake + w.jitter()
		n.tick = e.at
		w.push(e)
		return
	}
	n.tick = -1
	w.step(int(e.node), event{kind: evTick})
}

// step steps a node's detector and does what it wants.
func (w *alarmWorld) step(node int, ev event) {
	n := w.nodes[node]
	n.buf = n.detector.step(w.time(), ev, n.buf[:0])
	for _, a := range n.buf {
		to := w.index[a.name]
		switch a.kind {
		case actBeat:
			if n.seq++; !w.lost() {
				w.push(alarmEvent{at: w.now + w.latency(), kind: alarmBeat, node: int32(to), from: int32(node), seq: n.seq})
			}
		case actAsk:
			w.probe(node, to, askWindow, func(o Outcome) {
				w.nodes[to].seq++
				w.step(node, event{kind: evAnswer, name: a.name, epoch: 1, seq: w.nodes[to].seq, answer: o})
			})
		case actSay:
			w.report(verdict.Report{Reporter: n.name, Node: a.name, Epoch: a.epoch, Cleared: a.what == claimCleared})
		case actMeet:
		}
	}
	at := n.detector.deadline()
	if at.IsZero() {
		n.tick = -1
		return
	}
	if d := max(at.Sub(alarmStart), w.now); d != n.tick {
		n.tick = d
		w.push(alarmEvent{at: d, kind: alarmTick, node: int32(node)})
	}
}

// stallAll lets the stalls of a seed happen, one after the other.
func (w *alarmWorld) stallAll(seed uint64) {
	next, _ := iter.Pull(gossiptest.Stalls(seed, len(w.nodes), alarmEvery))
	var one func(gossiptest.Stall)
	one = func(s gossiptest.Stall) {
		w.Stalls++
		w.mark(1, s.Node, int(s.For))
		if w.say != nil {
			w.say("%v %s stands still for %v", w.now, w.names[s.Node], s.For)
		}
		n := w.nodes[s.Node]
		n.awake = max(n.awake, w.now+s.For)
		if s.Node == w.leader {
			w.doubt(w.term)
		}
		s, _ = next()
		w.after(s.At-w.now, func() { one(s) })
	}
	first, _ := next()
	w.after(first.At, func() { one(first) })
}

// mark adds to the fingerprint of the run.
func (w *alarmWorld) mark(kind, who, what int) {
	for _, v := range []int{kind, who, what, int(w.now)} {
		maphash.WriteComparable(&w.finger, v)
	}
}

// An alarmEvent is of one of three kinds; beats and ticks are most of them.
type alarmEvent struct {
	at         time.Duration
	seq        uint64
	do         func()
	serial     uint32
	node, from int32
	kind       uint8
}

const (
	alarmCall = iota
	alarmBeat
	alarmTick
)

// An alarmQueue is a binary heap, by time and then by order of arrival.
type alarmQueue []alarmEvent

func (q alarmQueue) before(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}

func (q *alarmQueue) push(e alarmEvent) {
	*q = append(*q, e)
	h := *q
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(i, up) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

// pop takes out the first event, if it is not after end.
func (q *alarmQueue) pop(end time.Duration) (alarmEvent, bool) {
	h := *q
	if len(h) == 0 || h[0].at > end {
		return alarmEvent{}, false
	}
	first, last := h[0], len(h)-1
	h[0] = h[last]
	h[last].do = nil
	h = h[:last]
	*q = h
	for i := 0; ; {
		low := 2*i + 1
		if low+1 < last && h.before(low+1, low) {
			low++
		}
		if low >= last || !h.before(low, i) {
			return first, true
		}
		h[i], h[low] = h[low], h[i]
		i = low
	}
}

// fingerprint tells runs apart.
func (w *alarmWorld) fingerprint() (uint64, alarmCounts) {
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range w.logged {
			if !yield(name) {
				return
			}
		}
	}) {
		w.mark(2, w.index[name], int(w.logged[name]))
	}
	return w.finger.Sum64(), w.alarmCounts
}
