package gossip

import (
	"time"

	"github.com/skein-dev/skein/agent/leader/verdict"
)

// probe asks a node whether it lives, as prober.probe does: two pings, with each
// a datagram to a closed port, and a connection, in a window that is begun again
// if the prober itself stood still.
func (w *alarmWorld) probe(from, to int, window time.Duration, answer func(Outcome)) {
	p := &alarmProbe{w: w, from: from, to: to, window: window, answer: answer}
	p.begin()
}

type alarmProbe struct {
	w        *alarmWorld
	from, to int
	window   time.Duration
	answer   func(Outcome)
	started  time.Duration
	tries    int
	done     bool
	there    bool // its kernel has answered
}

func (p *alarmProbe) begin() {
	p.started = p.w.now
	p.tries++
	p.ping()
	p.w.after(p.window/2, func() { p.w.in(p.from, p.second) })
}

// second is the second half of the window.
func (p *alarmProbe) second() {
	if p.done {
		return
	}
	p.ping()
	p.knock() // by a stream
	p.w.after(max(p.started+p.window-p.w.now, 0), func() { p.w.in(p.from, p.end) })
}

func (p *alarmProbe) ping() {
	w := p.w
	p.knock()
	if w.lost() {
		return
	}
	w.after(w.latency(), func() {
		w.in(p.to, func() { // its process answers
			if !w.lost() {
				w.after(w.latency(), func() { w.in(p.from, func() { p.tell(Alive) }) })
			}
		})
	})
}

// knock asks the kernel, which does not stand still.
func (p *alarmProbe) knock() {
	if p.w.mute || p.w.rng.Float64() < 1-(1-alarmLoss)*(1-alarmLoss) { // there, or back
		return
	}
	p.w.after(2*p.w.latency(), func() { p.there = true })
}

func (p *alarmProbe) end() {
	switch {
	case p.done:
	case p.w.now-p.started >= p.window+probeLate && p.tries < probeTries:
		p.begin()
	case p.there:
		p.tell(AgentGone)
	default:
		p.tell(Silent)
	}
}

func (p *alarmProbe) tell(o Outcome) {
	if !p.done {
		p.done = true
		p.answer(o)
	}
}

// report brings what an observer says to the leader.
func (w *alarmWorld) report(r verdict.Report) {
	term := w.term
	w.after(w.stream(), func() { w.judge(term, r) })
}

// judge steps the leader's machine, unless another leads by then.
func (w *alarmWorld) judge(term int, ev verdict.Event) {
	w.in(w.leader, func() {
		if term != w.term {
			return
		}
		if _, ok := ev.(verdict.Report); ok {
			w.do(w.members())
		}
		w.do(ev)
	})
}

func (w *alarmWorld) do(ev verdict.Event) {
	if w.say != nil {
		if _, ok := ev.(verdict.Members); !ok {
			w.say("%v term %d: heard %T %+v", w.now, w.term, ev, ev)
		}
	}
	for _, a := range w.machine.Step(w.time(), ev) {
		w.perform(a)
	}
	d := w.machine.Deadline()
	if d.IsZero() || d.Equal(w.ticking) {
		return
	}
	w.ticking = d
	term := w.term
	w.after(max(d.Sub(w.time()), 0), func() {
		w.in(w.leader, func() {
			if term == w.term && w.ticking.Equal(d) {
				w.ticking = time.Time{}
				w.do(verdict.Tick{})
			}
		})
	})
}

func (w *alarmWorld) perform(a verdict.Action) {
	if w.say != nil {
		w.say("%v term %d: %T %+v", w.now, w.term, a, a)
	}
	switch a := a.(type) {
	case verdict.Suspect:
		w.Suspicions++
		w.mark(3, w.index[a.Node], 0)
	case verdict.Verify:
		w.Verifications++
		w.verify(a)
	case verdict.Declare:
		w.Moves++
		w.write(a.Node, verdict.Lost, time.Time{})
	case verdict.GoneUntil:
		w.Gones++
		w.write(a.Node, verdict.Gone, a.Until)
	case verdict.Return:
		w.write(a.Node, verdict.OK, time.Time{})
	}
}

// write puts a verdict into the log, which this leader may not be able to.
func (w *alarmWorld) write(node string, s verdict.State, until time.Time) {
	w.mark(4, w.index[node], int(s))
	term := w.term
	w.after(5*time.Millisecond, func() {
		w.in(w.leader, func() {
			if term == w.term {
				w.logged[node], w.until[node] = s, until
				w.do(w.members())
			}
		})
	})
}

