package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus"
)

// The patience with members that do not answer.
const (
	deadVoter  = 3 * time.Second // a reboot is not a death, while the other voters are well
	settled    = 5 * time.Second // how long a spare must have been well to replace somebody
	deadMember = 24 * time.Hour  // before a member without a vote is removed
	caughtUp   = 1000            // entries that a member may be behind and still be given a vote
	lookAgain  = 100 * time.Millisecond
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

// dispensable picks the voter to do without; never this one, which leads.
func (t *tally) dispensable(among []seat) (seat, bool) {
	inZone := map[string]int{}
	for _, v := range t.voters {
		inZone[v.zone]++
	}
	var found seat
	for _, v := range among {
		if v.name == t.self {
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

// keepVoters makes the members what they should be, one change after the other.
func (r *reign) keepVoters(ctx context.Context) error {
	for {
		members, index, err := r.Voting.Members()
		if err != nil {
			return fmt.Errorf("read members: %w", err)
		}
		m, again := r.assemble(members, time.Now()).next()
		if m.act == rest {
			if again > 0 {
				return reconcile.After(again)
			}
			return nil
		}
		err = r.carry(ctx, m, index)
		if errors.Is(err, consensus.ErrMembersChanged) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s %s (%s): %w", m.act, m.name, m.why, err)
		}
		r.log.Info("members changed", "change", m.act.String(), "node", m.name, "why", m.why)
		r.events.eventf(aboutNode(m.name, r.model.uidOf(m.name)), corev1.EventTypeNormal, "Voters", "%s: %s", m.act, m.why)
		if m.act == handOver {
			return nil
		}
	}
}

func (r *reign) assemble(members []consensus.Member, now time.Time) assembly {
	a := assembly{self: r.Name, members: members, seats: map[string]seat{}}
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	for name, n := range r.model.nodes {
		s := seat{name: name, zone: n.place.Zone, never: n.never, alive: n.ready == corev1.ConditionTrue, since: now.Sub(n.since)}
		if r.Load != nil {
			s.load, _ = r.Load(name)
		}
		if p, ok := r.Voting.Progress(name); ok {
			s.caught = p.Behind <= caughtUp && now.Sub(p.LastContact) < deadVoter
		}
		a.seats[name] = s
	}
	return a
}

func (r *reign) carry(ctx context.Context, m motion, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch m.act {
	case admit:
		if err := r.Preparer.Prepare(ctx, m.name); err != nil {
			return fmt.Errorf("hand over what voters hold: %w", err)
		}
		return r.Voting.AddNonvoter(ctx, m.name, index)
	case promote:
		return r.Voting.AddVoter(ctx, m.name, index)
	case demote:
		return r.Voting.Demote(ctx, m.name, index)
	case dismiss:
		return r.Voting.Remove(ctx, m.name, index)
	default:
		return r.Voting.TransferLeadership(ctx, m.name)
	}
}
