package verdict

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A script drives one machine through a table test: lines of what happens and
// what is expected.
type script struct {
	t     *testing.T
	m     *Machine
	start time.Time
	now   time.Time
	last  map[string]Verify // by node
	log   []string
}

func play(t *testing.T, nodes ...string) *script {
	s := &script{t: t, m: New("n1", Defaults()), start: time.Unix(1000, 0), last: map[string]Verify{}}
	s.now = s.start
	s.members(nodes...)
	s.do(Term{})
	for _, n := range nodes[1:] {
		s.do(StreamOpen{Node: name(n), Epoch: 1})
	}
	s.log = nil
	return s
}

// name cuts a state off "n4=lost".
func name(word string) string { n, _, _ := strings.Cut(word, "="); return n }

func (s *script) members(words ...string) {
	var nodes []Node
	var names []string
	for _, w := range words {
		n := Node{Name: name(w)}
		switch {
		case strings.HasSuffix(w, "=lost"):
			n.State = Lost
		case strings.HasSuffix(w, "=gone"):
			n.State = Gone
		default:
			names = append(names, n.Name)
		}
		nodes = append(nodes, n)
	}
	s.do(Members{Nodes: nodes, Observers: successors(names)})
}

// successors is a ring without hashes: the next four, by position.
func successors(names []string) func(string) []string {
	return func(of string) []string {
		i := slices.Index(names, of)
		if i < 0 {
			return nil
		}
		var by []string
		for k := 1; k <= min(4, len(names)-1); k++ {
			by = append(by, names[(i+k)%len(names)])
		}
		return by
	}
}

func (s *script) do(ev Event) *script {
	for _, a := range s.m.Step(s.now, ev) {
		s.log = append(s.log, s.words(a))
	}
	return s
}

func (s *script) words(a Action) string {
	switch a := a.(type) {
	case Verify:
		s.last[a.Node] = a
		return fmt.Sprintf("verify %s by %d", a.Node, len(a.Helpers))
	case Suspect:
		return "suspect " + a.Node
	case Clear:
		return "clear " + a.Node
	case GoneUntil:
		return fmt.Sprintf("gone %s for %v", a.Node, a.Until.Sub(s.now))
	case Declare:
		return "lost " + a.Node
	case Return:
		return "back " + a.Node
	case Slow:
		return fmt.Sprintf("slow: %d suspects", a.Suspects)
	case SlowOver:
		return "slow no more"
	case Distrust:
		return "distrust " + a.Node
	case Trust:
		return "trust " + a.Node
	default:
		return fmt.Sprintf("%T", a)
	}
}

// wait lets time pass, with a tick at every deadline.
func (s *script) wait(d time.Duration) *script {
	end := s.now.Add(d)
	for {
		at := s.m.Deadline()
		if at.IsZero() || at.After(end) {
			break
		}
		if !at.After(s.now) {
			s.t.Fatalf("deadline %v is not after now", at.Sub(s.start))
		}
		s.now = at
		s.do(Tick{})
	}
	s.now = end
	return s
}

// answer brings the result of the last verification of a node: self's outcome,
// then the same of so many helpers; the others do not answer.
func (s *script) answer(node string, self Outcome, helpers int, theirs Outcome) *script {
	return s.answerAs(node, self, helpers, theirs, true)
}

// dead answers two verifications of a node with silence, as a dead machine does.
func (s *script) dead(node string, helpers int) *script {
	for range Defaults().Rounds {
		s.wait(Defaults().Verify).answer(node, Silent, helpers, Silent)
	}
	return s
}

func (s *script) answerAs(node string, self Outcome, helpers int, theirs Outcome, confirmed bool) *script {
	v := s.last[node]
	p := Probed{ID: v.ID, Self: self, Helpers: map[string]Outcome{}, Confirmed: confirmed}
	for i, h := range v.Helpers {
		if i < helpers {
			p.Helpers[h] = theirs
		}
	}
	return s.do(p)
}

func (s *script) report(node string, by ...string) *script {
	for _, r := range by {
		s.do(Report{Reporter: r, Node: node, Epoch: 1})
	}
	return s
}

func five() []string { return []string{"n1", "n2", "n3", "n4", "n5"} }

