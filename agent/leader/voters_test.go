package leader

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-dev/skein/consensus"
)

// parse reads an assembly: members as "a+ b+ c" (+ votes), seats as
// "a b/zone !c ~d" (! dead for long, ? dead just now, ~ not to vote, < behind, ^
// dead for long by what gossip tells, but heard by raft).
func parse(self, members, seats string) assembly {
	a := assembly{self: self, seats: map[string]seat{}}
	for _, word := range strings.Fields(members) {
		name, voter := strings.CutSuffix(word, "+")
		a.members = append(a.members, consensus.Member{Name: name, Voter: voter})
	}
	for _, word := range strings.Fields(seats) {
		s := seat{alive: true, caught: true, since: time.Hour}
		for ; strings.ContainsAny(word[:1], "!?~<*^"); word = word[1:] {
			switch word[0] {
			case '!':
				s.alive, s.caught = false, false
			case '^':
				s.alive, s.answers = false, true
			case '?':
				s.alive, s.caught, s.since = false, false, time.Second
			case '~':
				s.never = true
			case '<':
				s.caught = false
			case '*':
				s.since = time.Second
			}
		}
		s.name, s.zone, _ = strings.Cut(word, "/")
		a.seats[s.name] = s
	}
	return a
}

func TestVoterPlan(t *testing.T) {
	tests := map[string]struct {
		members string
		seats   string
		want    string // "act name", or "wait"
	}{
		"one node":                           {"a+", "a", "rest"},
		"two nodes have one voter":           {"a+", "a b", "rest"},
		"three nodes: the first spare":       {"a+", "a b c", "admit b"},
		"three nodes: the second spare":      {"a+ b", "a b c", "admit c"},
		"no even number while one is behind": {"a+ b c", "a b <c", "wait"},
		"two ready make it three":            {"a+ b c", "a b c", "promote b"},
		"and the other follows":              {"a+ b+ c", "a b c", "promote c"},
		"three of six":                       {"a+ b+ c+", "a b c d e f", "rest"},
		"five of seven":                      {"a+ b+ c+", "a b c d e f g", "admit d"},
		"no spare that is dead":              {"a+", "a b !c", "rest"},
		"no spare that is not to vote":       {"a+", "a b ~c", "rest"},
		"a dead voter without a spare stays": {"a+ b+ c+", "a b !c", "rest"},
		"a dead voter has three seconds":     {"a+ b+ c+", "a b ?c d", "wait"},
		"then its spare is made ready first": {"a+ b+ c+", "a b !c d", "admit d"},
		"and caught up":                      {"a+ b+ c+ d", "a b !c <d", "wait"},
		"and then it loses its vote":         {"a+ b+ c+ d", "a b !c d", "demote c"},
		// Found by the simulation: a voter that was just back was the one to go.
		"never one of the last that answer": {"a+ b+ c+ d", "a ^b !c d", "demote c"},
		"which the spare gets":              {"a+ b+ c d", "a b !c d", "promote d"},
		"no patience when two are dead":     {"a+ b+ c+ d+ e+", "a b c ?d !e f g", "admit f"},
		"a spare must be well for a while":  {"a+ b+ c+", "a b !c *d", "wait"},
		"a member that is gone goes":        {"a+ b+ c+", "a b", "dismiss c"},
		"too many after nodes went":         {"a+ b+ c+", "a b", "dismiss c"},
		"fewer are wanted: the dead first":  {"a+ b+ c+ d+ e+", "a b !c d e f", "demote c"},
		"the leader keeps its vote":         {"a+ b+", "a b", "demote b"},
		"a voter that is not to vote":       {"a+ b+ c+ d", "a b ~c d", "demote c"},
		"the leader is not to vote":         {"a+ b+ c+", "~a b c d", "hand over b"},
		"alone and not to vote":             {"a+", "~a b", "admit b"},
		"its heir is ready":                 {"a+ b", "~a b", "promote b"},
		"its heir votes":                    {"a+ b+", "~a b", "hand over b"},
		"spread over zones":                 {"a+", "a/x b/x c/x d/y e/z", "admit d"},
		"spread over zones, second":         {"a+ d", "a/x b/x c/x d/y e/z", "admit e"},
		"a vote moves to a zone without":    {"a+ b+ c+", "a/x b/x c/y d/z", "admit d"},
		"a vote leaves a crowded zone":      {"a+ b+ c+", "a/x b/x c/x d/z", "admit d"},
		"from there":                        {"a+ b+ c+ d", "a/x b/x c/x d/z", "demote c"},
		"who is back and caught up goes":    {"a+ b+ c d+", "a b c d", "dismiss c"},
		"who is back and behind stays":      {"a+ b+ c d+", "a b <c d", "wait"},
		"who is dead stays for a day":       {"a+ b+ c d+", "a b !c d", "wait"},
		"an even number without spares":     {"a+ b+", "a b !c", "demote b"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, again := parse("a", tt.members, tt.seats).next()
			got := strings.TrimSpace(m.act.String() + " " + m.name)
			if m.act == rest && again > 0 {
				got = "wait"
			}
			if got != tt.want {
				t.Errorf("plan for members %q, nodes %q is %q, want %q", tt.members, tt.seats, got, tt.want)
			}
		})
	}
}

