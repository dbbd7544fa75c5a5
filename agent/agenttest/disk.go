package agenttest

import (
	"fmt"
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
	return &consensus.Stores{
		Log: s.Log, Stable: stable{StableStore: s.Stable, life: l}, Snapshots: s.Snapshots,
		Closer: closer(s.Close),
	}, nil
}

type closer func() error

// Close closes the stores. Those of a dead agent are closed already.
func (c closer) Close() error {
	_ = c()
	return nil
}

// stable ends its agent where raft would end the whole process: it panics when
// it cannot keep its term.
type stable struct {
	raft.StableStore
	life *life
}

func (s stable) SetUint64(key []byte, n uint64) error {
	if err := s.StableStore.SetUint64(key, n); err != nil {
		s.life.crash(err)
	}
	return nil
}

// crash ends an agent as a panic does. Fate starts it again, as a keeper would.
func (l *life) crash(err error) {
	l.mu.Lock()
	dead := l.dead
	l.crashed, l.endedAt = true, time.Now()
	l.mu.Unlock()
	if dead {
		return
	}
	m := l.machine
	m.cluster.trace.add(m.Name, "the agent panics: %v", err)
	l.bury()
	m.cluster.net.Crash(m.addr.Addr())
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
type medium struct{ disk *disk }

func (m medium) Space() (uint64, bool, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.disk.full {
		return 0, false, nil
	}
	return 1 << 40, false, nil
}

func (m medium) Probe() error            { return m.disk.StoreLogs(nil) }
func (medium) Reserve() (uint64, uint64) { return 0, 0 }
func (medium) MakeReserve() error        { return nil }
func (medium) FreeReserve() error        { return nil }
