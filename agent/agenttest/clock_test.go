package agenttest

import (
	"testing"
	"time"
)

// A board without a battery starts in the past, until somebody tells it the time.
func TestAMachineWhoseClockIsYearsBehindTakesPart(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		c.eventually(time.Minute, "three vote", c.settled)
		m := c.follower()
		c.PowerOff(m)
		c.SetClock(m, -20*365*24*time.Hour)
		c.Start(m)
		c.eventually(time.Minute, "all is well", c.settled)
		for _, o := range c.machines {
			if o != m {
				c.Kill(o) // what it takes part in, it takes part in alone for a moment
				c.Start(o)
			}
		}
		c.write("later")
		c.eventually(time.Minute, "all is well again", c.settled)
	})
}

// One whose clock is so far ahead that all certificates have expired by it talks
// to nobody, and is nobody's trouble; once it is right, it is back.
func TestAMachineWhoseClockIsYearsAheadIsAloneUntilItIsRight(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		c.eventually(time.Minute, "three vote", c.settled)
		m := c.machines[1] // a user is served by the first
		c.PowerOff(m)
		c.SetClock(m, 20*365*24*time.Hour)
		c.Start(m)
		c.pass(20 * time.Second)
		c.write("meanwhile")
		if l := c.leader(); l == m {
			c.fail("%s leads", m.Name)
		}
		c.SetClock(m, 0)
		c.eventually(time.Minute, "all is well", c.settled)
	})
}