func (w *alarmWorld) members() verdict.Members {
	out := make([]verdict.Node, 0, len(w.names))
	for _, name := range w.names {
		out = append(out, verdict.Node{Name: name, State: w.logged[name], Until: w.until[name]})
	}
	return verdict.Members{Nodes: out, Observers: w.ring.Observers}
}

// verify does what the leader's court does: it probes, has helpers probe, and
// asks a quorum of voters whether it leads.
func (w *alarmWorld) verify(v verdict.Verify) {
	out := verdict.Probed{ID: v.ID, Helpers: map[string]verdict.Outcome{}}
	term, left, done, ended := w.term, len(v.Helpers)+1, false, false
	to := w.index[v.Node]
	agreed, confirmed := 1, 2 > w.voters
	tell := func() {
		if ended && confirmed {
			out.Confirmed = true
			w.judge(term, out)
			ended = false
		}
	}
	end := func() {
		if !done {
			done, ended = true, true
			tell()
		}
	}
	heard := func(o verdict.Outcome, note func()) {
		if done {
			return
		}
		note()
		if left--; left == 0 || o == verdict.Alive {
			end()
		}
	}
	w.probe(w.leader, to, probeWindow, func(o Outcome) {
		heard(verdict.Outcome(o), func() { out.Self = verdict.Outcome(o) })
	})
	for _, helper := range v.Helpers {
		h := w.index[helper]
		w.after(w.stream(), func() {
			w.in(h, func() {
				w.probe(h, to, probeWindow, func(o Outcome) {
					w.after(w.stream(), func() {
						w.in(w.leader, func() { heard(verdict.Outcome(o), func() { out.Helpers[helper] = verdict.Outcome(o) }) })
					})
				})
			})
		})
	}
	for voter := range w.voters {
		if voter == w.leader {
			continue
		}
		w.after(w.stream(), func() {
			w.in(voter, func() {
				if term != w.term {
					return // it follows another
				}
				w.after(w.stream(), func() {
					w.in(w.leader, func() {
						if agreed++; 2*agreed > w.voters {
							confirmed = true
							tell()
						}
					})
				})
			})
		})
	}
	w.after(alarmVerify, func() { w.in(w.leader, end) })
	w.after(2*alarmVerify, func() { // without a quorum
		w.in(w.leader, func() {
			if end(); ended && !confirmed && term == w.term {
				ended = false
				w.judge(term, out)
			}
		})
	})
}

// doubt lets voters elect another if the leader stands still for longer than
// they wait.
func (w *alarmWorld) doubt(term int) {
	if w.voters == 1 || w.settling {
		return
	}
	w.settling = true
	w.after(200*time.Millisecond+time.Duration(w.rng.Int64N(int64(400*time.Millisecond))), func() {
		w.settling = false
		if term != w.term || w.now >= w.nodes[w.leader].awake {
			return
		}
		var awake []int
		for i := range w.voters {
			if w.now >= w.nodes[i].awake {
				awake = append(awake, i)
			}
		}
		if 2*len(awake) <= w.voters {
			w.doubt(term) // nobody gets the votes
			return
		}
		w.lead(awake[w.rng.IntN(len(awake))])
	})
}

// lead begins the term of a node.
func (w *alarmWorld) lead(node int) {
	w.Elections++
	w.term++
	w.mark(5, node, w.term)
	w.leader, w.machine, w.ticking = node, verdict.New(w.nodes[node].name, verdict.Defaults()), time.Time{}
	term := w.term
	w.after(20*time.Millisecond, func() { // its barrier
		w.in(w.leader, func() {
			if term == w.term {
				w.do(w.members())
				w.do(verdict.Term{})
				w.write(w.names[node], verdict.OK, time.Time{}) // the court greets its own node
			}
		})
	})
	for i, n := range w.nodes {
		w.after(100*time.Millisecond+w.stream(), func() {
			w.in(i, func() { // it hears of the leader
				if term != w.term {
					return
				}
				w.step(i, event{kind: evLeader})
				if i != w.leader {
					w.after(3*w.stream(), func() { w.judge(term, verdict.StreamOpen{Node: n.name, Epoch: 1}) })
				}
			})
		})
	}
	if w.now < w.nodes[node].awake {
		w.doubt(term)
	}
}
