package consensus

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A Copy is what one node's stores hold of the log, read while nobody has them
// open for a Node.
type Copy struct {
	LastIndex, LastTerm uint64 // of the log, or of the snapshot where that is later
	Term                uint64 // the last one the node heard of
	Snapshot            uint64 // index of the newest snapshot, 0: none
	Members             []Member
	Written             time.Time // when the newest snapshot or entry was; zero: not known
	// Store holds all of the log. How much of its end was ever agreed on, no
	// single copy can tell.
	Store *state.Store

	config raft.Configuration
}

// Further tells whether c holds more than other: among copies of one epoch the
// one with the later (term, index) holds everything that was acknowledged and
// that any of them holds.
func (c *Copy) Further(other *Copy) bool {
	return c.LastTerm > other.LastTerm || c.LastTerm == other.LastTerm && c.LastIndex > other.LastIndex
}

// ReadCopy reads what stores hold and changes nothing. It fails with ErrNoCluster
// where they hold nothing.
func ReadCopy(stores *Stores) (c *Copy, err error) {
	defer func() {
		if p := recover(); p != nil { // an entry of a newer build
			c, err = nil, fmt.Errorf("read the log: %v", p)
		}
	}()
	c = &Copy{Store: state.New()}
	machine := &fsm{store: c.Store, codec: newCodec()}
	if err := c.readSnapshot(stores.Snapshots, machine); err != nil {
		return nil, err
	}
	last, err := stores.Log.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("find the end of the log: %w", err)
	}
	for index := c.Snapshot + 1; index <= last; index++ {
		var entry raft.Log
		if err := stores.Log.GetLog(index, &entry); err != nil {
			return nil, fmt.Errorf("read log entry %d: %w", index, err)
		}
		switch entry.Type {
		case raft.LogCommand:
			machine.Apply(&entry)
		case raft.LogConfiguration:
			c.config = raft.DecodeConfiguration(entry.Data)
		}
		c.LastIndex, c.LastTerm = index, entry.Term
		if entry.AppendedAt.After(c.Written) {
			c.Written = entry.AppendedAt
		}
	}
	if c.LastIndex == 0 {
		return nil, ErrNoCluster
	}
	if c.Term, err = stores.Stable.GetUint64(stableTerm); err != nil && err.Error() != "not found" {
		return nil, fmt.Errorf("read the term: %w", err)
	}
	for _, s := range c.config.Servers {
		c.Members = append(c.Members, Member{Name: string(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	slices.SortFunc(c.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

func (c *Copy) readSnapshot(store raft.SnapshotStore, machine *fsm) error {
	metas, err := store.List() // newest first
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var errs []error
	for _, meta := range metas {
		_, r, err := store.Open(meta.ID)
		if err == nil {
			err = machine.Restore(r)
			_ = r.Close() // was only read
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read snapshot %s: %w", meta.ID, err))
			continue
		}
		c.Snapshot, c.LastIndex, c.LastTerm, c.config = meta.Index, meta.Index, meta.Term, meta.Configuration
		return nil
	}
	return errors.Join(errs...)
}

// stableTerm is where raft keeps its term.
var stableTerm = []byte("CurrentTerm")

// Reform writes into fresh stores the cluster of which the node called name is
// the only member, with all that c holds and one entry more: it begins the epoch
// and makes the changes of txn. All of c counts as agreed on from then on. It
// returns the index of that entry. c is of no use afterwards.
//
// Like raft.RecoverCluster it hides the old members in a snapshot; but into
// stores of their own, so that a power cut leaves the old ones as they were.
func Reform(c *Copy, into *Stores, name, epoch string, txn *logv1.Txn) (uint64, error) {
	if last, err := into.Log.LastIndex(); err != nil || last != 0 {
		return 0, errors.Join(errors.New("re-form the cluster: the stores to write hold something already"), err)
	}
	index, term := c.LastIndex+1, max(c.LastTerm, c.Term)+1
	entry := &logv1.Entry{Epoch: epoch}
	if txn != nil {
		entry.Txns = []*logv1.Txn{txn}
	}
	if err := errors.Join(c.Store.ApplyEntry(index, entry)...); err != nil {
		return 0, fmt.Errorf("re-form the cluster: %w", err)
	}
	if err := into.Stable.SetUint64(stableTerm, term); err != nil {
		return 0, fmt.Errorf("write the term: %w", err)
	}
	alone := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(name), Address: raft.ServerAddress(name),
	}}}
	_, nowhere := raft.NewInmemTransport(raft.ServerAddress(name)) // the store asks it how to write addresses
	sink, err := into.Snapshots.Create(1, index, term, alone, index, nowhere)
	if err != nil {
		return 0, fmt.Errorf("write the snapshot: %w", err)
	}
	if err := (&fsmSnapshot{rows: c.Store.Snapshot()}).Persist(sink); err != nil {
		return 0, errors.Join(fmt.Errorf("write the snapshot: %w", err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return 0, fmt.Errorf("write the snapshot: %w", err)
	}
	return index, nil
}

// SyncDirs makes the names of what lies in the directories last through a power
// cut.
func SyncDirs(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, syncDir(filepath.Clean(dir)))
	}
	return errors.Join(errs...)
}
