package agenttest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-dev/skein/agent/gossip/gossiptest"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/traffic/traffictest"
	"github.com/skein-dev/skein/consensus/consensustest"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
	"github.com/skein-dev/skein/runtime/volume/volumetest"
)

// A Cluster is machines and the network between them. Its methods are for the
// one goroutine that plays fate; what users do runs beside it.
type Cluster struct {
	t        testing.TB
	net      *gossiptest.Network
	random   *rand.Rand
	machines []*Machine
	trace    *trace
	stores   *witness

	// The members as quorumOfTheLiving saw them last.
	membersAt  uint64
	hadQuorum  bool
	wellBefore string

	mu       sync.Mutex
	token    string // to join with
	told     chan struct{}
	admin    string // a person's token
	problems []string
}

// newCluster makes a cluster of so many machines and returns when all of them
// have joined. Call it in a bubble.
func newCluster(t testing.TB, seed uint64, size int) *Cluster {
	t.Helper()
	return formCluster(t, seed, size, size)
}

// formCluster makes one that only the first so many machines have joined. The
// others do when they are started.
func formCluster(t testing.TB, seed uint64, size, first int) *Cluster {
	t.Helper()
	c := &Cluster{
		t: t, net: gossiptest.New(seed), random: rand.New(rand.NewPCG(seed, 1)), trace: newTrace(), told: make(chan struct{}),
	}
	c.stores = &witness{cluster: c}
	root := t.TempDir()
	for i := range size {
		c.add(seed+uint64(i), root)
	}
	c.machines[0].start(true, nil, "")
	<-c.told
	c.admin = c.personToken(c.machines[0])
	for _, m := range c.machines[1:first] {
		c.join(m)
	}
	c.eventually(time.Minute, "all machines are ready", func() string {
		if n := len(c.readyNodes()); n != first {
			return fmt.Sprintf("%d of %d are", n, first)
		}
		return ""
	})
	return c
}

// add makes one more machine, on which no agent runs yet.
func (c *Cluster) add(seed uint64, root string) *Machine {
	number := len(c.machines) + 1
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(number)}), port)
	name := fmt.Sprintf("n%d", number)
	m := &Machine{
		table: new(traffictest.Table),
		Name:  name, cluster: c, addr: addr, host: c.net.Host(addr.Addr()), power: true,
		driver: containertest.New(program), volumes: &volumetest.Volumes{}, disk: consensustest.NewDisk(seed), dir: filepath.Join(root, name),
	}
	m.driver.SetClock(m.now)
	c.machines = append(c.machines, m)
	return m
}

// program runs until it is stopped, which takes it a moment, save what prepares.
func program(spec container.Spec) containertest.Process {
	if spec.ID.Name == "prepare" {
		return containertest.Process{Runs: 300 * time.Millisecond}
	}
	return containertest.Process{Runs: containertest.Forever, TermTime: 50 * time.Millisecond}
}

// announced hears how to join.
func (c *Cluster) announced(text string) {
	_, rest, _ := strings.Cut(text, "--token ")
	token, _, _ := strings.Cut(rest, "\n")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == "" {
		c.token = strings.TrimSpace(token)
		close(c.told)
	}
}

// join starts an agent that has to join, or goes on where it has joined. It is
// told the same machine each time, unless that one has not let it in.
func (c *Cluster) join(m *Machine) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if !m.joined() {
		m.seed = c.seed()
	}
	if m == c.machines[0] {
		m.start(true, nil, "")
		return
	}
	m.start(false, []string{m.seed}, token)
}

// seed picks a machine to join by: one that runs and has joined, if any does.
func (c *Cluster) seed() string {
	others := slices.DeleteFunc(c.present(), func(m *Machine) bool { return !m.joined() })
	if len(others) == 0 {
		others = c.machines[:1]
	}
	return others[c.random.IntN(len(others))].addr.String()
}

func (m *Machine) joined() bool {
	_, err := identity.Load(filepath.Join(m.dir, "identity"))
	return err == nil
}

// fail notes a broken promise.
func (c *Cluster) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.trace.add("CHECK", "%s", text)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, text)
}

func (c *Cluster) failed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problems
}

// eventually waits until a condition says "", which has to be within patience.
func (c *Cluster) eventually(patience time.Duration, what string, why func() string) bool {
	reason := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c.revive()
		if reason = why(); reason == "" {
			return true
		}
	}
	c.fail("not after %s: %s: %s", patience, what, reason)
	return false
}

