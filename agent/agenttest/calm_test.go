package agenttest

import (
	"context"
	"flag"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

var nodeHoursFlag = flag.Float64("nodehours", 0, "virtual hours, summed over all nodes, in which a false alarm is looked for; 0: some")

// stalls are for how long a machine stands still every half minute.
var stalls = []time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 1500 * time.Millisecond}

// placed tells on which node each Pod is, by uid.
func (c *Cluster) placed() map[string]string {
	out := map[string]string{}
	for _, p := range decoded[corev1.Pod](c.stores.best(), object.KindPod) {
		if p.DeletionTimestamp == nil {
			out[string(p.UID)] = p.Spec.NodeName
		}
	}
	return out
}

// TestWholeClustersRaiseNoFalseAlarm loses 5 % of all datagrams and lets machines
// stall, the leader too: no Pod is moved or started again.
func TestWholeClustersRaiseNoFalseAlarm(t *testing.T) {
	const size = 5
	hours := *nodeHoursFlag
	if hours == 0 {
		hours = hoursByDefault
	}
	inCluster(t, size, func(c *Cluster) {
		c.user(func(ctx context.Context, p *person) error {
			return errOf(p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: deployment("web", 2*size, 1)}))
		})
		if !c.eventually(time.Minute, "all Pods run", c.settled) {
			return
		}
		before, began, count := c.placed(), time.Now(), 0
		c.net.SetLoss(0.05)
		random := rand.New(rand.NewPCG(1, 1))
		for time.Since(began) < time.Duration(hours*float64(time.Hour)/size) {
			m := c.machines[random.IntN(size)]
			c.Pause(m)
			time.Sleep(stalls[random.IntN(len(stalls))])
			c.Resume(m)
			count++
			c.pass(time.Duration(random.Int64N(int64(time.Minute / size))))
			if now := c.placed(); !maps.Equal(before, now) {
				c.fail("after %v and %d stalls Pods were moved: %v before, %v now", time.Since(began), count, before, now)
				return
			}
		}
		c.net.SetLoss(0)
		c.eventually(time.Minute, "all is well", c.settled)
		for _, p := range decoded[corev1.Pod](c.stores.best(), object.KindPod) {
			for _, s := range p.Status.ContainerStatuses {
				if s.RestartCount != 0 {
					c.fail("a container of %s was started again", p.Name)
				}
			}
		}
		t.Logf("%.1f node-hours, %d stalls", size*time.Since(began).Hours(), count)
	})
}
