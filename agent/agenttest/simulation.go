package agenttest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/consensus"
)

const (
	// steps is how many faults strike in one simulation.
	steps = 20
	// lookEvery is how often the invariants are checked meanwhile.
	lookEvery = 200 * time.Millisecond
	// healPatience is how long all may take to be well once all faults are over.
	healPatience = 3 * time.Minute
	// stuckAfter is when a simulation is given up that keeps its clock standing,
	// in real time.
	stuckAfter = 5 * time.Minute
)

// simulate runs a cluster through the faults and the work of a seed. It returns
// what was broken, and the trace.
func simulate(t *testing.T, seed uint64) (problems []string, events *trace) {
	t.Helper()
	var work *users
	var c *Cluster
	var running atomic.Pointer[trace]
	watch := time.AfterFunc(stuckAfter, func() {
		if events := running.Load(); events != nil {
			path := filepath.Join(t.ArtifactDir(), "stuck.trace")
			panic(fmt.Sprintf("seed %d does not end; its events are in %s (%v)", seed, path, events.save(path)))
		}
	})
	defer watch.Stop()
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		size := []int{3, 3, 3, 3, 3, 4, 5, 5, 5, 7}[random.IntN(10)]
		c = formCluster(t, seed, size, max(3, size-random.IntN(size/2)))
		running.Store(c.trace)
		if len(c.failed()) == 0 {
			work = c.begin(seed)
			c.suffer(random, work)
			c.recover(work)
		}
		c.Stop()
	})
	if work != nil {
		if err := work.history.check(20 * time.Second); err != nil {
			c.fail("%v", err)
		}
	}
	return c.failed(), c.trace
}

// suffer lets faults strike.
func (c *Cluster) suffer(random *rand.Rand, work *users) {
	c.pass(5*time.Second, nobodyLost, c.nobodySuspect())
	c.annoy(random)
	c.blink(random)
	c.replaceOne(random) // before others lead: who asks for another hears of all voters
	c.handOver(work)
	for range steps {
		c.strike(random)
		c.pass(time.Duration(100+random.IntN(5000)) * time.Millisecond)
		if len(c.failed()) > 0 {
			return
		}
	}
}

// annoy cuts the link between two machines of which neither leads: all others
// reach both, so nobody may be lost, and where there are enough observers nobody
// even suspect.
func (c *Cluster) annoy(random *rand.Rand) {
	lead := c.leader()
	if lead == nil {
		return
	}
	others := slices.DeleteFunc(c.present(), func(m *Machine) bool { return m == lead })
	random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	c.trace.add("FATE", "cut %s from %s alone", others[0].Name, others[1].Name)
	c.net.Cut(others[0].addr.Addr(), others[1].addr.Addr())
	looks := []check{nobodyLost}
	if len(c.present()) >= 4 {
		looks = append(looks, c.nobodySuspect())
	}
	c.pass(6*time.Second, looks...)
	c.heal()
	c.pass(2 * time.Second)
	c.restartOne()
}

// restartOne lets a voter that does not lead be away for a moment: its agent, as
// long as an upgrade takes, which costs it neither its Pods nor its vote; then
// its machine, as long as a quick reboot takes, which costs it no vote.
func (c *Cluster) restartOne() {
	if m := c.follower(); m != nil {
		c.Kill(m)
		c.pass(2*time.Second, nobodyLost)
		c.Start(m)
		c.pass(3*time.Second, nobodyLost)
		c.mustVote(m)
	}
	if m := c.follower(); m != nil {
		c.PowerOff(m)
		c.pass(2 * time.Second)
		c.Start(m)
		c.pass(3 * time.Second)
		c.mustVote(m)
	}
}

// follower is a voter that does not lead; nil while nobody leads.
func (c *Cluster) follower() *Machine {
	for _, m := range c.machines {
		if m != c.leader() && c.votes(m) {
			return m
		}
	}
	return nil
}

func (c *Cluster) mustVote(m *Machine) {
	if c.leader() != nil && !c.votes(m) {
		c.fail("%s was away for two seconds, and has lost its vote", m.Name)
	}
}

// votes tells whether the leader counts a machine among the voters.
func (c *Cluster) votes(m *Machine) bool {
	lead := c.leader()
	if lead == nil {
		return false
	}
	members, _, err := lead.run.current().Consensus().Members()
	return err == nil && slices.Contains(members, consensus.Member{Name: m.Name, Voter: true})
}

// pass lets time go by, and looks.
func (c *Cluster) pass(d time.Duration, more ...check) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(lookEvery, time.Until(end)))
		c.revive()
		for _, look := range slices.Concat(checks, more) {
			look(c)
		}
		if len(c.failed()) > 0 {
			return
		}
	}
}

// recover ends all faults, and waits for all to be well.
func (c *Cluster) recover(work *users) {
	c.restore()
	c.pass(10 * time.Second)
	work.stopWork()
	for _, last := range []struct {
		what string
		why  func() string
	}{
		{"all is well", c.settled},
		{"who watches knows all", func() string { return c.watchSettled(work.watched) }},
		{"the copies agree", c.copiesAgree},
	} {
		if !c.eventually(healPatience, last.what, last.why) {
			c.trace.goroutines()
			break
		}
	}
	work.end()
}
