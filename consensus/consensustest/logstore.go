package consensustest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// Stores are a process's, as consensus.Stores are.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore

	process *process
	log     *logStore
}

// Open opens the stores as a process that starts: it reads what is there. It
// refuses while another has them open.
func (d *Disk) Open() (*Stores, error) {
	p, err := d.begin()
	if err != nil {
		return nil, err
	}
	l := &logStore{process: p, journal: journal{p, "log"}, keys: journal{p, "stable"}, values: map[string][]byte{}, writing: make(chan struct{}, 1)}
	if err := errors.Join(l.journal.open(l.replay), l.keys.open(l.replayKey)); err != nil {
		p.end()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &Stores{Log: l, Stable: l, Snapshots: &snapshots{p}, process: p, log: l}, nil
}

// Close ends this process's use of the disk. It may be called again.
func (s *Stores) Close() error {
	s.log.mu.Lock()
	s.log.closed = true
	s.log.mu.Unlock()
	s.process.end()
	return nil
}

// Probe writes a little beside the stores and syncs it.
func (s *Stores) Probe() error {
	before, err := s.process.add("probe", []byte{0})
	if err != nil {
		return err
	}
	defer s.process.drop("probe", before)
	return s.process.sync("probe")
}

// A logStore is a log and a stable store. It reads from memory, as the page
// cache answers, and answers writes once they are safe.
type logStore struct {
	process       *process
	journal, keys journal
	writing       chan struct{} // has room for one writer; a bubble's clock stands while a mutex is waited for

	mu     sync.Mutex
	closed bool
	first  uint64 // 0: empty
	logs   []*raft.Log
	values map[string][]byte
}

func (s *logStore) replay(record []byte) error {
	r := &reader{rest: record[1:]}
	switch record[0] {
	case recordEntries:
		for len(r.rest) > 0 {
			l := r.log()
			if r.bad || !s.fits(l.Index) {
				return errRecord
			}
			s.append(l)
		}
	case recordHeadCut:
		s.cutHead(r.uvarint())
	case recordTailCut:
		s.cutTail(r.uvarint())
	}
	if r.bad {
		return errRecord
	}
	return nil
}

func (s *logStore) replayKey(record []byte) error {
	r := &reader{rest: record}
	key, value := r.bytes(), r.bytes()
	if r.bad {
		return errRecord
	}
	s.values[string(key)] = value
	return nil
}

func (s *logStore) last() uint64 {
	if s.first == 0 {
		return 0
	}
	return s.first + uint64(len(s.logs)) - 1
}

// fits tells whether an entry may come next. An empty log takes any.
func (s *logStore) fits(index uint64) bool {
	return index > 0 && (s.first == 0 || index == s.last()+1)
}

func (s *logStore) append(l *raft.Log) {
	if s.first == 0 {
		s.first = l.Index
	}
	s.logs = append(s.logs, l)
}

func (s *logStore) cutHead(first uint64) {
	if first > s.last() {
		s.first, s.logs = 0, nil
		return
	}
	s.logs, s.first = slices.Clone(s.logs[first-s.first:]), first
}

func (s *logStore) cutTail(last uint64) {
	if s.logs = s.logs[:last+1-s.first]; len(s.logs) == 0 {
		s.first = 0
	}
}

// locked runs a call on stores that are open.
func (s *logStore) locked(do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return do()
}

// IsMonotonic tells raft that the log takes no gaps.
func (s *logStore) IsMonotonic() bool { return true }

// FirstIndex is 0 for an empty log.
func (s *logStore) FirstIndex() (index uint64, err error) {
	err = s.locked(func() error { index = s.first; return nil })
	return index, err
}

// LastIndex is 0 for an empty log.
func (s *logStore) LastIndex() (index uint64, err error) {
	err = s.locked(func() error { index = s.last(); return nil })
	return index, err
}

// GetLog reads an entry, or returns raft.ErrLogNotFound.
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	return s.locked(func() error {
		if s.first == 0 || index < s.first || index > s.last() {
			return raft.ErrLogNotFound
		}
		*l = *s.logs[index-s.first]
		l.Data, l.Extensions = slices.Clone(l.Data), slices.Clone(l.Extensions)
		return nil
	})
}

// StoreLog stores one entry.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, all or none, and returns when they are safe.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	err := s.locked(func() error {
		last, empty := s.last(), s.first == 0
		for i, l := range logs {
			if l.Index == 0 || !(empty && i == 0) && l.Index != last+1 {
				return fmt.Errorf("non-monotonic log entries: tried to append index %d after %d", l.Index, last)
			}
			last = l.Index
		}
		return nil
	})
	if err != nil || len(logs) == 0 {
		return err
	}
	record := encodeEntries(logs)
	if err := s.journal.write(record); err != nil {
		return err
	}
	return s.locked(func() error { return s.replay(record) })
}

// DeleteRange removes the beginning or the end of the log, both indexes
// included.
func (s *logStore) DeleteRange(from, to uint64) error {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	var record []byte
	err := s.locked(func() error {
		switch first, last := s.first, s.last(); {
		case from > to, to < first, from > last:
		case from <= first:
			record = binary.AppendUvarint([]byte{recordHeadCut}, to+1)
		case to >= last:
			record = binary.AppendUvarint([]byte{recordTailCut}, from-1)
		default:
			return errors.New("only suffix or prefix ranges may be deleted from log")
		}
		return nil
	})
	if err != nil || record == nil {
		return err
	}
	if err := s.journal.write(record); err != nil {
		return err
	}
	return s.locked(func() error { return s.replay(record) })
}

// Set keeps a value and returns when it is safe. In a process that is dead it
// returns nil, as raft would panic at an error: nobody hears what it does next.
func (s *logStore) Set(key, value []byte) error {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	if err := s.locked(func() error { return nil }); err != nil {
		return err
	}
	err := s.keys.write(appendBytes(appendBytes(nil, key), value))
	if err != nil && !errors.Is(err, ErrDead) {
		return err
	}
	return s.locked(func() error { s.values[string(key)] = slices.Clone(value); return nil })
}

// Get returns nothing for a key that was never set.
func (s *logStore) Get(key []byte) (value []byte, err error) {
	err = s.locked(func() error { value = slices.Clone(s.values[string(key)]); return nil })
	return value, err
}

// SetUint64 keeps a number.
func (s *logStore) SetUint64(key []byte, n uint64) error {
	return s.Set(key, binary.LittleEndian.AppendUint64(nil, n))
}

// GetUint64 returns 0 for a key that was never set.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	switch {
	case err != nil || len(value) == 0:
		return 0, err
	case len(value) != 8:
		return 0, fmt.Errorf("value of %q is not a number", key)
	}
	return binary.LittleEndian.Uint64(value), nil
}
