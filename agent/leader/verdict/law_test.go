package verdict

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLaws feeds a machine nonsense and sense in any order, and checks what
// must hold whatever happens.
func TestLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 9).Draw(t, "size")
		var names []string
		for i := range size {
			names = append(names, fmt.Sprintf("n%d", i+1))
		}
		anyone := rapid.SampledFrom(append(slices.Clone(names), "stranger"))
		m := New("n1", Defaults())
		now := time.Unix(0, 0)
		l := laws{t: t, m: m, asked: map[uint64]Verify{}, sure: map[string]bool{}, logged: map[string]State{}}
		l.step(now, Members{Nodes: l.nodes(names), Observers: successors(names)})
		l.step(now, Term{})
		l.judgeAt = now.Add(Defaults().Settle)

		for range rapid.IntRange(1, 120).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
			l.events(now, rapid.IntRange(0, 7).Draw(t, "event"), anyone, names)
		}
	})
}

type laws struct {
	t       *rapid.T
	m       *Machine
	judgeAt time.Time
	asked   map[uint64]Verify
	last    uint64
	sure    map[string]bool // by node: the verification that was just answered bears a verdict
	logged  map[string]State
}

func (l *laws) nodes(names []string) []Node {
	var nodes []Node
	for _, n := range names {
		nodes = append(nodes, Node{Name: n, State: l.logged[n]})
	}
	return nodes
}

func (l *laws) events(now time.Time, kind int, anyone *rapid.Generator[string], names []string) {
	t := l.t
	switch kind {
	case 0:
		l.step(now, Report{
			Reporter: anyone.Draw(t, "by"), Node: anyone.Draw(t, "of"),
			Epoch: rapid.Uint64Range(0, 3).Draw(t, "epoch"), Cleared: rapid.Bool().Draw(t, "cleared"),
		})
	case 1:
		l.step(now, StreamOpen{Node: anyone.Draw(t, "of"), Epoch: rapid.Uint64Range(1, 3).Draw(t, "epoch")})
	case 2:
		l.step(now, StreamClosed{Node: anyone.Draw(t, "of")})
	case 3, 4, 5:
		id := rapid.Uint64Range(0, l.last+1).Draw(t, "id")
		if rapid.Bool().Draw(t, "latest") {
			id = l.last
		}
		l.answer(now, id)
	case 6:
		l.step(now, Members{Nodes: l.nodes(names), Observers: successors(names)})
	default:
		l.step(now, Tick{})
	}
}

func (l *laws) answer(now time.Time, id uint64) {
	outcome := rapid.SampledFrom([]Outcome{Unknown, Alive, AgentGone, Silent, Silent, Silent})
	v := l.asked[id]
	p := Probed{ID: id, Self: outcome.Draw(l.t, "self"), Confirmed: rapid.IntRange(0, 3).Draw(l.t, "quorum") > 0, Helpers: map[string]Outcome{}}
	said := []Outcome{p.Self}
	for _, h := range v.Helpers {
		p.Helpers[h] = outcome.Draw(l.t, h)
		said = append(said, p.Helpers[h])
	}
	heard := slices.Contains(said, Alive)
	byHelper := slices.Contains(said[1:], Silent) || slices.Contains(said[1:], AgentGone)
	l.sure = map[string]bool{v.Node: p.Confirmed && !heard && (byHelper || l.m.size() == 2 || p.Self == AgentGone)}
	l.step(now, p)
	l.sure = map[string]bool{}
}

func (l *laws) step(now time.Time, ev Event) {
	t := l.t
	lost := map[string]bool{}
	for _, n := range l.m.nodes {
		lost[n.name] = n.state == Lost
	}
	for _, a := range l.m.Step(now, ev) {
		switch a := a.(type) {
		case Verify:
			l.last = a.ID
			l.asked[a.ID] = a
			if a.Node == "n1" || slices.Contains(a.Helpers, "n1") || slices.Contains(a.Helpers, a.Node) {
				t.Fatalf("%+v: the leader or the node itself is to help", a)
			}
			slices.Sort(a.Helpers)
			if len(slices.Compact(a.Helpers)) != len(a.Helpers) || len(a.Helpers) > 3 {
				t.Fatalf("%+v: helpers twice, or too many", a)
			}
		case Declare:
			again := lost[a.Node]
			if a.Node == "n1" || !again && !l.sure[a.Node] {
				t.Fatalf("%+v lost after %T, without a verification that bears it", a, ev)
			}
			if now.Before(l.judgeAt) {
				t.Fatalf("%+v lost before the leader may judge", a)
			}
			l.logged[a.Node] = rapid.SampledFrom([]State{OK, Lost}).Draw(t, "logged")
		case GoneUntil:
			l.logged[a.Node] = Gone
		case Return:
			l.logged[a.Node] = OK
		}
	}
	if d := l.m.Deadline(); !d.IsZero() && !d.After(now) {
		t.Fatalf("deadline %v is not after %v: a loop", d, now)
	}
}

func TestNobodyElseIsLookedAtWhileNothingHappens(t *testing.T) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	s := play(t, names...).wait(10 * time.Second)
	if d := s.m.Deadline(); !d.IsZero() {
		t.Errorf("1000 healthy nodes: wants to be woken at %v, want never", d.Sub(s.start))
	}
	if len(s.log) > 0 {
		t.Errorf("1000 healthy nodes: %v", s.log)
	}
}
