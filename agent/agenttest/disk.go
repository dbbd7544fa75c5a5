package agenttest

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/consensustest"
)

// openStores opens a machine's disk for one agent.
func openStores(disk *consensustest.Disk, l *life) (*consensus.Stores, error) {
	s, err := disk.Open()
	if err != nil {
		return nil, fmt.Errorf("open the disk: %w", err)
	}
	l.mu.Lock()
	l.stores = s
	l.mu.Unlock()
	return &consensus.Stores{
		Log: s.Log, Stable: stable{s.Stable}, Snapshots: s.Snapshots,
		Closer: closer(s.Close),
	}, nil
}

type closer func() error

// Close closes the stores. Those of a dead agent are closed already.
func (c closer) Close() error {
	_ = c()
	return nil
}

// stable spares the process the panic of raft's where its term cannot be kept
// because the agent is dead already.
type stable struct{ raft.StableStore }

func (s stable) SetUint64(key []byte, n uint64) error {
	err := s.StableStore.SetUint64(key, n)
	if errors.Is(err, consensustest.ErrDead) || errors.Is(err, consensustest.ErrClosed) {
		return nil
	}
	return err
}

// keeperPause is how long a keeper lets an agent rest that has ended by itself.
const keeperPause = time.Second

// revive starts the agents again that have ended by themselves.
func (c *Cluster) revive() {
	for _, m := range c.machines {
		if m.run == nil {
			continue
		}
		m.run.mu.Lock()
		crashed := m.run.crashed && time.Since(m.run.endedAt) > keeperPause
		m.run.mu.Unlock()
		if crashed {
			c.end(m, false)
			c.Start(m)
		}
	}
}

// medium is a disk as the agent watches it. There is room without end until it
// is full, and then none, so it keeps no reserve.
type medium struct {
	disk *consensustest.Disk
	life *life
}

func (m medium) Space() (uint64, bool, error) {
	refused := m.disk.Refuses()
	if errors.Is(refused, syscall.ENOSPC) {
		return 0, false, nil
	}
	return 1 << 40, errors.Is(refused, syscall.EROFS), nil
}

func (m medium) Probe() error {
	m.life.mu.Lock()
	stores := m.life.stores
	m.life.mu.Unlock()
	if stores == nil {
		return nil // the agent is still starting
	}
	return stores.Probe()
}

func (medium) Reserve() (uint64, uint64) { return 0, 0 }
func (medium) MakeReserve() error        { return nil }
func (medium) FreeReserve() error        { return nil }
