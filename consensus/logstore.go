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
	covered  entry           // the last that a snapshot holds which was finished since the start
	asked    uint64          // what LastIndex has answered since something was removed or added
}

// An entry is named by its index and its term: no two are both equal and differ.
type entry struct{ index, term uint64 }

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
	l.configMu.Lock()
	l.asked = 0
	l.configMu.Unlock()
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

// LastIndex is what the library asks for when it starts, and before it removes the
// whole log for a snapshot that it has installed: DeleteRange is told apart by it.
// It also asks before it takes a snapshot, so a conflict right after a snapshot may
// be left standing once; the append fails then, and the next attempt removes it.
func (l *logStore) LastIndex() (uint64, error) {
	last, err := l.LogStore.LastIndex()
	l.configMu.Lock()
	defer l.configMu.Unlock()
	l.asked = last
	return last, err //nolint:wrapcheck // a store of the library
}

// DeleteRange removes the beginning or the end of the log. To install a snapshot
// in a log that takes no gaps, the library removes all of it, and so entries that
// this node has acknowledged and that the snapshot does not hold: they would be
// lost to a quorum, and the library, which goes on to count on them, would panic
// when it is to apply them, and again at each start. A log that has the
// snapshot's last entry, or begins after it, agrees with it, and what follows
// there is kept (Ongaro, "Consensus: Bridging Theory and Practice", section 5.3).
func (l *logStore) DeleteRange(from, to uint64) error {
	end, all := l.snapshotEnd(to)
	switch {
	case all && from == end.index+1:
		return nil
	case all && from <= end.index && end.index < to && l.has(end):
		to = end.index
	}
	if err := l.writes.do(func() error { return l.LogStore.DeleteRange(from, to) }); err != nil {
		return err
	}
	l.configMu.Lock()
	defer l.configMu.Unlock()
	l.tail = slices.DeleteFunc(l.tail, func(c configuration) bool { return from <= c.index && c.index <= to })
	return nil
}

// snapshotEnd returns where the newest snapshot ends, and whether all up to the
// last entry is about to be removed for it.
func (l *logStore) snapshotEnd(to uint64) (end entry, all bool) {
	l.configMu.Lock()
	defer l.configMu.Unlock()
	all = l.asked == to && to > 0
	l.asked = 0
	return l.covered, all
}

func (l *logStore) has(e entry) bool {
	var log raft.Log
	return l.LogStore.GetLog(e.index, &log) == nil && log.Term == e.term
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

// noteEnd notes where a snapshot ends, once it is safe: entries are removed for its
// sake. One that is taken here may overtake one that is being installed.
func (l *logStore) noteEnd(end entry) {
	l.configMu.Lock()
	defer l.configMu.Unlock()
	if end.index > l.covered.index {
		l.covered = end
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

// snapshots lets the logStore know of the configuration in each snapshot, and
// where it ends.
type snapshots struct {
	raft.SnapshotStore
	logs *logStore
}

func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, c, configIndex, t)
	if err != nil {
		return nil, err //nolint:wrapcheck // raft says what it was doing
	}
	s.logs.noteSnapshot(configuration{configIndex, c.Servers})
	return notedSink{sink, s.logs, entry{index, term}}, nil
}

// A notedSink tells the logStore when its snapshot is safe.
type notedSink struct {
	raft.SnapshotSink
	logs *logStore
	end  entry
}

func (s notedSink) Close() error {
	err := s.SnapshotSink.Close()
	if err == nil {
		s.logs.noteEnd(s.end)
	}
	return err //nolint:wrapcheck // raft says what it was doing
}
