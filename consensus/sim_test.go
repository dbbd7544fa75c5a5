package consensus

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/consensustest"
	"github.com/skein-dev/skein/consensus/consensustest/history"
	"github.com/skein-dev/skein/consensus/state"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 60, "how many seeds the simulation of agreement runs")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed of the simulation alone, and tell what happens; 0: many")
)

// A simulation is nodes on modelled disks and a modelled network in one bubble,
// with users, followers, and a person who changes voters, while faults strike by
// seed. The nodes, their transport and raft are the real ones.
type simulation struct {
	t       *testing.T
	seed    uint64
	random  *rand.Rand
	net     *consensustest.Network
	nodes   []*simMachine
	dir     string
	agreed  *history.Agreement
	history history.Registers
	lazy    bool // a bug on purpose: one disk does not sync

	began  time.Time
	parts  sync.WaitGroup
	counts simCounts

	mu     sync.Mutex
	trace  []string
	broken []string
}

// simCounts is what happened, so that a test that shows nothing is found out.
type simCounts struct {
	done, refused, unknown, reads, changes, restarts, powerLosses, installs, resets atomic.Int64
}

// A simMachine outlives its processes.
type simMachine struct {
	sim  *simulation
	name string
	disk *consensustest.Disk

	mu   sync.Mutex
	life *simLife // nil: none runs
	past []*simLife
}

// A simLife is one process.
type simLife struct {
	*Node
	machine *simMachine
	host    *consensustest.Host
	stop    context.CancelFunc
	ended   chan struct{}
	dead    atomic.Bool
}

func (s *simulation) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf("%9.3fs ", time.Since(s.began).Seconds())+fmt.Sprintf(format, args...))
}

func (s *simulation) fail(format string, args ...any) {
	s.mu.Lock()
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
	s.mu.Unlock()
	s.say("BROKEN "+format, args...)
}

