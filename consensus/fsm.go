package consensus

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
)

// fsm gives committed entries to the store. Raft calls it from one goroutine.
type fsm struct {
	store *state.Store
	codec *codec
}

var _ raft.BatchingFSM = (*fsm)(nil)

// ApplyBatch returns the answers to the transactions of each entry, a []error.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	for i, log := range logs {
		answers[i] = f.Apply(log)
	}
	return answers
}

// Apply panics on an entry that it cannot read: to skip it would leave this
// replica quietly different from the rest.
func (f *fsm) Apply(log *raft.Log) any {
	if log.Type != raft.LogCommand {
		return []error(nil)
	}
	entry, err := f.codec.decode(log.Data)
	if err != nil {
		panic(fmt.Sprintf("log entry %d: %v", log.Index, err))
	}
	return f.store.ApplyEntry(log.Index, entry)
}

// Snapshot takes references; the writing happens beside Apply.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &fsmSnapshot{rows: f.store.Snapshot()}, nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	return unpackFrom(r, f.store.Restore) // raft closes r
}

type fsmSnapshot struct{ rows *state.Snapshot }

// Persist leaves it to raft to cancel the sink after an error.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	return packTo(sink, s.rows.Write)
}

func (s *fsmSnapshot) Release() { s.rows = nil }
