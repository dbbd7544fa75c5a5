package verdict

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// flap makes n2 die and return, and tells how long its loss took.
func (s *script) flap() time.Duration {
	s.report("n2", "n3", "n4")
	begun := s.now
	for s.m.nodes["n2"].state != Lost {
		s.wait(250*time.Millisecond).report("n2", "n3", "n4")
		if s.m.nodes["n2"].probe != 0 {
			s.answer("n2", Silent, 3, Silent)
		}
		if s.now.Sub(begun) > 5*time.Minute {
			s.t.Fatalf("n2 is not lost after %v", s.now.Sub(begun))
		}
	}
	took := s.now.Sub(begun)
	s.members("n1", "n2=lost", "n3", "n4", "n5")
	s.do(StreamOpen{Node: "n2", Epoch: 1}).answer("n2", Alive, 3, Alive)
	s.members(five()...)
	return took
}

func TestANodeThatComesAndGoesIsTrustedLaterEachTime(t *testing.T) {
	s := play(t, five()...).wait(2 * time.Second)
	var took, trusted []time.Duration
	for range 6 {
		took = append(took, s.flap().Round(time.Second))
		trusted = append(trusted, max(s.m.nodes["n2"].flaps.until.Sub(s.now), 0).Round(time.Second))
	}
	want := "[1s 1s 1s 2s 8s 30s] [0s 0s 30s 2m0s 5m0s 5m0s]"
	if got := fmt.Sprint(took, " ", trusted); strings.ReplaceAll(got, "  ", " ") != want {
		t.Errorf("lost after, trusted after: %s, want %s", got, want)
	}
	s.log = nil
	s.wait(5*time.Minute + time.Second)
	if !slices.Contains(s.log, "trust n2") {
		t.Errorf("five minutes later: %v, want n2 trusted", s.log)
	}
	s.wait(flapMost * flapLeak)
	if got := s.flap(); got > time.Second {
		t.Errorf("ten quiet minutes later n2 is lost after %v, want as fast as the first time", got)
	}
}

func TestSomebodyIsTrustedWhateverHappens(t *testing.T) {
	s := play(t, five()...).wait(2 * time.Second)
	for _, name := range five()[1:] {
		for range 6 {
			s.m.flapped(s.now, s.m.nodes[name], 2)
		}
	}
	distrusted := 0
	for _, n := range s.m.nodes {
		if !n.flaps.until.IsZero() {
			distrusted++
		}
	}
	if distrusted != 2 {
		t.Errorf("%d of 5 nodes get nothing new, want 2: no more than half", distrusted)
	}
}

func TestFlapsAreBoundedAndForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f flaps
		now := time.Unix(1000, 0)
		for range rapid.IntRange(0, 60).Draw(t, "times") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "s")) * time.Second)
			before := f.later(now)
			over := f.add(now, rapid.IntRange(1, 2).Draw(t, "points"))
			switch after := f.later(now); {
			case after < before:
				t.Fatalf("one more, and the delay shrinks from %v to %v", before, after)
			case after > declMost, doubled(trustFirst, over, trustMost) > trustMost:
				t.Fatalf("%d over: lost %v later, more than %v", over, after, declMost)
			}
		}
		if later := f.later(now.Add(flapMost * flapLeak)); later != 0 || f.points != 0 {
			t.Fatalf("%v of quiet later: %d points, lost %v later", flapMost*flapLeak, f.points, later)
		}
	})
}
