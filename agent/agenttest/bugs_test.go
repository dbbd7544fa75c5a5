package agenttest

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A bug is planted by replacing a text that must be there exactly once.
type bug struct {
	name  string
	edits []edit
}

type edit struct{ file, old, planted string } // file from the root of the module

var bugs = []bug{
	{"the log is acknowledged before it is synced", []edit{{
		"agent/agenttest/cluster.go", "	c.machines[0].start(true, nil, \"\")\n",
		"	for _, m := range c.machines {\n		m.disk.Lazy()\n	}\n	c.machines[0].start(true, nil, \"\")\n",
	}}},
	{"every twentieth change is not told to those who watch", []edit{{
		"consensus/state/follow.go",
		"		b.Puts, b.Deletes = merge(s.ring.from(at), f.watch.selectors)\n",
		"		b.Puts, b.Deletes = merge(s.ring.from(at), f.watch.selectors)\n		if s.index%20 == 0 {\n			b.Puts = nil\n		}\n",
	}}},
	{"a suspicion is a verdict, without verification", []edit{{
		"agent/leader/verdict/decide.go",
		"	m.verify(now, n)\n	sooner(n.begun.Add(answerIn))\n",
		"	if n.state != Lost {\n		m.declare(now, n, \"suspect\", nil)\n	}\n	m.verify(now, n)\n	sooner(n.begun.Add(answerIn))\n",
	}}},
	{"a voter that is away for a moment loses its vote", []edit{{
		"agent/leader/motions.go",
		"	if left := deadVoter - v.since; !v.alive && dead == 1 && left > 0 {\n",
		"	if left := deadVoter - v.since; false {\n",
	}}},
	{"a lease is not waited out", []edit{{
		"agent/lease/lease.go", "	Wait   = 11 * time.Second", "	Wait   = 1 * time.Second",
	}}},
	{"a write based on an old version is applied", []edit{{
		"consensus/state/apply.go", "have != op.GetExpect() {", "have != op.GetExpect() && have == 0 {",
	}}},
	{"a write is acknowledged before it is committed", []edit{{
		"consensus/commit.go",
		"		deliver(batch, future)\n",
		"		for _, p := range batch {\n			p.answer <- answer{index: r.LastIndex()}\n		}\n		_ = future.Error()\n",
	}}},
	{"an agent that has just started takes what it does not know yet for deleted", []edit{{
		"agent/node/worker.go", "		if !w.node.cfg.Replica.Synced() {\n			return time.Now()", "		if false {\n			return time.Now()",
	}, {
		"agent/node/node.go", "	for uid := range here { // something is here that nobody assigned\n		if n.cfg.Replica.Synced() {", "	for uid := range here { // something is here that nobody assigned\n		if true {",
	}}},
	{"one reporter is enough for a suspicion", []edit{{
		"agent/leader/verdict/choose.go", "max(1, min(needReports, fit))", "min(1, max(needReports, fit))",
	}}},
	{"a leader answers reads without asking its quorum", []edit{{
		"agent/api/get.go", "s.cfg.Consensus.Confirm(confirm) == nil {", "confirm.Err() == nil {",
	}}},
	{"raft's pipeline may stand still for ever", []edit{{
		"consensus/gate.go", "const pipelinePatience = 3 * time.Second", "const pipelinePatience = 1000 * time.Hour",
	}}},
	{"a member that was away refuses a leader that it does not know", []edit{{
		"agent/ports.go", "a.raft.Leader() == \"\" && a.compass.votes(name)", "false",
	}}},
	{"a member that was put out of raft waits for its leader", []edit{{
		"agent/follow.go", "		c.outcast = !votes\n", "		c.outcast = false && !votes\n",
	}}},
	{"a lost node whose stream never closed stays lost", []edit{{
		"agent/leader/verdict/decide.go", "	if n.stream == streamOpen { // it may come back", "	if false { // it may come back",
	}}},
	{"a grace period ends by the clock of whoever asked the Pod to go", []edit{{
		"agent/node/stop.go", "w.leaveIn, w.leaveBy = grace, by\n", "w.leaveIn, w.leaveBy = grace, pod.DeletionTimestamp.Time\n",
	}}},
	{"the voters are heard of only when a node joins", []edit{{
		"agent/glue.go", "const votersEvery = 5 * time.Second", "const votersEvery = 1000 * time.Hour",
	}}},
}

// TestPlantedBugsStillApply keeps the list true to the code.
func TestPlantedBugsStillApply(t *testing.T) {
	for _, b := range bugs {
		if _, err := b.apply(t.TempDir()); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
	}
}

// apply writes the changed files to a folder and returns what replaces what.
func (b bug) apply(dir string) (map[string]string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for i, e := range b.edits {
		path := filepath.Join(root, e.file)
		from := path
		if earlier, ok := out[path]; ok {
			from = earlier
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			return nil, fmt.Errorf("%s has the text to replace %d times, want once: %q", e.file, n, e.old)
		}
		out[path] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(out[path], []byte(strings.Replace(string(text), e.old, e.planted, 1)), 0o600); err != nil {
			return nil, err
		}
	}
	return out, nil
}

var (
	plantFlag = flag.Bool("plant", false, "build the simulation with each planted bug, and see that it is found")
	bugFlag   = flag.String("bug", "", "plant only bugs whose name has this in it")
	mostFlag  = flag.Int("most", 100, "how many seeds a planted bug may survive")
)

// TestPlantedBugsAreFound does its work with -plant alone, as it takes many
// minutes: "make sim-bugs" runs it.
func TestPlantedBugsAreFound(t *testing.T) {
	if !*plantFlag {
		return
	}
	for _, b := range bugs {
		if !strings.Contains(b.name, *bugFlag) {
			continue
		}
		begun := time.Now()
		found, said := b.hunt(t)
		if found == 0 {
			t.Errorf("%s: not found by %d seeds", b.name, *mostFlag)
			continue
		}
		t.Logf("%s: found after %d seeds, in %s: %s", b.name, found, time.Since(begun).Round(time.Second), said)
	}
}

// hunt builds the simulation with the bug and runs it until it fails. It
// returns how many seeds that took, 0 for never, and what was broken.
func (b bug) hunt(t *testing.T) (after int, said string) {
	t.Helper()
	dir := t.TempDir()
	replace, err := b.apply(dir)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "simulation")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "test", "-c", "-overlay", file, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", b.name, err, out)
	}
	cmd := exec.Command(program, "-test.run", "^TestSimulation$", "-test.v", "-one", "-runs", fmt.Sprint(*mostFlag), "-keep", dir)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return 0, ""
	}
	for line := range strings.SplitSeq(string(out), "\n") {
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			var place, hits int
			_, _ = fmt.Sscanf(text, "%d: %d of %d runs failed", &place, &hits, &after)
		}
		if _, text, ok := strings.Cut(line, "broken: "); ok && said == "" {
			said = text
		}
	}
	if after == 0 { // a panic ends all
		return strings.Count(string(out), "--- PASS: TestSimulation/") + 1, "it panics"
	}
	return after, said
}
