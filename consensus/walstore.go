package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// A walStore is the log on disk, and what raft keeps beside it. A write that
// fails half-way can leave the library with another idea of its files than the
// disk has: a full segment whose successor found no room refuses every append
// that follows. So after a failure that is more than a refusal the log is opened
// anew, which completes or undoes what was begun, before anything else is
// written.
type walStore struct {
	dir     string
	segment int // what a file of the log takes from the beginning, in bytes
	log     *slog.Logger

	mu     sync.RWMutex
	wal    *wal.WAL // never nil; closed while in doubt and not yet opened anew
	closed bool     // for good
	doubt  bool     // the next write opens it anew
	opened bool     // anew, and not appended to since; the writer's alone
}

func openWalStore(dir string, segment int, log *slog.Logger) (*walStore, error) {
	s := &walStore{dir: dir, segment: segment, log: log}
	var err error
	s.wal, err = s.open()
	return s, err
}

// open opens the log. The library syncs the folder when it first appends to a
// segment that it has made, but not to one that it has found.
func (s *walStore) open() (*wal.WAL, error) {
	w, err := wal.Open(s.dir, wal.WithSegmentSize(s.segment), wal.WithLogger(newBridge(s.log)), wal.WithMetaStore(new(walMeta)))
	if err != nil {
		return nil, fmt.Errorf("open log in %s: %w", s.dir, err)
	}
	if err := SyncDirs(s.dir); err != nil {
		_ = w.Close() // nothing was written
		return nil, err
	}
	return w, nil
}

// write is for one writer at a time, which raft is.
func (s *walStore) write(do func(*wal.WAL) error) error {
	for attempt := 0; ; attempt++ {
		w, err := s.mended()
		if err != nil {
			return err
		}
		var errno syscall.Errno
		// These two tell of an earlier failure, and nothing was written.
		earlier := func() bool { return errors.Is(err, wal.ErrSealed) || errors.Is(err, fs.ErrExist) }
		if err = do(w); err == nil || refuses(err) || !errors.As(err, &errno) && !earlier() {
			return err
		}
		s.distrust()
		if attempt > 0 || !earlier() {
			return err
		}
	}
}

func (s *walStore) distrust() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt = true
}

// mended returns the log to write to.
func (s *walStore) mended() (*wal.WAL, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.doubt || s.closed {
		return s.wal, nil
	}
	if err := s.wal.Close(); err != nil {
		return nil, fmt.Errorf("close log in %s: %w", s.dir, err)
	}
	w, err := s.open()
	if err != nil {
		return nil, err
	}
	s.log.Info("log opened anew after a write that failed")
	s.wal, s.doubt, s.opened = w, false, true
	return w, nil
}

func (s *walStore) current() *wal.WAL {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal
}

func (s *walStore) IsMonotonic() bool           { return true }
func (s *walStore) FirstIndex() (uint64, error) { return s.current().FirstIndex() }
func (s *walStore) LastIndex() (uint64, error)  { return s.current().LastIndex() }

func (s *walStore) GetLog(index uint64, log *raft.Log) error { return s.current().GetLog(index, log) }

func (s *walStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends. An entry whose append failed may be there all the same once
// the log was opened anew: raft was told that it is not, and nobody knows whether
// it would outlive a power cut.
func (s *walStore) StoreLogs(logs []*raft.Log) error {
	return s.write(func(w *wal.WAL) error {
		if s.opened && len(logs) > 0 {
			last, err := w.LastIndex()
			if err == nil && last >= logs[0].Index {
				err = w.DeleteRange(logs[0].Index, last)
			}
			if err != nil {
				return err
			}
		}
		err := w.StoreLogs(logs)
		s.opened = s.opened && err != nil
		return err
	})
}

func (s *walStore) DeleteRange(from, to uint64) error {
	return s.write(func(w *wal.WAL) error { return w.DeleteRange(from, to) })
}

func (s *walStore) Get(key []byte) ([]byte, error)       { return s.current().Get(key) }
func (s *walStore) GetUint64(key []byte) (uint64, error) { return s.current().GetUint64(key) }

func (s *walStore) Set(key, value []byte) error {
	return s.write(func(w *wal.WAL) error { return w.Set(key, value) })
}

func (s *walStore) SetUint64(key []byte, value uint64) error {
	return s.write(func(w *wal.WAL) error { return w.SetUint64(key, value) })
}

// Close closes the log.
func (s *walStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if err := s.wal.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}
