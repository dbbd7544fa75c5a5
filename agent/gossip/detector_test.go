package gossip

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A drill drives one detector, "n1", which watches and is watched by n2 and n3.
type drill struct {
	t     *testing.T
	d     *detector
	start time.Time
	now   time.Time
	seq   uint64
	log   []string
	beats int
}

func newDrill(t *testing.T) *drill {
	r := &drill{t: t, d: newDetector("n1"), start: time.Unix(100, 0), now: time.Unix(100, 0)}
	r.do(event{kind: evView, ring: NewRing(names(3), nil)})
	return r
}

func (r *drill) do(ev event) *drill {
	for _, a := range r.d.step(r.now, ev, nil) {
		switch a.kind {
		case actBeat:
			r.beats++
			if a.farewell {
				r.log = append(r.log, "farewell "+a.name)
			}
		case actAsk:
			r.log = append(r.log, "ask "+a.name)
		case actMeet:
			r.log = append(r.log, "meet "+a.name)
		case actSay:
			r.log = append(r.log, fmt.Sprintf("%s %s", [...]string{"clear", "silent", "gone"}[a.what], a.name))
		}
	}
	return r
}

func (r *drill) beat(from ...string) *drill { return r.beatAs(1, from...) }

func (r *drill) beatAs(epoch uint64, from ...string) *drill {
	for _, name := range from {
		r.seq++
		r.do(event{kind: evBeat, name: name, epoch: epoch, seq: r.seq, view: r.d.ring.Hash()})
	}
	return r
}

// wait steps at every deadline.
func (r *drill) wait(d time.Duration) *drill {
	for end := r.now.Add(d); ; {
		at := r.d.deadline()
		if at.IsZero() || at.After(end) {
			r.now = end
			return r
		}
		if !at.After(r.now) {
			r.t.Fatalf("deadline %v is not after now", at.Sub(r.start))
		}
		r.now = at
		r.do(event{kind: evTick})
	}
}

// hear lets time pass with beats from these.
func (r *drill) hear(d time.Duration, from ...string) *drill {
	for range d / beatEvery {
		r.wait(beatEvery).beat(from...)
	}
	return r
}

