package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/skein-dev/skein/consensus"
)

// The patience with members that do not answer.
const (
	deadVoter  = 3 * time.Second // a reboot is not a death, while the other voters are well
	settled    = 5 * time.Second // how long a spare must have been well to replace somebody
	deadMember = 24 * time.Hour  // before a member without a vote is removed
	caughtUp   = 1000            // entries that a member may be behind and still be given a vote
	lookAgain  = 100 * time.Millisecond
	answersIn  = time.Second // a leader asks its members several times a second
)

// A seat is a node as the voter plan sees it.
type seat struct {
	name   string
	zone   string
	never  bool // it is not to vote
	alive  bool
	since  time.Duration // for how long it has been alive, or not
	load   float64
	caught bool // its log is nearly the leader's
	// answers: raft hears it. Gossip, which alive is from, may learn later that
	// it is back.
	answers bool
}

// An assembly is all that the voter plan looks at.
type assembly struct {
	self    string
	members []consensus.Member
	seats   map[string]seat // of the nodes that are enrolled
}

// A motion is one change to the members. There is one at a time: after each, the
// members are read again.
type motion struct {
	act  motionKind
	name string
	why  string
}

type motionKind int

const (
	rest     motionKind = iota // all is well, or there is something to wait for
	admit                      // prepare a node and make it a member without a vote
	promote                    // give a member a vote
	demote                     // take it
	dismiss                    // end a membership
	handOver                   // lead no more, in favour of name
)

func (k motionKind) String() string {
	return [...]string{"rest", "admit", "promote", "demote", "dismiss", "hand over"}[k]
}

// wantVoters is how many of n nodes vote: never an even number, and no more than
// may.
func wantVoters(n, eligible int) int {
	want := 5
	switch {
	case n < 3:
		want = 1
	case n < 7:
		want = 3
	}
	if eligible < want {
		want = eligible - 1 + eligible%2
	}
	return max(want, 1)
}

// next says what to change, and when to look again if there is something to wait
// for (0: only when something changes).
func (a assembly) next() (motion, time.Duration) {
	v := a.count()
	for _, step := range []func(*tally) (motion, time.Duration){
		(*tally).dismissStrangers, (*tally).yield, (*tally).shrink, (*tally).grow, (*tally).replace, (*tally).spread, (*tally).tidy,
	} {
		if m, again := step(v); m.act != rest || again > 0 {
			return m, again
		}
	}
	return motion{}, v.later
}

// A tally is the assembly, sorted.
type tally struct {
	assembly
	want   int
	voters []seat // that are enrolled
	others []seat // members without a vote that are enrolled
	strays []consensus.Member
	spares []seat // alive, may vote, and do not; the best first
	later  time.Duration
}

func (a assembly) count() *tally {
	t := &tally{assembly: a}
	eligible := 0
	for _, s := range a.seats {
		if !s.never {
			eligible++
		}
	}
	t.want = wantVoters(len(a.seats), eligible)
	votes := map[string]bool{}
	isMember := map[string]bool{}
	for _, m := range a.members {
		s, enrolled := a.seats[m.Name]
		switch {
		case !enrolled && m.Name != a.self:
			t.strays = append(t.strays, m)
			continue
		case !enrolled:
			s = seat{name: m.Name, alive: true, caught: true}
		}
		if m.Name == a.self {
			s.alive, s.caught = true, true
		}
		s.alive = s.alive || m.Voter && s.answers
		if isMember[m.Name] = true; m.Voter {
			votes[m.Name] = true
			t.voters = append(t.voters, s)
		} else {
			t.others = append(t.others, s)
		}
	}
	for _, s := range a.seats {
		if s.alive && !s.never && !votes[s.name] {
			t.spares = append(t.spares, s)
		}
	}
	t.rankSpares(isMember)
	return t
}

// rankSpares puts first whoever spreads the voters best: each pick counts for
// the next. Among equals a member that has caught up wins, so that a change of
// load does not change the choice half-way.
func (t *tally) rankSpares(isMember map[string]bool) {
	inZone := map[string]int{}
	for _, v := range t.voters {
		if v.alive || v.since < deadVoter {
			inZone[v.zone]++
		}
	}
	left := t.spares
	t.spares = nil
	for len(left) > 0 {
		best := 0
		for i := range left {
			a, b := left[i], left[best]
			if cmp.Or(
				cmp.Compare(inZone[a.zone], inZone[b.zone]),
				compareBool(!isMember[a.name], !isMember[b.name]),
				compareBool(!a.caught, !b.caught),
				cmp.Compare(int(a.load*4), int(b.load*4)),
				cmp.Compare(a.name, b.name),
			) < 0 {
				best = i
			}
		}
		inZone[left[best].zone]++
		t.spares = append(t.spares, left[best])
		left = slices.Delete(left, best, best+1)
	}
}

func (t *tally) isMember(name string) bool {
	return slices.ContainsFunc(t.members, func(m consensus.Member) bool { return m.Name == name })
}
