package consensus

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// simCounts is what happened, so that a test that shows nothing is found out.
type simCounts struct {
	done, refused, unknown, reads, changes, restarts, powerLosses, installs, resets atomic.Int64
}

type simCount struct {
	name string
	n    *atomic.Int64
}

func (c *simCounts) all() []simCount {
	return []simCount{
		{"writes", &c.done},
		{"refusals", &c.refused},
		{"unknown outcomes", &c.unknown},
		{"reads", &c.reads},
		{"changes of voters", &c.changes},
		{"restarts", &c.restarts},
		{"losses of power", &c.powerLosses},
		{"snapshots from leaders", &c.installs},
		{"resets", &c.resets},
	}
}

func (c *simCounts) add(o *simCounts) {
	for i, n := range o.all() {
		c.all()[i].n.Add(n.n.Load())
	}
}

func (c *simCounts) String() string {
	var parts []string
	for _, n := range c.all() {
		parts = append(parts, fmt.Sprint(n.n.Load(), " ", n.name))
	}
	return strings.Join(parts, ", ")
}