func TestVerdicts(t *testing.T) {
	const second, quarter = time.Second, 250 * time.Millisecond
	settled := func(t *testing.T, nodes ...string) *script { return play(t, nodes...).wait(2 * second) }
	tests := map[string]struct {
		run  func(t *testing.T) *script
		want []string
	}{
		"a dead machine is lost after two verifications": {
			func(t *testing.T) *script {
				return settled(t, five()...).report("n2", "n3", "n4").dead("n2", 3)
			},
			[]string{"suspect n2", "verify n2 by 3", "verify n2 by 3", "lost n2"},
		},
		"one observer is not enough": {
			func(t *testing.T) *script { return settled(t, five()...).report("n2", "n3", "n3").wait(10 * second) },
			nil,
		},
		"who does not observe a node cannot accuse it": {
			func(t *testing.T) *script {
				s := settled(t, "n1", "n2", "n3", "n4", "n5", "n6", "n7")
				return s.report("n2", "n7", "n1", "n2", "nobody").wait(10 * second)
			},
			nil,
		},
		"one pong refutes": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4").wait(quarter)
				v := s.last["n2"]
				return s.do(Probed{ID: v.ID, Self: Silent, Confirmed: true, Helpers: map[string]Outcome{
					v.Helpers[0]: Silent, v.Helpers[1]: Alive, v.Helpers[2]: AgentGone,
				}})
			},
			[]string{"suspect n2", "verify n2 by 3", "clear n2"},
		},
		"observers who hear it again clear it": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4")
				return s.do(Report{Reporter: "n3", Node: "n2", Epoch: 1, Cleared: true})
			},
			[]string{"suspect n2", "verify n2 by 3", "clear n2"},
		},
		"reports that are not repeated are forgotten": {
			func(t *testing.T) *script {
				return settled(t, five()...).report("n2", "n3").wait(4*second).report("n2", "n4").wait(second)
			},
			nil,
		},
		"reports on an earlier boot do not count": {
			func(t *testing.T) *script {
				s := settled(t, five()...).do(StreamOpen{Node: "n2", Epoch: 2})
				return s.report("n2", "n3", "n4").wait(second)
			},
			nil,
		},
		"no helper answers: I am the isolated one": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4").wait(quarter).answer("n2", Silent, 0, Unknown)
				return s.wait(second).answer("n2", Silent, 0, Unknown)
			},
			[]string{"suspect n2", "verify n2 by 3", "verify n2 by 3"},
		},
		"without a confirmed quorum nobody is lost": {
			func(t *testing.T) *script {
				return settled(t, five()...).report("n2", "n3", "n4").wait(quarter).answerAs("n2", Silent, 3, Silent, false)
			},
			[]string{"suspect n2", "verify n2 by 3"},
		},
		"a closed stream is verified at once, and no suspicion if it answers": {
			func(t *testing.T) *script {
				return settled(t, five()...).do(StreamClosed{"n2"}).answer("n2", Alive, 3, Alive).wait(20 * second)
			},
			[]string{"verify n2 by 3"},
		},
		"a closed stream and silence: power loss where a FIN came through": {
			func(t *testing.T) *script {
				return settled(t, five()...).do(StreamClosed{"n2"}).dead("n2", 1)
			},
			[]string{"verify n2 by 3", "verify n2 by 3", "lost n2"},
		},
		"an agent that is gone has 30 s, then its node is lost": {
			func(t *testing.T) *script {
				s := settled(t, five()...).do(StreamClosed{"n2"}).answer("n2", AgentGone, 3, AgentGone)
				s.members("n1", "n2=gone", "n3", "n4", "n5")
				for range 15 {
					s.wait(2*second).answer("n2", Silent, 1, AgentGone)
				}
				s.log = slices.Compact(s.log)
				return s
			},
			[]string{"verify n2 by 3", "gone n2 for 30s", "verify n2 by 3", "lost n2"},
		},
		"an agent that comes back in time: nothing moved": {
			func(t *testing.T) *script {
				s := settled(t, five()...).do(StreamClosed{"n2"}).answer("n2", AgentGone, 3, AgentGone)
				s.members("n1", "n2=gone", "n3", "n4", "n5")
				s.wait(second).do(StreamOpen{Node: "n2", Epoch: 2}).report("n2", "n3", "n4")
				s.members(five()...)
				return s.wait(60 * second)
			},
			[]string{"verify n2 by 3", "gone n2 for 30s", "back n2"},
		},
		"a machine that dies while its agent is gone is lost at once": {
			func(t *testing.T) *script {
				s := settled(t, five()...).do(StreamClosed{"n2"}).answer("n2", AgentGone, 3, AgentGone)
				s.members("n1", "n2=gone", "n3", "n4", "n5")
				return s.wait(2*second).dead("n2", 3)
			},
			[]string{"verify n2 by 3", "gone n2 for 30s", "verify n2 by 3", "verify n2 by 3", "lost n2"},
		},
		"a suspect whose agent alone is gone goes back into Services": {
			func(t *testing.T) *script {
				return settled(t, five()...).report("n2", "n3", "n4").answer("n2", Silent, 3, AgentGone)
			},
			[]string{"suspect n2", "verify n2 by 3", "gone n2 for 30s"},
		},
		"a new leader judges nobody for a second": {
			func(t *testing.T) *script {
				s := play(t, five()...).report("n2", "n3", "n4").wait(450 * time.Millisecond)
				if len(s.log) > 0 {
					t.Errorf("after 450 ms: %v", s.log)
				}
				s.wait(50*time.Millisecond).dead("n2", 3)
				if took := s.now.Sub(s.start); took != second {
					t.Errorf("verdict after %v, want after 1 s", took)
				}
				return s
			},
			[]string{"suspect n2", "verify n2 by 3", "verify n2 by 3", "lost n2"},
		},
		"a node that never connects to a new leader is verified": {
			func(t *testing.T) *script {
				s := play(t, "n1", "n2", "n3")
				s.do(Members{Nodes: []Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}, Observers: successors([]string{"n1", "n2", "n3"})})
				s.do(Term{}).do(StreamOpen{Node: "n2", Epoch: 1})
				return s.wait(3*second).dead("n3", 1)
			},
			[]string{"verify n3 by 1", "verify n3 by 1", "lost n3"},
		},
		"of two nodes the voter judges alone after 3 s": {
			func(t *testing.T) *script {
				s := settled(t, "n1", "n2").report("n2", "n1")
				for range 11 {
					s.wait(quarter).answer("n2", Silent, 0, Unknown).report("n2", "n1")
				}
				if slices.Contains(s.log, "lost n2") {
					t.Errorf("lost before 3 s: %v", s.log)
				}
				for range 2 {
					s.wait(quarter).answer("n2", Silent, 0, Unknown)
				}
				s.log = slices.Compact(s.log)
				return s
			},
			[]string{"suspect n2", "verify n2 by 0", "lost n2"},
		},
		"one node alone judges nobody": {
			func(t *testing.T) *script {
				s := settled(t, "n1", "n2=lost").do(StreamClosed{Node: "n2"})
				s.log = nil
				return s.report("n2", "n1").wait(10 * second)
			},
			nil,
		},
		"whoever is alone welcomes the other one back": {
			func(t *testing.T) *script {
				s := settled(t, "n1", "n2=lost").do(StreamOpen{Node: "n2", Epoch: 2}).answer("n2", Alive, 0, Unknown)
				s.members("n1", "n2")
				return s.wait(20 * second)
			},
			[]string{"verify n2 by 0", "back n2"},
		},
		"whoever slept begins again": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4")
				s.now = s.now.Add(4 * second) // with the verification under way
				s.answer("n2", Silent, 3, Silent)
				return s.wait(quarter).answer("n2", Alive, 3, Alive)
			},
			[]string{"suspect n2", "verify n2 by 3", "verify n2 by 3", "clear n2"},
		},
		"a lost node that connects and answers is back": {
			func(t *testing.T) *script {
				s := settled(t, "n1", "n2=lost", "n3", "n4", "n5")
				s.do(StreamOpen{Node: "n2", Epoch: 2}).answer("n2", Silent, 3, Silent)
				s.wait(3*second).answer("n2", Alive, 3, Alive)
				s.members(five()...)
				return s.wait(20 * second)
			},
			[]string{"verify n2 by 3", "verify n2 by 3", "back n2"},
		},
		// Found by the simulation: a link was mended just as the verdict fell,
		// sooner than the stream over it broke.
		"a lost node whose stream never closed is back once it answers": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4").dead("n2", 3)
				s.members("n1", "n2=lost", "n3", "n4", "n5")
				s.wait(2*second+quarter).answer("n2", Alive, 3, Alive)
				s.members(five()...)
				return s.wait(20 * second)
			},
			[]string{"suspect n2", "verify n2 by 3", "verify n2 by 3", "lost n2", "verify n2 by 3", "back n2"},
		},
		"a verdict that does not reach the log is given again": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4").dead("n2", 3)
				s.do(StreamClosed{Node: "n2"}).wait(2500 * time.Millisecond)
				s.members("n1", "n2=lost", "n3", "n4", "n5")
				return s.wait(20 * second)
			},
			[]string{"suspect n2", "verify n2 by 3", "verify n2 by 3", "lost n2", "lost n2"},
		},
		"a verdict of the leader before that comes late is taken over": {
			func(t *testing.T) *script {
				s := settled(t, five()...)
				s.members("n1", "n2=lost", "n3", "n4", "n5")
				return s.wait(20 * second)
			},
			nil,
		},
		"a node that was removed is forgotten": {
			func(t *testing.T) *script {
				s := settled(t, five()...).report("n2", "n3", "n4")
				s.members("n1", "n3", "n4", "n5")
				return s.answer("n2", Silent, 3, Silent).wait(20 * second)
			},
			[]string{"suspect n2", "verify n2 by 3"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.run(t).log); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEvidenceNamesWhoSaidAndWhoVerified(t *testing.T) {
	s := play(t, five()...).wait(2*time.Second).report("n2", "n4", "n3")
	begun := s.now
	s.wait(250*time.Millisecond).answer("n2", Silent, 3, Silent).wait(250 * time.Millisecond)
	v := s.last["n2"]
	var got Evidence
	for _, a := range s.m.Step(s.now, Probed{
		ID: v.ID, Self: Silent, Confirmed: true,
		Helpers: map[string]Outcome{"n3": Silent, "n4": Unknown, "n5": Silent},
	}) {
		if d, ok := a.(Declare); ok {
			got = d.Evidence
		}
	}
	want := Evidence{
		Why: "its machine answers neither n3 nor n5 nor n1", Since: begun,
		Reporters: []string{"n3", "n4"}, Silent: []string{"n3", "n5"}, Rounds: 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
}

func TestManySuspectsAtOnceSlowTheVerdictsAndComeInBatches(t *testing.T) {
	var nodes []string
	for i := range 20 {
		nodes = append(nodes, fmt.Sprintf("n%d", i+1))
	}
	s := play(t, nodes...).wait(2 * time.Second)
	silent := nodes[10:18]
	for _, n := range silent {
		s.do(StreamClosed{n})
	}
	begun := s.now
	lost := map[string]time.Duration{}
	for s.now.Sub(begun) < 30*time.Second && len(lost) < len(silent) {
		s.wait(250 * time.Millisecond)
		for _, n := range silent {
			if s.m.nodes[n].probe == 0 || lost[n] != 0 {
				continue
			}
			v := s.last[n]
			helpers := map[string]Outcome{}
			for _, h := range v.Helpers {
				if helpers[h] = Silent; slices.Contains(silent, h) {
					helpers[h] = Unknown
				}
			}
			for _, a := range s.m.Step(s.now, Probed{ID: v.ID, Self: Silent, Helpers: helpers, Confirmed: true}) {
				if w := s.words(a); w == "lost "+n {
					lost[n] = s.now.Sub(begun)
				}
			}
		}
	}
	if !slices.Contains(s.log, "slow: 4 suspects") {
		t.Errorf("nobody said why it takes long: %v", s.log)
	}
	if len(lost) != len(silent) {
		t.Fatalf("lost %d of %d after 30 s: %v", len(lost), len(silent), lost)
	}
	perWindow := map[time.Duration]int{}
	for n, at := range lost {
		if at < 5*time.Second {
			t.Errorf("%s lost after %v, before the breaker allows", n, at)
		}
		perWindow[at/(2*time.Second)]++
	}
	for w, count := range perWindow {
		if count > 2*3 {
			t.Errorf("%d lost within 2 s from %v on, want batches of 3", count, 2*w)
		}
	}
}
