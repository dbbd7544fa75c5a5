package agenttest

import (
	"flag"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag = flag.Uint64("seed", 0, "run this seed alone")
	runsFlag = flag.Int("runs", 0, "how many seeds to run, or how often the one")
	fromFlag = flag.Uint64("from", 1, "the first of many seeds")
	oneFlag  = flag.Bool("one", false, "stop at the first failure")
	keepFlag = flag.String("keep", "", "folder for the event traces of failures; empty: that of the test")
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

// TestSimulation runs a few dozen seeds; "make sim" runs hundreds.
func TestSimulation(t *testing.T) {
	runs := *runsFlag
	switch {
	case runs == 0 && *seedFlag == 0:
		runs = seedsByDefault
	case runs == 0:
		runs = 1
	}
	var hits, ran atomic.Int64
	t.Cleanup(func() { t.Logf("%d of %d runs failed", hits.Load(), ran.Load()) })
	for i := range runs {
		seed := *fromFlag + uint64(i) //nolint:gosec // small
		if *seedFlag != 0 {
			seed = *seedFlag
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			if t.Parallel(); *oneFlag && hits.Load() > 0 {
				return
			}
			problems, events := simulate(t, seed)
			ran.Add(1)
			if len(problems) == 0 {
				return
			}
			hits.Add(1)
			for _, p := range problems {
				t.Errorf("broken: %s", p)
			}
			keep(t, seed, i, events)
		})
	}
}

// keep writes the events of a failure to a file, and tells which.
func keep(t *testing.T, seed uint64, run int, events *trace) {
	t.Helper()
	dir := *keepFlag
	if dir == "" {
		dir = t.ArtifactDir()
	}
	path := filepath.Join(dir, fmt.Sprintf("seed-%d-run-%d.trace", seed, run+1))
	if err := events.save(path); err != nil {
		t.Error(err)
	}
	t.Errorf("its events are in %s; \"make sim SEED=%d\" runs it again", path, seed)
}
