package agenttest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/agent/identity"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// What the simulation has found, told again without chance.

func inCluster(t *testing.T, size int, test func(c *Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, size)
		if len(c.failed()) == 0 {
			test(c)
		}
		c.Stop()
		for _, p := range c.failed() {
			t.Error(p)
		}
	})
}

// user does one thing as a person.
func (c *Cluster) user(do func(context.Context, *person) error) {
	c.eventually(time.Minute, "a user is served", func() string {
		p := c.person(0, c.machines[0])
		defer p.close()
		ctx, cancel := context.WithTimeout(context.Background(), callPatience)
		defer cancel()
		return text(do(ctx, p))
	})
}

func TestAVoterThatLostItsVoteWhileItWasOffIsWellAgain(t *testing.T) {
	inCluster(t, 4, func(c *Cluster) {
		c.user(func(ctx context.Context, p *person) error {
			return errOf(p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: deployment("web", 6, 1)}))
		})
		var gone *Machine
		if !c.eventually(time.Minute, "three vote", func() string {
			for _, m := range c.machines {
				if c.votes(m) && m != c.leader() {
					gone = m
				}
			}
			return c.settled()
		}) {
			return
		}
		c.PowerOff(gone)
		c.eventually(time.Minute, "another votes instead", func() string {
			if c.votes(gone) {
				return gone.Name + " still votes"
			}
			return ""
		})
		c.Start(gone)
		c.eventually(time.Minute, "all is well", c.settled)
	})
}

// The first machine of a cluster remembered no other for its next start, because
// nobody voted yet when they joined. When it was put out of raft meanwhile, it
// had nobody left to ask.
func TestTheFirstMachineRemembersTheVoters(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		c.eventually(time.Minute, "three vote", c.settled)
		time.Sleep(10 * time.Second)
		id, err := identity.Load(filepath.Join(c.machines[0].dir, "identity"))
		if err != nil {
			c.fail("%v", err)
			return
		}
		if got := len(id.Peers()); got != 2 {
			c.fail("it remembers %d voters, want the 2 others", got)
		}
	})
}

// A voter that stood still while it lost its vote, and while the leadership went
// to a machine that was no member then, followed its own old copy for ever: it
// refused the leader, and asked nobody, as it voted in its own eyes.
func TestAVoterThatStoodStillWhileAllChangedIsWellAgain(t *testing.T) {
	inCluster(t, 5, func(c *Cluster) {
		c.eventually(time.Minute, "three vote", c.settled)
		var old []*Machine
		for _, m := range c.machines {
			if c.votes(m) {
				old = append(old, m)
			}
		}
		still := old[0]
		if still == c.leader() {
			still = old[1]
		}
		c.Pause(still)
		for _, m := range old { // one by one, until none of the old ones leads
			if m == still {
				continue
			}
			c.eventually(time.Minute, "two others are there", func() string { return c.others(still, m) })
			c.Kill(m)
			c.pass(15 * time.Second)
			c.Start(m)
			c.pass(15 * time.Second)
		}
		c.Resume(still)
		c.eventually(time.Minute, "all is well", c.settled)
	})
}

// others says "" once three machines vote that are not the first.
func (c *Cluster) others(still, _ *Machine) string {
	if c.leader() == nil || c.votes(still) {
		return "the one that stands still votes"
	}
	return ""
}

// The first machine was killed between writing that another votes too and telling
// anybody. Back again it needed that one's vote, had no address of it, and took
// its greetings for a stranger's.
func TestTheFirstMachineFindsAVoterThatOnlyItsLogKnows(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		first := c.machines[0]
		if !c.eventually(time.Minute, "others are to vote", func() string {
			for range 10_000 {
				members, _, err := first.run.current().Consensus().Members()
				if err != nil {
					return err.Error()
				}
				if voters, _ := c.voters(members); voters > 1 {
					c.Kill(first)
					return ""
				}
				time.Sleep(10 * time.Microsecond)
			}
			return "the first votes alone"
		}) {
			return
		}
		c.Start(first)
		c.eventually(time.Minute, "all is well", c.settled)
	})
}

// A member that was away refused a leader that had become one meanwhile: its own
// log did not know it, and nobody else would bring that up to date.
func TestAMemberThatWasAwayTakesALeaderThatItDoesNotKnow(t *testing.T) {
	inCluster(t, 4, func(c *Cluster) {
		if !c.eventually(time.Minute, "three vote", c.settled) {
			return
		}
		var away, fresh *Machine
		for _, m := range c.machines {
			switch {
			case !c.votes(m):
				fresh = m
			case m != c.leader():
				away = m
			}
		}
		c.PowerOff(fresh) // who joined is no member yet for this one
		c.PowerOff(away)
		c.Start(fresh)
		c.eventually(time.Minute, "another votes instead", func() string {
			if !c.votes(fresh) {
				return fresh.Name + " does not vote"
			}
			return ""
		})
		first := c.leader()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := first.run.current().Consensus().TransferLeadership(ctx, fresh.Name); err != nil {
			c.fail("%v", err)
			return
		}
		c.Start(away)
		c.eventually(time.Minute, "it follows the log again", func() string {
			if c.leader() != fresh {
				return fresh.Name + " does not lead"
			}
			a := away.run.current()
			if a == nil {
				return away.Name + " is not up"
			}
			if got := a.Consensus().Leader(); got != fresh.Name {
				return fmt.Sprintf("%s takes %q for the leader", away.Name, got)
			}
			return ""
		})
	})
}

// Who takes no part in raft knew only the voters of the day it joined, which for
// all of a new cluster is the first machine. When that one was lost they had
// nobody left to ask who leads, and refused the vote that was to replace its.
func TestWhoDoesNotVoteOutlivesTheVoterByWhichItJoined(t *testing.T) {
	inCluster(t, 5, func(c *Cluster) {
		if !c.eventually(time.Minute, "three vote", c.settled) {
			return
		}
		c.pass(10 * time.Second)
		c.PowerOff(c.machines[0])
		for _, m := range c.machines[1:] {
			c.eventually(20*time.Second, m.Name+" is served", func() string { return c.serves(m) })
		}
		c.eventually(time.Minute, "another votes instead", func() string {
			if c.leader() == nil || !c.votes(c.machines[3]) && !c.votes(c.machines[4]) {
				return "neither of the two others votes"
			}
			return ""
		})
	})
}

// The first machine of a new cluster is lost as soon as others vote, of which those
// that do not vote hear at once.
func TestWhoDoesNotVoteOutlivesTheFirstMachineOfAYoungCluster(t *testing.T) {
	inCluster(t, 5, func(c *Cluster) {
		if !c.eventually(time.Minute, "three vote", c.settled) {
			return
		}
		c.pass(500 * time.Millisecond)
		c.PowerOff(c.machines[0])
		for _, m := range c.machines[1:] {
			c.eventually(20*time.Second, m.Name+" is served", func() string { return c.serves(m) })
		}
	})
}

// A machine that takes no part in raft holds no tokens, and told whoever wanted to
// join by it that theirs was unknown.
func TestAMachineJoinsByOneThatDoesNotVote(t *testing.T) {
	inCluster(t, 4, func(c *Cluster) {
		if !c.eventually(time.Minute, "three vote", c.settled) {
			return
		}
		by := c.machines[slices.IndexFunc(c.machines, func(m *Machine) bool { return !c.votes(m) })]
		m := c.add(5, t.TempDir())
		m.start(false, []string{by.addr.String()}, c.token)
		c.eventually(time.Minute, "it has joined", c.settled)
		if m.starts != 1 {
			c.fail("it was refused before it was let in")
		}
	})
}
