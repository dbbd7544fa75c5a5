package agenttest

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A fault is one thing that may befall a cluster, drawn as often as its weight.
type fault struct {
	weight int
	strike func(c *Cluster, random *rand.Rand)
}

var faults = []fault{
	{8, func(c *Cluster, r *rand.Rand) { c.one(r, c.Kill) }},
	{8, func(c *Cluster, r *rand.Rand) { c.one(r, c.PowerOff) }},
	{6, func(c *Cluster, _ *rand.Rand) { c.leading(c.Kill) }},
	{6, func(c *Cluster, _ *rand.Rand) { c.leading(c.PowerOff) }},
	{4, func(c *Cluster, _ *rand.Rand) { c.leading(c.Pause) }},
	{4, func(c *Cluster, _ *rand.Rand) { c.leading(c.isolate) }},
	{5, func(c *Cluster, r *rand.Rand) { c.one(r, c.Pause) }},
	{5, func(c *Cluster, r *rand.Rand) { c.one(r, c.isolate) }},
	{4, func(c *Cluster, r *rand.Rand) { c.one(r, func(m *Machine) { c.cutOff(m, r) }) }},
	{4, func(c *Cluster, r *rand.Rand) { c.split(r) }},
	{4, func(c *Cluster, r *rand.Rand) { c.oneWay(r) }},
	{3, func(c *Cluster, r *rand.Rand) {
		share := []float64{0.02, 0.1, 0.3}[r.IntN(3)]
		c.trace.add("FATE", "lose %.0f%% of datagrams", 100*share)
		c.net.SetLoss(share)
	}},
	{3, func(c *Cluster, r *rand.Rand) {
		delay := time.Duration(r.IntN(80)) * time.Millisecond
		c.trace.add("FATE", "delay datagrams by %s", delay)
		c.net.SetDelay(delay)
	}},
	{3, func(c *Cluster, r *rand.Rand) {
		c.one(r, func(m *Machine) { c.trace.add("FATE", "slow disk of %s", m.Name); m.disk.Slow(500 * time.Millisecond) })
	}},
	{2, func(c *Cluster, r *rand.Rand) {
		c.one(r, func(m *Machine) { c.trace.add("FATE", "hung disk of %s", m.Name); m.disk.Hang() })
	}},
	{2, func(c *Cluster, r *rand.Rand) {
		c.one(r, func(m *Machine) { c.trace.add("FATE", "full disk of %s", m.Name); m.disk.Full() })
	}},
	{2, func(c *Cluster, r *rand.Rand) {
		c.one(r, func(m *Machine) { c.trace.add("FATE", "read-only disk of %s", m.Name); m.disk.ReadOnly() })
	}},
	{5, func(c *Cluster, r *rand.Rand) {
		far := []time.Duration{time.Second, time.Minute, time.Hour}[r.IntN(3)]
		c.one(r, func(m *Machine) { c.SetClock(m, time.Duration(r.Int64N(2*int64(far)))-far) })
	}},
	{2, func(c *Cluster, r *rand.Rand) { // many at once
		for range 1 + r.IntN(len(c.machines)) {
			c.one(r, c.PowerOff)
		}
	}},
	{14, func(c *Cluster, r *rand.Rand) { // one comes back
		var down []*Machine
		for _, m := range c.machines {
			if m.run == nil {
				down = append(down, m)
			}
		}
		if len(down) > 0 {
			c.Start(down[r.IntN(len(down))])
		}
	}},
	{8, func(c *Cluster, _ *rand.Rand) { c.trace.add("FATE", "heal"); c.heal() }},
	{4, func(c *Cluster, _ *rand.Rand) { c.restore() }},
}

// strike lets one fault of the list happen.
func (c *Cluster) strike(random *rand.Rand) {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	n := random.IntN(sum)
	for _, f := range faults {
		if n -= f.weight; n < 0 {
			f.strike(c, random)
			return
		}
	}
}

// one picks a machine on which an agent runs.
func (c *Cluster) one(random *rand.Rand, do func(*Machine)) {
	var up []*Machine
	for _, m := range c.machines {
		if m.run != nil {
			up = append(up, m)
		}
	}
	if len(up) > 0 {
		do(up[random.IntN(len(up))])
	}
}

// leading picks the machine that leads, if one does.
func (c *Cluster) leading(do func(*Machine)) {
	if m := c.leader(); m != nil {
		do(m)
	}
}

func (c *Cluster) isolate(m *Machine) {
	c.trace.add("FATE", "isolate %s", m.Name)
	for _, o := range c.machines {
		if o != m {
			c.net.Cut(m.addr.Addr(), o.addr.Addr())
		}
	}
}

func (c *Cluster) split(random *rand.Rand) {
	side := slices.Clone(c.machines)
	random.Shuffle(len(side), func(i, j int) { side[i], side[j] = side[j], side[i] })
	at := 1 + random.IntN(len(side)-1)
	for _, a := range side[:at] {
		for _, b := range side[at:] {
			c.trace.add("FATE", "cut %s from %s", a.Name, b.Name)
			c.net.Cut(a.addr.Addr(), b.addr.Addr())
		}
	}
}

func (c *Cluster) oneWay(random *rand.Rand) {
	i := random.IntN(len(c.machines))
	j := (i + 1 + random.IntN(len(c.machines)-1)) % len(c.machines)
	c.trace.add("FATE", "lose what %s sends to %s", c.machines[i].Name, c.machines[j].Name)
	c.net.CutOneWay(c.machines[i].addr.Addr(), c.machines[j].addr.Addr())
}

// restore mends all that is broken and starts all that is down.
func (c *Cluster) restore() {
	c.trace.add("FATE", "restore everything")
	c.heal()
	for _, m := range c.machines {
		c.Start(m)
	}
}

// leader is the machine whose agent leads, as it believes itself; nil for none.
func (c *Cluster) leader() *Machine {
	var found *Machine
	term := uint64(0)
	for _, m := range c.machines {
		if m.run == nil {
			continue
		}
		if a := m.run.current(); a != nil && a.Consensus().IsLeader() && a.Consensus().Term() >= term {
			found, term = m, a.Consensus().Term()
		}
	}
	return found
}
