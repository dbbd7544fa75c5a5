package state

import (
	"fmt"
	"math"
	"slices"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// Apply makes the changes of txn, all or none, as the entry at index, and keeps
// what txn holds. It depends on its arguments and the rows alone: every replica,
// and one replaying this log next year, must reach the same rows and give the
// same answer. A *ConflictError refuses the whole.
//
// It panics if index is not higher than the last one, and on an operation that
// this build does not know.
func (s *Store) Apply(index uint64, txn *logv1.Txn) error {
	return s.ApplyEntry(index, &logv1.Entry{Txns: []*logv1.Txn{txn}})[0]
}

// ApplyEntry applies the transactions of one log entry, in their order, each all
// or none, and returns the answer to each: nil or a *ConflictError. Readers and
// followers see all of the entry or nothing of it. See Apply.
func (s *Store) ApplyEntry(index uint64, entry *logv1.Entry) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index <= s.index {
		panic(fmt.Sprintf("log entry %d comes after entry %d", index, s.index))
	}
	if epoch := entry.GetEpoch(); epoch != "" && epoch != s.epoch {
		s.epoch = epoch
		s.startLife()
	}
	errs := make([]error, len(entry.GetTxns()))
	for i, txn := range entry.GetTxns() {
		errs[i] = s.applyTxn(index, txn)
	}
	s.reach(index)
	return errs
}

func (s *Store) applyTxn(index uint64, txn *logv1.Txn) error {
	for _, op := range txn.GetOps() {
		if op.Expect == nil {
			continue
		}
		key := KeyOf(op.GetKey())
		if have := s.version(key); have != op.GetExpect() {
			return &ConflictError{Key: key, Have: have, Want: op.GetExpect()}
		}
	}
	for _, op := range txn.GetOps() {
		key := KeyOf(op.GetKey())
		switch {
		case op.GetPut() != nil:
			s.put(index, s.newRow(index, key, op.GetPut()))
		case op.GetDelete():
			s.delete(index, key)
		case op.GetCheck():
		default:
			// To skip what we cannot read would leave this replica quietly
			// different from the rest. Better to stop and say why.
			panic(fmt.Sprintf("log entry %d holds an operation this build does not know: upgrade this agent", index))
		}
	}
	return nil
}

func (s *Store) version(key Key) uint64 {
	if row := s.row(key); row != nil {
		return row.Version
	}
	return 0
}

// newRow takes over what o holds. Rows of one kind share the string of its name.
func (s *Store) newRow(index uint64, key Key, o *logv1.Object) *Row {
	if t := s.tables[key.Kind]; t != nil {
		key.Kind = t.kind
		if old := t.get(key.Namespace, key.Name); old != nil {
			key = old.Key
			if slices.Equal(old.Index, o.GetIndex()) {
				o.Index = old.Index
			}
		}
	}
	return &Row{Key: key, UID: o.GetUid(), Version: index, Index: o.GetIndex(), Body: o.GetBody()}
}

func (s *Store) put(index uint64, row *Row) {
	t := s.tables[row.Key.Kind]
	if t == nil {
		t = newTable(row.Key.Kind)
		s.tables[row.Key.Kind] = t
	}
	s.changed(index, t.put(row), row)
}

func (s *Store) delete(index uint64, key Key) {
	if old := s.tables[key.Kind].delete(key.Namespace, key.Name); old != nil {
		s.changed(index, old, nil)
	}
}

// changed tells everybody whom the change of one object matters to. One of the
// rows may be nil.
func (s *Store) changed(index uint64, old, row *Row) {
	s.guard.replaced(old, row)
	at := s.ring.push(change{index: index, old: old, row: row})
	s.watches.notify(at, old, row)
}

// reach ends the work on one entry.
func (s *Store) reach(index uint64) {
	s.index = index
	if s.ring.lap() {
		s.watches.lap()
	}
	s.releaseWaits(index)
}

// startLife breaks every stream: what followers know does not lead to what is
// here now.
func (s *Store) startLife() {
	s.life++
	s.watches.all()
	s.releaseWaits(math.MaxUint64)
}
