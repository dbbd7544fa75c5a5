package consensus

import (
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// A logStore watches over the store of the log. It knows the latest
// configuration together with its index, which the library keeps to itself.
type logStore struct {
	raft.LogStore
	writes *writing

	configMu sync.Mutex
	base     configuration   // of the newest snapshot
	tail     []configuration // in the log, oldest first; the last may not be committed
}

// A configuration is who takes part, since the entry at index.
type configuration struct {
	index   uint64
	servers []raft.Server
}

func newLogStore(inner raft.LogStore, snaps raft.SnapshotStore, writes *writing) (*logStore, error) {
	l := &logStore{LogStore: inner, writes: writes}
	metas, err := snaps.List() // newest first
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	if len(metas) > 0 {
		l.base = configuration{metas[0].ConfigurationIndex, metas[0].Configuration.Servers}
	}
	return l, nil
}

// IsMonotonic tells raft whether the inner store takes gaps.
func (l *logStore) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (l *logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

func (l *logStore) StoreLogs(logs []*raft.Log) error {
	err := l.writes.do(func() error { return l.LogStore.StoreLogs(logs) })
	if err != nil {
		return err
	}
	for _, log := range logs {
		l.note(log)
	}
	return nil
}

// GetLog notes configurations too: raft reads the whole log when it starts.
func (l *logStore) GetLog(index uint64, log *raft.Log) error {
	if err := l.LogStore.GetLog(index, log); err != nil {
		return err //nolint:wrapcheck // raft compares it with ErrLogNotFound
	}
	l.note(log)
	return nil
}

func (l *logStore) DeleteRange(from, to uint64) error {
	if err := l.writes.do(func() error { return l.LogStore.DeleteRange(from, to) }); err != nil {
		return err
	}
	l.configMu.Lock()
	defer l.configMu.Unlock()
	l.tail = slices.DeleteFunc(l.tail, func(c configuration) bool { return from <= c.index && c.index <= to })
	return nil
}

func (l *logStore) note(log *raft.Log) {
	if log.Type != raft.LogConfiguration {
		return
	}
	l.configMu.Lock()
	defer l.configMu.Unlock()
	if n := len(l.tail); n == 0 || l.tail[n-1].index < log.Index {
		l.tail = append(l.tail, configuration{log.Index, raft.DecodeConfiguration(log.Data).Servers})
		if len(l.tail) > 8 { // at most one of them is not committed
			l.tail = slices.Delete(l.tail, 0, 1)
		}
	}
}

func (l *logStore) noteSnapshot(c configuration) {
	l.configMu.Lock()
	defer l.configMu.Unlock()
	if c.index > l.base.index {
		l.base = c
	}
}

// latest returns the latest configuration, committed or not.
func (l *logStore) latest() configuration {
	l.configMu.Lock()
	defer l.configMu.Unlock()
	if n := len(l.tail); n > 0 && l.tail[n-1].index > l.base.index {
		return l.tail[n-1]
	}
	return l.base
}

// snapshots lets the logStore know of the configuration in each snapshot.
type snapshots struct {
	raft.SnapshotStore
	logs *logStore
}

func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, c, configIndex, t)
	if err == nil {
		s.logs.noteSnapshot(configuration{configIndex, c.Servers})
	}
	return sink, err
}
