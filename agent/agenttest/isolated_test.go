package agenttest

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/agent/lease"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// acts counts the Pods of a Deployment that run on a machine and are not frozen.
func (m *Machine) acts(app string) (n int) {
	for _, s := range m.running() {
		if spec, ok := m.driver.Spec(s.ID); ok && strings.HasPrefix(spec.Sandbox.Name, app+"-") && !m.driver.Frozen(s.ID.Pod) {
			n++
		}
	}
	return n
}

func TestAnIsolatedNodeStopsWhatIsToStopThereAndKeepsTheRest(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		stop := strings.Replace(string(deployment("stop", 3, 1)), "      labels: {", "      annotations: {skein.dev/when-isolated: stop}\n      labels: {", 1)
		for _, manifest := range []string{stop, string(deployment("keep", 3, 1))} {
			c.user(func(ctx context.Context, p *person) error {
				return errOf(p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: []byte(manifest)}))
			})
		}
		if !c.eventually(time.Minute, "all Pods run", c.settled) {
			return
		}
		before := map[string]int{}
		for _, m := range c.machines {
			if n := m.acts("stop"); n != 1 {
				c.fail("%d Pods on %s are to stop, want 1", n, m.Name)
			}
			before[m.Name] = m.acts("keep")
			c.isolate(m)
		}
		time.Sleep(lease.Freeze - lease.Renew - 500*time.Millisecond) // the last renewal was a moment ago
		for _, m := range c.machines {
			if m.acts("stop") != 1 {
				c.fail("%s stopped its Pod before the time", m.Name)
			}
		}
		time.Sleep(lease.Kill - lease.Freeze + lease.Renew + time.Second)
		after := map[string]int{}
		for _, m := range c.machines {
			if m.acts("stop") != 0 {
				c.fail("%s is isolated, and what is to stop there runs on", m.Name)
			}
			after[m.Name] = m.acts("keep")
		}
		if !maps.Equal(before, after) {
			c.fail("Pods that are to be kept: %v before, %v isolated", before, after)
		}
		c.heal()
		c.eventually(time.Minute, "all Pods run again", c.settled)
	})
}
