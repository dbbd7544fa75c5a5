package lease

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// drift bounds how far the rates of two clocks may be from true time's in these
// tests: 4 %.
const drift = 0.04

// A world has one Pod, whose binding the log holds, three machines that may run
// it and lead, and a network that loses, delays and cuts. Times are true ones;
// each machine counts by a clock of its own rate.
type world struct {
	rng    *rand.Rand
	drift  float64       // of clocks
	hurry  time.Duration // by how much a leader waits less than it should: a bug on purpose
	broken string        // how the law was broken, "" so far
	now    time.Duration
	queue  events
	seq    int

	term    int
	leaders []*leader // by term: deposed ones go on answering as long as they do not know
	nodes   [3]*holder
	bound   int    // the node that the log binds the Pod to
	pod     string // its uid, another one after each move
	moves   int
	lost    bool // the leader wants the Pod elsewhere
}

type leader struct {
	term    int
	node    int
	rate    float64
	table   *Table
	deposed time.Duration // since when a quorum follows another; 0: not
	bound   int           // as its log said then
	pod     string
}

type holder struct {
	rate   float64
	hold   *Holder
	cut    time.Duration            // until when nothing gets through
	paused time.Duration            // until when the agent stands still; its keeper does not
	dies   map[string]time.Duration // true time at which the keeper kills, by Pod
	runs   string
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(e[i].at, e[j].at), cmp.Compare(e[i].seq, e[j].seq)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, do})
}

// local is true time as a clock of that rate shows it.
func local(true_ time.Duration, rate float64) time.Duration {
	return time.Duration(float64(true_) * rate)
}

var epoch = time.Unix(0, 0)

func (w *world) rate() float64 { return 1 + w.drift*(2*w.rng.Float64()-1) }

func (w *world) delay() time.Duration {
	if w.rng.IntN(20) == 0 {
		return time.Duration(w.rng.Int64N(int64(15 * time.Second))) // held up on the way
	}
	return time.Duration(w.rng.Int64N(int64(50 * time.Millisecond)))
}

func (w *world) elect() {
	if n := len(w.leaders); n > 0 && w.leaders[n-1].deposed == 0 {
		old := w.leaders[n-1]
		old.deposed, old.bound, old.pod = w.now, w.bound, w.pod
	}
	w.term++
	l := &leader{term: w.term, node: w.rng.IntN(3), rate: w.rate()}
	// The barrier comes after the election, the table after the barrier.
	w.after(w.delay(), func() {
		l.table = NewTable(epoch.Add(local(w.now, l.rate)))
	})
	w.leaders = append(w.leaders, l)
}

func (w *world) leads() *leader { return w.leaders[len(w.leaders)-1] }

// ask is one renewal of a node, to whoever it takes for the leader, which may be
// one that was deposed.
func (w *world) ask(n int) {
	h := w.nodes[n]
	if w.now < h.paused {
		w.after(h.paused-w.now, func() { w.ask(n) })
		return
	}
	w.after(Renew, func() { w.ask(n) })
	if w.now < h.cut || w.rng.IntN(10) == 0 || w.bound != n {
		return
	}
	pod, sent := w.pod, w.now
	to := w.leaders[max(0, len(w.leaders)-1-w.rng.IntN(2))]
	w.after(w.delay(), func() { w.confirm(to, n, pod, sent) })
}

func (w *world) confirm(l *leader, n int, pod string, sent time.Duration) {
	if l.table == nil || l.deposed != 0 {
		return // no quorum confirms it
	}
	// The quorum has answered; the leader may stand still before it answers.
	pause := w.delay()
	w.after(pause, func() {
		bound, known := w.bound, w.pod
		if l.deposed != 0 { // its log goes no further
			bound, known = l.bound, l.pod
		}
		if bound != n || known != pod {
			return
		}
		if !l.table.Step(epoch.Add(local(w.now, l.rate)), Asked{pod}).OK {
			return
		}
		w.after(w.delay(), func() { w.granted(n, pod, sent) })
	})
}

func (w *world) granted(n int, pod string, sent time.Duration) {
	h := w.nodes[n]
	if w.now < h.cut {
		return
	}
	if w.now < h.paused {
		w.after(h.paused-w.now, func() { w.granted(n, pod, sent) })
		return
	}
	for _, limit := range h.hold.Granted(local(w.now, h.rate), local(sent, h.rate), []string{pod}) {
		h.dies[pod] = time.Duration(float64(limit.Kill) / h.rate)
	}
	if h.hold.MayStart(local(w.now, h.rate), pod) {
		h.runs = pod
	}
	w.check()
}