// Kill ends an agent as SIGKILL does. The machine goes on, and its containers.
func (c *Cluster) Kill(m *Machine) {
	c.trace.add("FATE", "kill the agent of %s", m.Name)
	c.end(m, false)
}

// PowerOff takes a machine's power: its containers end, and what its disk had
// not synced is torn.
func (c *Cluster) PowerOff(m *Machine) {
	c.trace.add("FATE", "power off %s", m.Name)
	c.net.PowerOff(m.addr.Addr())
	c.end(m, true)
	m.driver.Reboot()
	m.power = false
}

func (c *Cluster) end(m *Machine, powerLost bool) {
	if m.run == nil {
		return
	}
	l := m.run
	m.run, m.paused = nil, false
	c.net.Crash(m.addr.Addr())
	c.net.Thaw(m.addr.Addr())
	if powerLost {
		m.disk.PowerLoss()
	} else {
		m.disk.Kill()
	}
	if err := m.moveDir(); err != nil {
		c.fail("%v", err)
	}
	l.bury()
	l.cancel()
}

// Start brings a machine's power and agent back, with the disk that it had.
func (c *Cluster) Start(m *Machine) {
	if m.run != nil {
		return
	}
	c.trace.add("FATE", "start %s", m.Name)
	if !m.power {
		c.net.PowerOn(m.addr.Addr())
		m.power = true
	}
	c.join(m)
}

// Pause stops an agent as SIGSTOP does: it hears, says and does nothing. What of
// its timers comes due meanwhile finds nothing to act on.
func (c *Cluster) Pause(m *Machine) {
	if m.run == nil || m.paused {
		return
	}
	c.trace.add("FATE", "pause %s", m.Name)
	m.paused = true
	m.run.mu.Lock()
	m.run.still = make(chan struct{})
	m.run.mu.Unlock()
	c.net.Freeze(m.addr.Addr())
	m.disk.Hang()
}

// Resume ends a Pause.
func (c *Cluster) Resume(m *Machine) {
	if !m.paused {
		return
	}
	c.trace.add("FATE", "resume %s", m.Name)
	m.paused = false
	m.disk.Heal()
	c.net.Thaw(m.addr.Addr())
	m.run.mu.Lock()
	close(m.run.still)
	m.run.still = nil
	m.run.mu.Unlock()
}

// SetClock sets a machine's wall clock, which jumps.
func (c *Cluster) SetClock(m *Machine, ahead time.Duration) {
	c.trace.add("FATE", "the clock of %s is ahead by %s", m.Name, ahead)
	m.clock.Store(int64(ahead))
}

// Stop ends all agents in order and waits until nothing of any of them is left.
func (c *Cluster) Stop() {
	c.heal()
	for _, m := range c.machines {
		c.net.PowerOn(m.addr.Addr())
		if m.run != nil {
			m.run.cancel()
		}
	}
	for _, m := range c.machines {
		for _, l := range m.past {
			c.awaitEnd(m, l)
		}
		c.net.Crash(m.addr.Addr())
	}
	time.Sleep(5 * time.Minute) // whatever idles times out
}

// awaitEnd waits for an agent to end, which has to be within a minute: raft and
// all calls in flight have their own patience. One that does not end would keep
// the bubble for ever.
func (c *Cluster) awaitEnd(m *Machine, l *life) {
	patience := time.NewTimer(time.Minute)
	defer patience.Stop()
	select {
	case <-l.ended:
	case <-patience.C:
		c.trace.goroutines()
		c.fail("an agent of %s does not end", m.Name)
		panic("an agent does not end; its events:\n" + c.trace.String())
	}
}

// heal mends network and disks, and ends every pause.
func (c *Cluster) heal() {
	c.net.Heal()
	c.net.SetLoss(0)
	c.net.SetDelay(0)
	for _, m := range c.machines {
		c.Resume(m)
		m.disk.Heal()
	}
}

// A witness sees every copy of the agreed objects that there is or was.
type witness struct{ cluster *Cluster }

// best is the copy that has come furthest, nil before the first.
func (w *witness) best() *state.Store {
	var best *state.Store
	for _, m := range w.cluster.machines {
		w.cluster.mu.Lock()
		past := m.past // it only grows
		w.cluster.mu.Unlock()
		for _, l := range past {
			if a := l.current(); a != nil {
				if s := a.Consensus().Store(); best == nil || s.Index() > best.Index() {
					best = s
				}
			}
		}
	}
	return best
}
