package agenttest

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestThreeMachinesFormACluster(t *testing.T) {
	begin := time.Now()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 3)
		if f := c.failed(); len(f) > 0 {
			t.Error(f)
		}
		time.Sleep(time.Minute)
		c.Stop()
	})
	t.Logf("a virtual minute of three machines took %s", time.Since(begin))
}
