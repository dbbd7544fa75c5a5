package leader

import (
	"cmp"
	"fmt"
	"time"
)

// dismissStrangers ends the membership of nodes that were removed.
func (t *tally) dismissStrangers() (motion, time.Duration) {
	for _, m := range t.strays {
		return motion{dismiss, m.Name, "it is not in the cluster any more"}, 0
	}
	return motion{}, 0
}

// yield hands leadership over before the leader itself loses its vote.
func (t *tally) yield() (motion, time.Duration) {
	if s, ok := t.seats[t.self]; !ok || !s.never {
		return motion{}, 0
	}
	for _, v := range t.voters {
		if v.name != t.self && v.alive && v.caught && !v.never {
			return motion{handOver, v.name, "this node is not to vote"}, 0
		}
	}
	if len(t.spares) == 0 {
		return motion{}, 0
	}
	switch s := t.spares[0]; { // nobody can take over yet
	case !t.isMember(s.name):
		return motion{admit, s.name, "it shall lead: " + t.self + " is not to vote"}, 0
	case !s.caught:
		return motion{}, lookAgain
	default:
		return motion{promote, s.name, "it shall lead: " + t.self + " is not to vote"}, 0
	}
}

// shrink takes a vote where there are too many: of the dead first, then of those
// who are not to vote, then where the most are.
func (t *tally) shrink() (motion, time.Duration) {
	if len(t.voters) <= t.want {
		return motion{}, 0
	}
	v, ok := t.dispensable(t.voters)
	if !ok {
		return motion{}, 0
	}
	return motion{demote, v.name, fmt.Sprintf("%d voters are wanted, and there are %d", t.want, len(t.voters))}, 0
}

// dispensable picks the voter to do without; never this one, which leads, nor one
// without whom those that are well would be no majority of those that are left.
func (t *tally) dispensable(among []seat) (seat, bool) {
	inZone := map[string]int{}
	well := 0
	for _, v := range t.voters {
		inZone[v.zone]++
		if v.alive {
			well++
		}
	}
	left := len(t.voters) - 1
	var found seat
	for _, v := range among {
		if v.name == t.self || v.alive && 2*(well-1) <= left {
			continue
		}
		if found.name == "" || cmp.Or(
			compareBool(v.alive, found.alive),
			compareBool(!v.never, !found.never),
			cmp.Compare(inZone[found.zone], inZone[v.zone]),
			cmp.Compare(int(found.load*4), int(v.load*4)),
			cmp.Compare(found.name, v.name),
		) < 0 {
			found = v
		}
	}
	return found, found.name != ""
}

// grow gives votes where there are too few, and never so that an even number
// rests: an odd number grows only when two are ready to.
func (t *tally) grow() (motion, time.Duration) {
	missing := t.want - len(t.voters)
	if missing <= 0 {
		return motion{}, 0
	}
	odd := len(t.voters)%2 == 1
	if odd && len(t.spares) < 2 {
		return motion{}, 0
	}
	if !odd && len(t.spares) == 0 {
		if v, ok := t.dispensable(t.voters); ok && len(t.voters) > 1 {
			return motion{demote, v.name, "an even number of voters survives no more than one less"}, 0
		}
		return motion{}, 0
	}
	picks := t.spares[:min(missing, len(t.spares))]
	ready := 0
	for _, s := range picks {
		if !t.isMember(s.name) {
			return motion{admit, s.name, t.lacks()}, 0
		}
		if s.caught {
			ready++
		}
	}
	if ready == 0 || odd && ready < 2 {
		return motion{}, lookAgain
	}
	for _, s := range picks {
		if s.caught {
			return motion{promote, s.name, t.lacks()}, 0
		}
	}
	return motion{}, 0
}

func (t *tally) lacks() string {
	return fmt.Sprintf("%d voters are wanted, and there are %d", t.want, len(t.voters))
}

// replace takes the vote of a dead voter once a spare is ready to have it: adding
// the spare first would make a majority harder to reach while one is missing.
func (t *tally) replace() (motion, time.Duration) {
	var unfit []seat
	dead := 0
	for _, v := range t.voters {
		if !v.alive {
			dead++
		}
		if v.name != t.self && (!v.alive || v.never) {
			unfit = append(unfit, v)
		}
	}
	v, ok := t.dispensable(unfit)
	if !ok || len(t.spares) == 0 {
		return motion{}, 0
	}
	if left := deadVoter - v.since; !v.alive && dead == 1 && left > 0 {
		t.soon(left)
		return motion{}, 0
	}
	why := "it does not answer"
	if v.alive {
		why = "it is not to vote"
	}
	return t.swap(v, why)
}

// swap prepares the best spare and then takes the vote that it shall have. grow
// gives it.
func (t *tally) swap(v seat, why string) (motion, time.Duration) {
	s := t.spares[0]
	if left := settled - s.since; left > 0 {
		t.soon(left)
		return motion{}, 0
	}
	switch {
	case !t.isMember(s.name):
		return motion{admit, s.name, "it shall vote instead of " + v.name + ": " + why}, 0
	case !s.caught:
		return motion{}, lookAgain
	}
	return motion{demote, v.name, why + ", and " + s.name + " is ready"}, 0
}

// spread moves a vote to a zone that has less, when all voters are well.
func (t *tally) spread() (motion, time.Duration) {
	inZone := map[string]int{}
	for _, v := range t.voters {
		if !v.alive {
			return motion{}, 0
		}
		inZone[v.zone]++
	}
	if len(t.spares) == 0 || len(t.voters) != t.want {
		return motion{}, 0
	}
	var crowded []seat
	for _, v := range t.voters {
		if inZone[v.zone] >= inZone[t.spares[0].zone]+2 {
			crowded = append(crowded, v)
		}
	}
	v, ok := t.dispensable(crowded)
	if !ok {
		return motion{}, 0
	}
	return t.swap(v, "its zone has more voters than that of "+t.spares[0].name)
}

// tidy ends memberships without a vote. A member that is back learns that it
// has no vote before it goes, else it would stand for election for ever.
func (t *tally) tidy() (motion, time.Duration) {
	for _, s := range t.others {
		switch {
		case s.alive && s.caught && len(t.voters) >= t.want && !t.nextUp(s):
			return motion{dismiss, s.name, "it has no vote, and follows as all do"}, 0
		case s.alive && !s.caught:
			t.soon(time.Second)
		case !s.alive && s.since >= deadMember:
			return motion{dismiss, s.name, "it has not answered for a day"}, 0
		case !s.alive:
			t.soon(deadMember - s.since)
		}
	}
	return motion{}, 0
}

// nextUp tells whether a member is about to replace a voter that is not well.
func (t *tally) nextUp(s seat) bool {
	for _, v := range t.voters {
		if !v.alive || v.never {
			return len(t.spares) > 0 && t.spares[0].name == s.name
		}
	}
	return false
}

func (t *tally) soon(in time.Duration) {
	if t.later == 0 || in < t.later {
		t.later = in
	}
}
