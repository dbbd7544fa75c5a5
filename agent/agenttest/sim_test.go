package agenttest

import (
	"flag"
	"fmt"
	"path/filepath"
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
	runs := max(*runsFlag, 1)
	if *runsFlag == 0 && *seedFlag == 0 {
		runs = 12
	}
	hits := 0
	defer func() { t.Logf("%d of %d runs failed", hits, runs) }()
	for i := range runs {
		seed := *fromFlag + uint64(i) //nolint:gosec // small
		if *seedFlag != 0 {
			seed = *seedFlag
		}
		begin := time.Now()
		problems, events := simulate(t, seed)
		t.Logf("seed %d took %s", seed, time.Since(begin))
		if len(problems) == 0 {
			continue
		}
		hits++
		dir := *keepFlag
		if dir == "" {
			dir = t.ArtifactDir()
		}
		path := filepath.Join(dir, fmt.Sprintf("seed-%d-run-%d.trace", seed, i+1))
		if err := events.save(path); err != nil {
			t.Error(err)
		}
		for _, p := range problems {
			t.Errorf("seed %d: %s", seed, p)
		}
		if *oneFlag {
			t.Fatalf("found by run %d", i+1)
		}
		t.Errorf("events of seed %d are in %s; %s runs it again", seed, path, replayLine(seed))
	}
}
