// Package state holds the objects that the cluster agreed on: immutable rows in
// plain maps with a few indexes, changed by one writer, read and followed by
// many. It owns how a transaction changes rows, the ring of recent changes that
// feeds followers, and the codec of snapshots. It knows strings, not kinds: what
// a row means belongs to those who write it, when it is agreed to package
// consensus.
//
// It is replayed on every machine, so nothing here reads a clock, draws a random
// number or touches a file.
//
// Rows are shared by all readers: never modify one, write another.
package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// AllKinds as a Selector's kind selects rows of every kind.
const AllKinds = "*"

// Key names one object. Namespace is empty for kinds that belong to the cluster.
type Key struct {
	Kind, Namespace, Name string
}

// String returns the key as people read it: "Pod default/web-1", "Node n1".
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// KeyOf returns the key that k names.
func KeyOf(k *logv1.Key) Key {
	return Key{Kind: k.GetKind(), Namespace: k.GetNamespace(), Name: k.GetName()}
}

// Proto returns the key as the log and the streams carry it.
func (k Key) Proto() *logv1.Key {
	return &logv1.Key{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}

// Compare orders keys by kind, namespace and name.
func (k Key) Compare(other Key) int {
	return cmp.Or(
		strings.Compare(k.Kind, other.Kind),
		strings.Compare(k.Namespace, other.Namespace),
		strings.Compare(k.Name, other.Name),
	)
}

// A Row is one object at one version. It is immutable and shared: whoever holds
// one may keep it, nobody may change it or what its slices point to.
type Row struct {
	Key     Key
	UID     string
	Version uint64   // raft index of the entry that wrote it
	Index   []string // what it can be found by, for example "node=n1"
	Body    []byte   // opaque here
}

// RowOf returns the row that o describes. It keeps o's slices.
func RowOf(o *logv1.Object) *Row {
	return &Row{Key: KeyOf(o.GetKey()), UID: o.GetUid(), Version: o.GetVersion(), Index: o.GetIndex(), Body: o.GetBody()}
}

// Object returns the row as the log and the streams carry it. It shares the
// row's slices, so it is for encoding only.
func (r *Row) Object() *logv1.Object {
	return &logv1.Object{Key: r.Key.Proto(), Uid: r.UID, Version: r.Version, Index: r.Index, Body: r.Body}
}

// size returns about how many bytes of memory the row keeps alive.
func (r *Row) size() int {
	n := 128 + len(r.Key.Name) + len(r.UID) + len(r.Body)
	for _, s := range r.Index {
		n += 16 + len(s)
	}
	return n
}

// A Selector says which rows somebody cares about. Kind is required, AllKinds
// means every kind; an empty Namespace or Index selects all.
type Selector struct {
	Kind, Namespace, Index string
	// Late says that FollowLate may tell of changes later than they happen.
	Late bool
}

// Matches reports whether r is selected. No row is not.
func (s Selector) Matches(r *Row) bool {
	return r != nil &&
		(s.Kind == r.Key.Kind || s.Kind == AllKinds) &&
		(s.Namespace == "" || s.Namespace == r.Key.Namespace) &&
		(s.Index == "" || slices.Contains(r.Index, s.Index))
}

func matchesAny(sels []Selector, r *Row) bool {
	for _, s := range sels {
		if s.Matches(r) {
			return true
		}
	}
	return false
}

// A ConflictError refuses a transaction based on an old version of an object.
type ConflictError struct {
	Key        Key
	Have, Want uint64 // versions; 0: the object does not exist
}

// Error says what the write expected and what it found.
func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("%s exists already, at version %d", e.Key, e.Have)
	case e.Have == 0:
		return fmt.Sprintf("%s is gone, version %d was expected", e.Key, e.Want)
	default:
		return fmt.Sprintf("%s has changed: it is at version %d, %d was expected", e.Key, e.Have, e.Want)
	}
}

// A Store holds rows. One goroutine at a time may write (Apply, ApplyEntry,
// ApplyBatch, Restore); any number may read, watch and follow meanwhile.
type Store struct {
	mu      sync.RWMutex
	index   uint64 // of the last entry applied
	epoch   string // the lineage that index belongs to
	life    uint64 // counts what breaks every stream: restores and new epochs
	tables  map[string]*table
	ring    ring
	watches watches
	waits   []wait
	guard   *guard // nil except under test
}

// An Option changes a new Store.
type Option func(*Store)

// RingBytes bounds the memory that the ring of recent changes keeps alive, 16 MB
// unless told. A follower that was away for longer gets a Reset.
func RingBytes(n int) Option {
	return func(s *Store) { s.ring.max = n }
}

// New returns an empty store.
func New(options ...Option) *Store {
	s := &Store{
		tables:  make(map[string]*table),
		ring:    newRing(16 << 20),
		watches: make(watches),
	}
	for _, option := range options {
		option(s)
	}
	return s
}
