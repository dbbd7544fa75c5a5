package agenttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/consensus"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Trials are faults of which it is known what has to come of them: chance alone
// would hardly make them, and what follows would hide their outcome. They are for
// a cluster that is well, and leave it well.

// present lists the machines whose agents run.
func (c *Cluster) present() []*Machine {
	return slices.DeleteFunc(slices.Clone(c.machines), func(m *Machine) bool { return m.run == nil })
}

// within waits until a condition says "", which has to be within patience, and
// looks as pass does.
func (c *Cluster) within(patience time.Duration, what string, why func() string) bool {
	reason := ""
	for end := time.Now().Add(patience); time.Now().Before(end); c.pass(lookEvery) {
		if len(c.failed()) > 0 {
			return false
		}
		if reason = why(); reason == "" {
			return true
		}
	}
	c.fail("not after %s: %s: %s", patience, what, reason)
	return false
}

// blink cuts a machine off that does not lead, for longer than a verdict takes and
// too short for its streams to break.
func (c *Cluster) blink(random *rand.Rand) {
	others := slices.DeleteFunc(c.present(), func(m *Machine) bool { return m == c.leader() })
	m := others[random.IntN(len(others))]
	c.cutOff(m, random)
	c.within(10*time.Second, m.Name+" is ready again", func() string {
		if ready := c.readyNodes(); !slices.Contains(ready, m.Name) {
			return fmt.Sprintf("only %v are", ready)
		}
		return ""
	})
}

// cutOff cuts a machine off for so long.
func (c *Cluster) cutOff(m *Machine, random *rand.Rand) {
	c.isolate(m)
	c.pass(1500*time.Millisecond + time.Duration(random.IntN(2300))*time.Millisecond)
	c.trace.add("FATE", "mend the links of %s", m.Name)
	c.net.Mend(m.addr.Addr())
}

// handOver moves leadership while the leader is told everything late: the next one
// acknowledges writes before it knows. Nobody may be told there what is old.
func (c *Cluster) handOver(work *users) {
	old, next := c.leader(), c.follower()
	if old == nil || next == nil {
		return
	}
	c.trace.add("FATE", "hand leadership from %s to %s, and let %s be told late", old.Name, next.Name, old.Name)
	for _, m := range c.present() {
		c.net.SetLag(m.addr.Addr(), old.addr.Addr(), lag)
	}
	ctx, stop := context.WithCancel(c.t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		work.keep(ctx, 30, old, func(call context.Context, p *person, _ int) { work.read(call, p, 30, "reg-0") })
	})
	group.Go(func() {
		work.keep(ctx, 31, next, func(call context.Context, p *person, n int) {
			work.write(call, p, 31, "reg-0", fmt.Sprintf("31-%d", n), nil)
		})
	})
	c.pass(lookEvery)
	group.Go(func() { c.transfer(ctx, next) })
	c.pass(3 * lag)
	stop()
	group.Wait()
	c.heal()
	c.within(10*time.Second, "somebody leads", func() string {
		if c.leader() == nil {
			return "nobody does"
		}
		return ""
	})
}

// transfer has the leader hand leadership to another, if it can.
func (c *Cluster) transfer(ctx context.Context, to *Machine) {
	if lead := c.leader(); lead != nil && lead != to {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		c.trace.add("FATE", "%s hands leadership to %s: %v", lead.Name, to.Name, lead.run.current().Consensus().TransferLeadership(ctx, to.Name))
	}
}

// lag is how late the leader is told. With more it would not be sure to lead.
const lag = 100 * time.Millisecond

// keep lets one more user do something at a machine, over and over.
func (u *users) keep(ctx context.Context, number int, m *Machine, do func(context.Context, *person, int)) {
	p := u.cluster.person(number, m)
	defer p.close()
	for n := 0; ctx.Err() == nil; n++ {
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callPatience)
		do(call, p, n)
		cancel()
		pause := time.NewTimer(10 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// replaceOne takes the power of a voter until another votes instead of it, and
// then, sometimes, of the leader too, or has leadership handed to that other one,
// so that somebody leads when it comes back whom it does not know. If it is the
// first that leads, who knows no other voter has nobody left to ask.
func (c *Cluster) replaceOne(random *rand.Rand) {
	gone, next := c.leader(), (*Machine)(nil)
	if random.IntN(2) == 0 {
		gone = c.follower()
	}
	if gone == nil || len(c.present()) < 4 {
		return
	}
	old := slices.DeleteFunc(c.present(), func(m *Machine) bool { return !c.votes(m) })
	c.PowerOff(gone)
	if !c.within(40*time.Second, "another votes instead of "+gone.Name, func() string {
		now := slices.DeleteFunc(c.present(), func(m *Machine) bool { return !c.votes(m) })
		if c.leader() == nil || c.votes(gone) || len(now) < len(old) { // its vote is taken before another gets one
			return fmt.Sprintf("%d of %d vote, and it: %t", len(now), len(old), c.votes(gone))
		}
		return ""
	}) {
		return
	}
	for _, m := range c.present() {
		c.well(m)
	}
	switch random.IntN(3) {
	case 0:
		for _, m := range c.present() {
			if c.votes(m) && !slices.Contains(old, m) {
				c.transfer(c.t.Context(), m)
			}
		}
	case 1:
		next = c.leader()
		c.PowerOff(next)
		c.within(20*time.Second, "another leads instead of "+next.Name, func() string {
			if c.leader() == nil {
				return "nobody does"
			}
			return ""
		})
	}
	for _, m := range []*Machine{gone, next} {
		if m != nil && len(c.failed()) == 0 {
			c.Start(m)
			c.well(m)
		}
	}
}

// well waits until a machine knows who leads and what is true.
func (c *Cluster) well(m *Machine) {
	c.within(30*time.Second, m.Name+" is served", func() string { return c.serves(m) })
	c.within(30*time.Second, m.Name+" hears the leader", func() string { return c.hears(m) })
}

// serves says "" if a machine answers with what is true now.
func (c *Cluster) serves(m *Machine) string {
	p := c.person(0, m)
	defer p.close()
	ctx, cancel := context.WithTimeout(c.t.Context(), callPatience)
	defer cancel()
	res, err := p.Get(ctx, &skeinv1.GetRequest{Kind: "node"})
	if err == nil && res.GetAgeMs() != 0 {
		return fmt.Sprintf("what %s tells is %d ms old", m.Name, res.GetAgeMs())
	}
	return text(err)
}

// hears says "" unless a machine takes part in raft and takes somebody else for
// the leader, or nobody.
func (c *Cluster) hears(m *Machine) string {
	lead := c.leader()
	if lead == nil {
		return "nobody leads"
	}
	members, _, err := lead.run.current().Consensus().Members()
	if err != nil {
		return err.Error()
	}
	if !slices.ContainsFunc(members, func(in consensus.Member) bool { return in.Name == m.Name }) {
		return ""
	}
	if a := m.run.current(); a == nil || a.Consensus().Leader() != lead.Name {
		return fmt.Sprintf("it does not take %s for the leader, whose log has it as a member", lead.Name)
	}
	return ""
}