func TestWantedVotersAreOddAndNoMoreThanMay(t *testing.T) {
	for n := 1; n <= 20; n++ {
		for eligible := 0; eligible <= n; eligible++ {
			got := wantVoters(n, eligible)
			if got%2 == 0 || got > max(1, eligible) || got > 5 {
				t.Errorf("%d of %d nodes that may vote: %d voters", eligible, n, got)
			}
		}
	}
	for n, want := range map[int]int{1: 1, 2: 1, 3: 3, 6: 3, 7: 5, 100: 5} {
		if got := wantVoters(n, n); got != want {
			t.Errorf("%d nodes: %d voters, want %d", n, got, want)
		}
	}
}

// Whatever nodes come, go, die and return, the plan comes to rest, with an odd
// number of voters where enough nodes live, and no change it makes takes away a
// quorum that was there.
func TestVoterChangesKeepTheQuorumAndComeToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := parse("n0", "n0+", "n0")
		next := 1
		t.Repeat(map[string]func(*rapid.T){
			"a node joins": func(t *rapid.T) {
				if next > 12 {
					t.Skip("enough")
				}
				name := fmt.Sprintf("n%d", next)
				next++
				a.seats[name] = seat{name: name, alive: true, since: time.Hour, zone: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "zone"), caught: true}
			},
			"a node dies or returns": func(t *rapid.T) {
				s := a.seats[pick(t, a)]
				s.alive = !s.alive
				s.caught = s.alive
				if s.name == a.self || !a.withVoter(s).quorum() {
					t.Skip("that would be the end of it")
				}
				a.seats[s.name] = s
			},
			"a label changes": func(t *rapid.T) {
				s := a.seats[pick(t, a)]
				s.never = !s.never
				a.seats[s.name] = s
			},
			"a node is removed": func(t *rapid.T) {
				name := pick(t, a)
				if name == a.self {
					t.Skip("the leader")
				}
				without := a.withVoter(a.seats[name])
				delete(without.seats, name)
				if !without.quorum() {
					t.Skip("refused elsewhere")
				}
				delete(a.seats, name)
			},
			"": func(t *rapid.T) {
				a = a.converge(t)
			},
		})
	})
}

func pick(t *rapid.T, a assembly) string {
	return rapid.SampledFrom(sortedKeys(a.seats)).Draw(t, "node")
}

// withVoter is a copy in which a node is as given.
func (a assembly) withVoter(s seat) assembly {
	seats := map[string]seat{}
	for k, v := range a.seats {
		seats[k] = v
	}
	seats[s.name] = s
	a.seats = seats
	return a
}

// quorum tells whether a majority of the voters is alive.
func (a assembly) quorum() bool {
	voters, alive := 0, 0
	for _, m := range a.members {
		if m.Voter {
			voters++
			if a.seats[m.Name].alive || m.Name == a.self {
				alive++
			}
		}
	}
	return alive > voters/2
}

func (a assembly) converge(t *rapid.T) assembly {
	for range 100 {
		m, _ := a.next()
		if m.act == rest {
			a.checkRest(t)
			return a
		}
		members := make([]consensus.Member, 0, len(a.members)+1)
		found := false
		for _, one := range a.members {
			if one.Name == m.name {
				found = true
				if m.act == dismiss {
					continue
				}
				one.Voter = m.act == promote || one.Voter && m.act != demote
			}
			members = append(members, one)
		}
		if !found {
			members = append(members, consensus.Member{Name: m.name, Voter: m.act == promote})
		}
		if m.act == handOver {
			if s := a.seats[m.name]; !s.alive {
				t.Fatalf("leadership handed to %s, which is dead", m.name)
			}
			a.self = m.name
		}
		if m.act == demote && m.name == a.self {
			t.Fatalf("the leader demotes itself")
		}
		a.members = members
		if !a.quorum() {
			t.Fatalf("%s %s (%s) took the quorum away: %v", m.act, m.name, m.why, a.members)
		}
	}
	t.Fatalf("no rest after 100 changes: %v, %v", a.members, a.seats)
	return a
}

func (a assembly) checkRest(t *rapid.T) {
	v := a.count()
	alive := 0
	for _, s := range a.seats {
		if s.alive && !s.never {
			alive++
		}
	}
	if len(v.voters)%2 == 0 {
		t.Fatalf("%d voters at rest: %v of %v", len(v.voters), a.members, a.seats)
	}
	if alive >= v.want && len(v.voters) != v.want {
		t.Fatalf("%d voters at rest, want %d: %v of %v", len(v.voters), v.want, a.members, a.seats)
	}
	if alive >= v.want {
		for _, s := range v.voters {
			if !s.alive {
				t.Fatalf("dead voter %s at rest though there are spares: %v of %v", s.name, a.members, a.seats)
			}
		}
	}
}