// start starts a process on a machine, which reads what its disk holds.
func (m *simMachine) start(first bool) {
	if m.alive() != nil {
		return
	}
	stores, err := m.disk.Open() // takes its time: nothing may be locked
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS) {
		m.disk.Kill()
		m.sim.say("%s cannot start: %v", m.name, err)
		return
	}
	if err != nil {
		m.sim.fail("%s does not open its stores: %v", m.name, err)
		return
	}
	life := &simLife{machine: m, host: m.sim.net.Boot(m.name), ended: make(chan struct{})}
	cfg := Config{
		Name: m.name, Log: stores.Log, Stable: &crashing{stores.Stable, life}, Snapshots: counted{stores.Snapshots, stores.Log, m.sim},
		Transport:        NewTransport(TransportConfig{Name: m.name, Listener: life.host, Dial: life.host.Dial}),
		Store:            state.New(state.Checked(func(problem string) { m.sim.fail("%s: %s", m.name, problem) })),
		Bootstrap:        first,
		SnapshotInterval: 700 * time.Millisecond, SnapshotThreshold: 40, TrailingLogs: 10,
	}
	if life.Node, err = Open(cfg); err != nil {
		m.sim.fail("%s does not start: %v", m.name, err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	life.stop = stop
	m.mu.Lock()
	m.life = life
	m.past = append(m.past, life)
	m.mu.Unlock()
	go func() {
		defer close(life.ended)
		defer func() { // raft panics at a log it cannot read; a process that has died says nothing more
			p := recover()
			if p != nil && !life.dead.Load() {
				m.sim.fail("%s panics: %v", m.name, p)
			}
			_ = life.gate.Close()
		}()
		if err := life.Run(ctx); err != nil && !life.dead.Load() {
			m.sim.fail("%s ended: %v", m.name, err)
		}
	}()
	if !first {
		m.sim.counts.restarts.Add(1)
	}
}

// kill ends the process as SIGKILL does, or as the loss of power does.
func (m *simMachine) kill(power bool) {
	m.mu.Lock()
	life := m.life
	m.life = nil
	m.mu.Unlock()
	if life == nil {
		return
	}
	life.dead.Store(true)
	if power {
		m.sim.counts.powerLosses.Add(1)
		life.host.PowerOff()
		m.disk.PowerLoss()
	} else {
		m.disk.Kill()
		life.host.Kill()
	}
	m.disk.Heal()
	life.stop()
}

func (m *simMachine) alive() *simLife {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

// crashing is a stable store that ends its process where raft would panic: when
// it cannot keep a term or a vote.
type crashing struct {
	raft.StableStore
	life *simLife
}

func (c *crashing) Set(key, value []byte) error { return c.check(c.StableStore.Set(key, value)) }
func (c *crashing) SetUint64(key []byte, n uint64) error {
	return c.check(c.StableStore.SetUint64(key, n))
}

func (c *crashing) check(err error) error {
	if err != nil && c.life.dead.CompareAndSwap(false, true) {
		m := c.life.machine
		m.sim.say("%s crashes: %v", m.name, err)
		m.mu.Lock()
		if m.life == c.life {
			m.life = nil
		}
		m.mu.Unlock()
		m.disk.Kill()
		c.life.host.Kill()
		c.life.stop()
	}
	return nil
}

// counted notes snapshots that came from a leader: their indexes are beyond this
// node's own log.
type counted struct {
	raft.SnapshotStore
	log raft.LogStore
	sim *simulation
}

func (c counted) Create(version raft.SnapshotVersion, index, term uint64, config raft.Configuration, configIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if last, err := c.log.LastIndex(); err == nil && last < index {
		c.sim.counts.installs.Add(1)
	}
	return c.SnapshotStore.Create(version, index, term, config, configIndex, trans)
}

// simulate runs a seed and returns what was broken.
func simulate(t *testing.T, seed uint64, prepare ...func(*simulation)) *simulation {
	t.Helper()
	s := &simulation{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(),
		agreed: history.NewAgreement(),
	}
	for _, p := range prepare {
		p(s)
	}
	synctest.Test(t, func(t *testing.T) {
		s.t, s.began, s.net = t, time.Now(), consensustest.NewNetwork(seed)
		s.form(3 + s.random.IntN(3))
		users := s.begin()
		s.suffer(30)
		s.recover(users)
		for _, m := range s.nodes {
			m.disk.Heal()
			if l := m.alive(); l != nil {
				l.stop()
			}
			for _, l := range m.past {
				<-l.ended
				l.host.Kill()
				l.Store().Verify()
			}
		}
		time.Sleep(time.Minute) // what waits for nobody gives up
	})
	if err := s.history.Check(20 * time.Second); err != nil && !errors.Is(err, history.ErrTooLong) {
		s.fail("%v", err)
	}
	return s
}

// form makes a cluster of three voters and some that have no vote.
func (s *simulation) form(size int) {
	for i := range size {
		name := fmt.Sprint("n", i+1)
		m := &simMachine{sim: s, name: name, disk: consensustest.NewDisk(s.seed*100 + uint64(i))}
		m.disk.Pace(3 * time.Millisecond)
		if s.lazy && i == 1 {
			m.disk.Lazy()
		}
		s.nodes = append(s.nodes, m)
		m.start(i == 0)
	}
	for i, m := range s.nodes[1:] {
		s.within(20*time.Second, "member "+m.name, func() bool {
			l := s.leader()
			if l == nil {
				return false
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if i < 2 {
				return l.AddVoter(ctx, m.name, 0) == nil
			}
			return l.AddNonvoter(ctx, m.name, 0) == nil
		})
	}
}

// leader is who believes that it leads, of the newest term.
func (s *simulation) leader() (found *simLife) {
	term := uint64(0)
	for _, m := range s.nodes {
		if l := m.alive(); l != nil && l.IsLeader() && l.Term() >= term {
			found, term = l, l.Term()
		}
	}
	return found
}

func (s *simulation) within(d time.Duration, what string, so func() bool) bool {
	for end := time.Now().Add(d); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.fail("not within %v: %s", d, what)
			return false
		}
	}
	return true
}

// recover ends all faults and checks that all is well, and that nothing that was
// acknowledged is gone.
func (s *simulation) recover(users *simUsers) {
	s.heal()
	for _, m := range s.nodes {
		m.start(false)
	}
	time.Sleep(3 * time.Second)
	users.stop()
	s.parts.Wait()
	var index uint64
	ok := s.within(60*time.Second, "a leader that confirms", func() bool {
		l := s.leader()
		if l == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var err error
		index, err = l.ReadIndex(ctx)
		return err == nil
	})
	if !ok {
		return
	}
	for key := range simKeys {
		users.read(0, s.leader(), fmt.Sprint("k", key))
	}
	leader := s.leader()
	want := leader.Store().List(state.AllKinds, "", "")
	for _, m := range s.nodes {
		s.within(60*time.Second, m.name+" knows all", func() bool { return m.alive() != nil && m.alive().Store().Index() >= index })
		copied := history.NewStream(m.name, nil)
		err := errors.Join(
			copied.Told(state.Batch{Reset: true, Index: index + 1<<20, Puts: m.alive().Store().List(state.AllKinds, "", "")}),
			copied.Equal(want))
		if err != nil {
			s.fail("stores differ: %v", err)
		}
	}
	users.settle(leader, want)
}

func (s *simulation) heal() {
	s.net.Heal()
	for _, m := range s.nodes {
		m.disk.Heal()
	}
}

// problems tells what was broken, with the trace.
func (s *simulation) problems() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.broken) == 0 {
		return ""
	}
	trace := s.trace
	if len(trace) > 200 {
		trace = trace[len(trace)-200:]
	}
	return strings.Join(s.broken, "\n") + "\n" + strings.Join(trace, "\n")
}

// TestAgreementUnderFaults runs seeds of kills, losses of power with torn writes,
// slow, hanging, full and read-only disks, cut, slow and one-way links, and
// changes of voters under load; -sim.seed repeats one.
func TestAgreementUnderFaults(t *testing.T) {
	first, last := uint64(1), *simSeeds
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	var total simCounts
	var next atomic.Uint64
	next.Store(first - 1)
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= last; seed = next.Add(1) {
					t.Run(fmt.Sprint(seed), func(t *testing.T) {
						s := simulate(t, seed)
						if p := s.problems(); p != "" {
							t.Errorf("seed %d (-sim.seed=%d repeats its faults):\n%s", seed, seed, p)
						} else if *simSeed != 0 {
							t.Log(strings.Join(s.trace, "\n"))
						}
						total.add(&s.counts)
					})
				}
			})
		}
	})
	t.Logf("%d to %d: %s", first, last, total.String())
	if last > first+20 {
		for _, n := range total.all() {
			if n.n.Load() == 0 {
				t.Errorf("no %s in all of it: that shows less than it should", n.name)
			}
		}
	}
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

// A disk that acknowledges what it has not written loses acknowledged writes, and
// the simulation finds that.
func TestTheSimulationFindsADiskThatDoesNotSync(t *testing.T) {
	found := 0
	for seed := uint64(1); seed <= 12 && found == 0; seed++ {
		s := simulate(t, seed, func(s *simulation) { s.lazy = true })
		if s.problems() != "" {
			found++
		}
	}
	if found == 0 {
		t.Error("nothing was broken by it")
	}
}

func (s *simulation) pick() *simMachine { return s.nodes[s.random.IntN(len(s.nodes))] }

func (m *simMachine) path(what string) string { return filepath.Join(m.sim.dir, what) }