func TestDetector(t *testing.T) {
	tests := map[string]struct {
		run  func(r *drill) *drill
		want []string
	}{
		"says nothing while beats come": {
			func(r *drill) *drill { return r.hear(60*time.Second, "n2", "n3") }, nil,
		},
		"waits for the first beat of a member for as long as it takes": {
			func(r *drill) *drill { return r.hear(60*time.Second, "n3") }, nil,
		},
		"asks after two missed beats, suspects after three, repeats": {
			func(r *drill) *drill { return r.beat("n2", "n3").hear(1600*time.Millisecond, "n3") },
			[]string{"ask n2", "silent n2", "ask n2", "silent n2"},
		},
		"two missed beats are not enough": {
			func(r *drill) *drill {
				return r.beat("n2").wait(460 * time.Millisecond).beat("n2").wait(200 * time.Millisecond)
			},
			[]string{"ask n2"},
		},
		"an answer to the question is as good as a beat": {
			func(r *drill) *drill {
				r.beat("n2").wait(400 * time.Millisecond)
				r.do(event{kind: evAnswer, name: "n2", epoch: 1, seq: 5, answer: Alive})
				return r.wait(300 * time.Millisecond)
			},
			[]string{"ask n2"},
		},
		"a kernel that answers for its agent is told as such": {
			func(r *drill) *drill {
				r.beat("n2").wait(400 * time.Millisecond)
				return r.do(event{kind: evAnswer, name: "n2", answer: AgentGone}).wait(200 * time.Millisecond)
			},
			[]string{"ask n2", "gone n2"},
		},
		"and that it does not any more, at once": {
			func(r *drill) *drill {
				r.beat("n2").wait(400 * time.Millisecond)
				r.do(event{kind: evAnswer, name: "n2", answer: AgentGone}).wait(200 * time.Millisecond)
				return r.do(event{kind: evAnswer, name: "n2", answer: Silent})
			},
			[]string{"ask n2", "gone n2", "silent n2"},
		},
		"an answer that could not be had says nothing": {
			func(r *drill) *drill {
				r.beat("n2").wait(400 * time.Millisecond)
				return r.do(event{kind: evAnswer, name: "n2", answer: Unknown}).wait(200 * time.Millisecond)
			},
			[]string{"ask n2", "silent n2"},
		},
		"a beat clears": {
			func(r *drill) *drill { return r.beat("n2").wait(500 * time.Millisecond).beat("n2") },
			[]string{"ask n2", "silent n2", "clear n2"},
		},
		"a beat played back does not": {
			func(r *drill) *drill {
				r.beat("n2").wait(500 * time.Millisecond)
				return r.do(event{kind: evBeat, name: "n2", epoch: 1, seq: 1}).do(event{kind: evBeat, name: "n2", epoch: 0, seq: 99})
			},
			[]string{"ask n2", "silent n2"},
		},
		"an agent that started again begins anew": {
			func(r *drill) *drill {
				r.beat("n2").wait(500 * time.Millisecond).do(event{kind: evBeat, name: "n2", epoch: 2, seq: 1})
				r.do(event{kind: evBeat, name: "n2", epoch: 1, seq: 1000}) // the old one's, played back
				for range 10 {
					r.wait(beatEvery).beatAs(2, "n2")
				}
				return r
			},
			[]string{"ask n2", "silent n2", "clear n2"},
		},
		"a fresh answer sets the epoch straight, also backwards": {
			func(r *drill) *drill {
				r.beatAs(9, "n2").wait(500*time.Millisecond).beatAs(1, "n2")
				r.do(event{kind: evAnswer, name: "n2", epoch: 1, seq: 2, answer: Alive})
				return r.hear(time.Second, "n2")
			},
			[]string{"ask n2", "silent n2", "clear n2"},
		},
		"a new leader is told at once": {
			func(r *drill) *drill {
				return r.beat("n2").wait(500 * time.Millisecond).do(event{kind: evLeader})
			},
			[]string{"ask n2", "silent n2", "silent n2"},
		},
		"whoever slept forgives": {
			func(r *drill) *drill {
				r.hear(time.Second, "n2", "n3")
				r.now = r.now.Add(5 * time.Second)
				return r.do(event{kind: evTick}).hear(time.Second, "n2", "n3")
			},
			nil,
		},
		"also when a packet wakes it": {
			func(r *drill) *drill {
				r.hear(time.Second, "n2", "n3")
				r.now = r.now.Add(5 * time.Second)
				return r.beat("n3").hear(time.Second, "n2", "n3")
			},
			nil,
		},
		"but not for longer than it slept": {
			func(r *drill) *drill {
				r.hear(time.Second, "n2", "n3")
				r.now = r.now.Add(5 * time.Second)
				return r.do(event{kind: evTick}).wait(600 * time.Millisecond)
			},
			[]string{"ask n2", "ask n3", "silent n2", "silent n3"},
		},
		"who left the view is not missed": {
			func(r *drill) *drill {
				r.beat("n2", "n3").do(event{kind: evView, ring: NewRing([]string{"n1", "n3"}, nil)})
				return r.hear(5*time.Second, "n3")
			},
			nil,
		},
		"compares with a member whose view stays another": {
			func(r *drill) *drill {
				for i := range 40 {
					r.wait(beatEvery).beat("n3")
					r.seq++
					r.do(event{kind: evBeat, name: "n2", epoch: 1, seq: r.seq, view: 1 + uint64(i)})
				}
				return r
			},
			[]string{"meet n2"},
		},
		"alone it does nothing": {
			func(r *drill) *drill {
				r.beat("n2", "n3").do(event{kind: evView, ring: NewRing([]string{"n1"}, nil)})
				if r.wait(5 * time.Second); !r.d.deadline().IsZero() {
					r.t.Error("a lone node wants to be woken")
				}
				return r
			},
			nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, sortedRuns(tt.run(newDrill(t)).log)); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}

// sortedRuns sorts neighbours that say the same of different nodes: peers are
// looked at in no order.
func sortedRuns(log []string) []string {
	verb := func(s string) string { return s[:len(s)-2] }
	for i := 0; i < len(log); {
		j := i
		for j < len(log) && verb(log[j]) == verb(log[i]) {
			j++
		}
		slices.Sort(log[i:j])
		i = j
	}
	return log
}

func TestWatchingWakesNobodyWhileAllIsWell(t *testing.T) {
	r := newDrill(t).hear(time.Second, "n2", "n3")
	steps := 0
	for begin := r.now; r.now.Sub(begin) < 10*time.Second; {
		next := r.d.deadline()
		r.now = next
		r.do(event{kind: evTick})
		steps++
		r.beat("n2", "n3")
	}
	if want := int(10*time.Second/beatEvery) + 1; steps > want {
		t.Errorf("%d wake-ups in 10 s, want no more than the %d beats", steps, want)
	}
}

func TestAnObserverThatTheViewDropsIsToldGoodbyeForAWhile(t *testing.T) {
	r := newDrill(t)
	big := names(40)
	r.do(event{kind: evView, ring: NewRing(big, nil)})
	old := NewRing(names(3), nil).Observers("n1")
	gone := slices.DeleteFunc(old, func(n string) bool { return NewRing(big, nil).Observes(n, "n1") })
	if len(gone) == 0 {
		t.Fatal("the views do not differ: choose other names")
	}
	r.wait(10 * time.Second)
	byes := map[string]int{}
	for _, line := range r.log {
		byes[line]++
	}
	for _, name := range gone {
		if got := byes["farewell "+name]; got < 15 || got > 21 {
			t.Errorf("%d farewells to %s, want them for 3 s", got, name)
		}
	}
}

func TestAFarewellIsNotMissed(t *testing.T) {
	r := newDrill(t).beat("n2")
	r.do(event{kind: evBeat, name: "n2", epoch: 1, seq: 50, farewell: true})
	if r.wait(10 * time.Second); len(r.log) > 0 {
		t.Errorf("after a farewell: %v", r.log)
	}
}

// TestDetectorsInABigSimulation runs the detectors of a whole cluster without a
// network: 40 nodes, 5 % loss, six minutes, a death in each.
func TestDetectorsInABigSimulation(t *testing.T) {
	const size, long = 40, 6 * time.Minute
	rng := rand.New(rand.NewPCG(3, 9))
	ring := NewRing(names(size), nil)
	start := time.Unix(0, 0)
	detectors := map[string]*detector{}
	seq := map[string]uint64{}
	dead := map[string]time.Time{}
	claims := newClaims()
	double, steps := 0, 0
	var perform func(now time.Time, self string, actions []action)
	step := func(now time.Time, name string, ev event) {
		steps++
		perform(now, name, detectors[name].step(now, ev, nil))
	}
	perform = func(now time.Time, self string, actions []action) {
		for _, a := range actions {
			switch a.kind {
			case actBeat:
				seq[self]++
				if rng.Float64() >= 0.05 && dead[a.name].IsZero() {
					step(now, a.name, event{kind: evBeat, name: self, epoch: 1, seq: seq[self], view: ring.Hash()})
				}
			case actAsk: // two pings, each lost on one of two ways or not
				if rng.Float64() >= 0.0975*0.0975 && dead[a.name].IsZero() {
					seq[a.name]++
					step(now, self, event{kind: evAnswer, name: a.name, epoch: 1, seq: seq[a.name], answer: Alive})
				}
			case actSay:
				seq[self]++
				claims.put(now, claim{observer: self, epoch: 1, seq: seq[self], node: a.name, boot: a.epoch, what: a.what})
				if claims.of(now, a.name, 1) == claimSilent && dead[a.name].IsZero() {
					double++
				}
			}
		}
	}
	for _, name := range names(size) {
		detectors[name] = newDetector(name)
	}
	for _, name := range names(size) {
		step(start.Add(time.Duration(rng.Int64N(int64(beatEvery)))), name, event{kind: evView, ring: ring})
	}
	found := map[string]time.Duration{}
	for now := start; now.Sub(start) < long; now = now.Add(time.Millisecond) {
		for _, name := range ring.Names() {
			if !dead[name].IsZero() {
				if claims.of(now, name, 1) == claimSilent && found[name] == 0 {
					found[name] = now.Sub(dead[name])
				}
				continue
			}
			if at := detectors[name].deadline(); !now.Before(at) {
				step(now, name, event{kind: evTick})
			}
		}
		if now.Sub(start)%time.Minute == 0 && now.After(start) {
			dead[ring.Names()[rng.IntN(size)]] = now
		}
	}
	if double > 0 {
		t.Errorf("%d times two observers suspected a node that lives", double)
	}
	for name, at := range dead {
		if after := found[name]; after == 0 || after > 600*time.Millisecond {
			t.Errorf("%s died at %v and was suspect after %v, want within 600 ms", name, at.Sub(start), after)
		}
	}
	t.Logf("%d steps, %d deaths", steps, len(dead))
}
