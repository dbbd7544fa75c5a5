package consensus

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/consensustest"
	"github.com/skein-dev/skein/consensus/state"
)

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

func (s *simulation) pick() *simMachine { return s.nodes[s.random.IntN(len(s.nodes))] }

func (m *simMachine) path(what string) string { return filepath.Join(m.sim.dir, what) }

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
		defer func() { // raft panics at what it cannot read
			if p := recover(); p != nil {
				if !life.dead.Load() {
					m.sim.fail("%s panics: %v", m.name, p)
				}
				_ = life.gate.Close()
			}
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
