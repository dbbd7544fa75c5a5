package consensustest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	retained   = 2
	snapFolder = "snapshots/"
	snapTemp   = ".tmp"
	snapMeta   = "/meta"
	snapState  = "/state"
)

var crcTable = crc64.MakeTable(crc64.ECMA)

// snapshots is a folder of snapshots, each written under a temporary name,
// synced, and renamed.
type snapshots struct{ process *process }

// A kept is what stands beside a snapshot's bytes.
type kept struct {
	raft.SnapshotMeta
	Sum uint64
}

// Create begins a snapshot, which is there once its sink is closed.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("unsupported snapshot version %d", version)
	}
	id := fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli())
	sink := &sink{store: s, meta: kept{SnapshotMeta: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term, Configuration: c, ConfigurationIndex: configIndex,
	}}}
	if err := s.process.rename(sink.dir()+"/", ""); err != nil { // left over of the same millisecond
		return nil, err
	}
	if _, err := s.process.add(sink.dir()+snapState, nil); err != nil {
		return nil, err
	}
	return sink, nil
}

// List returns the newest snapshots that are whole by name, newest first.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	all := s.all()
	if len(all) > retained {
		all = all[:retained]
	}
	return all, nil
}

func (s *snapshots) all() []*raft.SnapshotMeta {
	var metas []*raft.SnapshotMeta
	for _, name := range s.process.list(snapFolder) {
		dir, ok := strings.CutSuffix(name, snapMeta)
		if !ok || strings.HasSuffix(dir, snapTemp) {
			continue
		}
		if k, err := s.meta(strings.TrimPrefix(dir, snapFolder)); err == nil {
			metas = append(metas, &k.SnapshotMeta)
		}
	}
	slices.SortFunc(metas, func(a, b *raft.SnapshotMeta) int {
		return cmp.Or(cmp.Compare(b.Term, a.Term), cmp.Compare(b.Index, a.Index), cmp.Compare(b.ID, a.ID))
	})
	return metas
}

func (s *snapshots) meta(id string) (kept, error) {
	var k kept
	data, ok := s.process.read(snapFolder + id + snapMeta)
	if !ok {
		return k, fmt.Errorf("there is no snapshot %s", id)
	}
	if err := json.Unmarshal(data, &k); err != nil {
		return k, fmt.Errorf("read snapshot %s: %w", id, err)
	}
	return k, nil
}

// Open reads a snapshot, and refuses one whose bytes are not those written.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	k, err := s.meta(id)
	if err != nil {
		return nil, nil, err
	}
	data, _ := s.process.read(snapFolder + id + snapState)
	if crc64.Checksum(data, crcTable) != k.Sum {
		return nil, nil, errors.New("CRC mismatch")
	}
	return &k.SnapshotMeta, io.NopCloser(bytes.NewReader(data)), nil
}

// reap removes all but the newest.
func (s *snapshots) reap() error {
	all := s.all()
	for i := retained; i < len(all); i++ {
		if err := s.process.rename(snapFolder+all[i].ID+"/", ""); err != nil {
			return err
		}
	}
	return nil
}

// A sink is a snapshot being written.
type sink struct {
	store  *snapshots
	meta   kept
	mu     sync.Mutex
	closed bool
	sum    uint64
	size   int64
}

func (s *sink) dir() string { return snapFolder + s.meta.ID + snapTemp }

// ID is what Open takes once the sink is closed.
func (s *sink) ID() string { return s.meta.ID }

// Write appends to the snapshot.
func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	if _, err := s.store.process.add(s.dir()+snapState, b); err != nil {
		return 0, err
	}
	s.sum = crc64.Update(s.sum, crcTable, b)
	s.size += int64(len(b))
	return len(b), nil
}

// Close returns when the snapshot is safe. It may be called again.
func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.finish(); err != nil {
		return errors.Join(err, s.store.process.rename(s.dir()+"/", ""))
	}
	return s.store.reap()
}

func (s *sink) finish() error {
	p, dir := s.store.process, s.dir()
	s.meta.Sum, s.meta.Size = s.sum, s.size
	text, err := json.Marshal(s.meta)
	if err != nil {
		return err
	}
	if err := p.sync(dir + snapState); err != nil {
		return err
	}
	if _, err := p.add(dir+snapMeta, text); err != nil {
		return err
	}
	if err := p.sync(dir + snapMeta); err != nil {
		return err
	}
	if err := p.rename(dir+"/", strings.TrimSuffix(dir, snapTemp)+"/"); err != nil {
		return err
	}
	return p.sync("")
}

// Cancel removes what was written.
func (s *sink) Cancel() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.store.process.rename(s.dir()+"/", "")
}