// check is the one law.
func (w *world) check() {
	running := 0
	for _, h := range w.nodes {
		if h.runs != "" && w.now < h.dies[h.runs] {
			running++
		}
	}
	if running > 1 && w.broken == "" {
		w.broken = fmt.Sprintf("%v: %d holders, after %d moves and %d terms", w.now, running, w.moves, w.term)
	}
}

// move is the leader's wish to run the Pod elsewhere, whatever its node does.
func (w *world) move() {
	w.after(100*time.Millisecond, w.move)
	l := w.leads()
	if l.table == nil || !w.lost || !l.table.Step(epoch.Add(local(w.now, l.rate)+w.hurry), Take{w.pod}).OK {
		return
	}
	l.table.Step(epoch.Add(local(w.now, l.rate)), Gone{w.pod})
	w.moves++
	w.pod = string(rune('a' + w.moves))
	w.bound = (w.bound + 1 + w.rng.IntN(2)) % 3
	w.lost = false
}

func (w *world) trouble() {
	w.after(time.Duration(w.rng.Int64N(int64(6*time.Second))), w.trouble)
	h := w.nodes[w.rng.IntN(3)]
	long := time.Duration(w.rng.Int64N(int64(25 * time.Second)))
	switch w.rng.IntN(5) {
	case 0:
		h.cut = w.now + long
	case 1:
		h.paused = w.now + long
	case 2:
		w.elect()
	case 3:
		w.lost = true
	case 4:
		w.nodes[w.bound].cut, w.lost = w.now+long, true
	}
}

func play(seed uint64, drift float64, hurry time.Duration) *world {
	const length = 5 * time.Minute
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), pod: "a", drift: drift, hurry: hurry}
	for i := range w.nodes {
		w.nodes[i] = &holder{rate: w.rate(), hold: NewHolder(), dies: map[string]time.Duration{}}
		w.after(time.Duration(i)*time.Millisecond, func() { w.ask(i) })
	}
	w.elect()
	w.move()
	w.after(time.Second, w.trouble)
	for len(w.queue) > 0 && w.now < length && w.broken == "" {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	return w
}

func TestThereAreNeverTwoHolders(t *testing.T) {
	const worlds = 4000
	moves, events := 0, 0
	for seed := range uint64(worlds) {
		w := play(seed, drift, 0)
		if w.broken != "" {
			t.Fatalf("seed %d: %s", seed, w.broken)
		}
		moves, events = moves+w.moves, events+w.seq
	}
	if moves < worlds || events < 1_000_000 {
		t.Errorf("%d moves and %d events in %d worlds: too few to say anything", moves, events, worlds)
	}
	t.Logf("%d worlds, %d moves, %d events", worlds, moves, events)
}

// The law must be able to fail.
func TestTwoHoldersAreFound(t *testing.T) {
	for name, bug := range map[string]struct {
		drift float64
		hurry time.Duration
	}{
		"a leader that waits two seconds less": {drift: drift, hurry: 2 * time.Second},
		"clocks that run apart by 20 %":        {drift: 5 * drift},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4000) {
				if w := play(seed, bug.drift, bug.hurry); w.broken != "" {
					t.Logf("found with seed %d: %s", seed, w.broken)
					return
				}
			}
			t.Error("not found")
		})
	}
	slow, fast := Kill.Seconds()/(1-drift), Wait.Seconds()/(1+drift)
	if slow >= fast {
		t.Errorf("a slow node is killed after %.2f s, a fast leader goes on after %.2f s", slow, fast)
	}
}

func TestWhatWasGivenAwayIsNotGranted(t *testing.T) {
	table := NewTable(epoch)
	if a := table.Step(epoch, Take{"a"}); a.OK || !a.At.Equal(epoch.Add(Wait)) {
		t.Errorf("a new leader gives away at once: %+v", a)
	}
	if a := table.Step(epoch.Add(Wait), Take{"a"}); !a.OK {
		t.Errorf("not free after the wait: %+v", a)
	}
	if a := table.Step(epoch.Add(Wait), Asked{"a"}); a.OK {
		t.Error("granted after it was given away")
	}
}

func TestAnOldAnswerDoesNotShortenALease(t *testing.T) {
	h := NewHolder()
	h.Granted(5*time.Second, 4*time.Second, []string{"a"})
	if l := h.Granted(6*time.Second, 3*time.Second, []string{"a"}); l != nil {
		t.Errorf("an overtaken answer gave %+v", l)
	}
	if l := h.Granted(20*time.Second, 9*time.Second, []string{"a"}); l != nil {
		t.Errorf("an answer that came too late gave %+v", l)
	}
	if !h.MayStart(8*time.Second, "a") || h.MayStart(9*time.Second, "a") {
		t.Error("a container may be started until 5 s after the request, and no later")
	}
}
