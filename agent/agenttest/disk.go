package agenttest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus"
)

// A disk is where one machine keeps its log. A write is in the page cache at
// once, and safe when its sync has ended; the loss of power tears what is not
// safe yet. It is a raft.LogStore and a raft.StableStore.
type disk struct {
	mu     sync.Mutex
	logs   map[uint64]*raft.Log
	stable map[string][]byte
	torn   []uint64 // written, but not synced
	snaps  *raft.InmemSnapshotStore
	delay  time.Duration // of a sync
	full   bool
	hold   chan struct{} // syncs wait until it is closed; nil: they do not
}

func newDisk() *disk {
	return &disk{logs: map[uint64]*raft.Log{}, stable: map[string][]byte{}, snaps: raft.NewInmemSnapshotStore()}
}

// after is the disk as the next process finds it. The last one may go on
// writing to its own, unheard. Without power, a random part of what was not
// synced is lost, from its end.
func (d *disk) after(powerLost bool, random *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newDisk()
	next.logs, next.stable, next.snaps = maps.Clone(d.logs), maps.Clone(d.stable), d.snaps
	if powerLost {
		kept := random.IntN(len(d.torn) + 1)
		for _, index := range d.torn[kept:] {
			delete(next.logs, index)
		}
	}
	if d.hold != nil {
		close(d.hold)
		d.hold = nil
	}
	return next
}

// slow makes each sync take this long; fill refuses writes; hang makes syncs
// wait. heal ends all of it.
func (d *disk) slow(delay time.Duration) { d.mu.Lock(); defer d.mu.Unlock(); d.delay = delay }
func (d *disk) fill()                    { d.mu.Lock(); defer d.mu.Unlock(); d.full = true }

func (d *disk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hold == nil {
		d.hold = make(chan struct{})
	}
}

func (d *disk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay, d.full = 0, false
	if d.hold != nil {
		close(d.hold)
		d.hold = nil
	}
}

func (d *disk) stores() *consensus.Stores {
	return &consensus.Stores{Log: d, Stable: d, Snapshots: d.snaps, Closer: d}
}

// Close leaves the disk as it is.
func (d *disk) Close() error { return nil }

// StoreLogs returns when the entries are safe.
func (d *disk) StoreLogs(logs []*raft.Log) error {
	d.mu.Lock()
	if d.full {
		d.mu.Unlock()
		return syscall.ENOSPC
	}
	for _, l := range logs {
		entry := *l
		d.logs[l.Index] = &entry
		d.torn = append(d.torn, l.Index)
	}
	delay, hold := d.delay, d.hold
	d.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	if hold != nil {
		<-hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range logs {
		if i := slices.Index(d.torn, l.Index); i >= 0 {
			d.torn = slices.Delete(d.torn, i, i+1)
		}
	}
	return nil
}

// StoreLog stores one entry.
func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// FirstIndex is 0 for an empty log.
func (d *disk) FirstIndex() (uint64, error) {
	return d.edge(func(a, b uint64) bool { return a < b }), nil
}

// LastIndex is 0 for an empty log.
func (d *disk) LastIndex() (uint64, error) {
	return d.edge(func(a, b uint64) bool { return a > b }), nil
}

func (d *disk) edge(better func(a, b uint64) bool) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	best := uint64(0)
	for i := range d.logs {
		if best == 0 || better(i, best) {
			best = i
		}
	}
	return best
}

// GetLog reads one entry.
func (d *disk) GetLog(index uint64, l *raft.Log) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	have, ok := d.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*l = *have
	return nil
}

// DeleteRange removes entries, both ends included.
func (d *disk) DeleteRange(from, to uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := from; i <= to; i++ {
		delete(d.logs, i)
	}
	d.torn = slices.DeleteFunc(d.torn, func(i uint64) bool { return from <= i && i <= to })
	return nil
}

// Set keeps a value, safe at once.
func (d *disk) Set(key, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stable[string(key)] = slices.Clone(value)
	return nil
}

// Get returns nothing for a key that was never set.
func (d *disk) Get(key []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stable[string(key)], nil
}

// SetUint64 keeps a number.
func (d *disk) SetUint64(key []byte, n uint64) error {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return d.Set(key, b)
}

// GetUint64 returns 0 for a key that was never set.
func (d *disk) GetUint64(key []byte) (uint64, error) {
	b, err := d.Get(key)
	n := uint64(0)
	for i := range b {
		n |= uint64(b[i]) << (8 * i)
	}
	return n, err
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
