package state

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

func pod(name string) Key { return Key{"Pod", "default", name} }

// put returns an operation that writes a body of its own.
func put(key Key, body string, index ...string) *logv1.Op {
	return &logv1.Op{Key: key.Proto(), Change: &logv1.Op_Put{Put: &logv1.Object{
		Key: key.Proto(), Uid: "uid-" + key.Name, Index: index, Body: []byte(body),
	}}}
}

func del(key Key) *logv1.Op {
	return &logv1.Op{Key: key.Proto(), Change: &logv1.Op_Delete{Delete: true}}
}

func check(key Key) *logv1.Op {
	return &logv1.Op{Key: key.Proto(), Change: &logv1.Op_Check{Check: true}}
}

// at adds the version that op was based on.
func at(version uint64, op *logv1.Op) *logv1.Op {
	op.Expect = proto.Uint64(version)
	return op
}

func txn(ops ...*logv1.Op) *logv1.Txn { return &logv1.Txn{Ops: ops} }

// checked returns a store that fails the test when a row is modified.
func checked(t interface{ Errorf(string, ...any) }, options ...Option) *Store {
	return New(append(options, Checked(func(problem string) { t.Errorf("%s", problem) }))...)
}

// dump returns a snapshot of the store: equal stores have equal ones.
func dump(t interface{ Fatal(...any) }, s *Store) []byte {
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// keys returns the names of rows, sorted.
func keys(rows []*Row) []string {
	names := make([]string, 0, len(rows))
	for _, row := range rows {
		names = append(names, row.Key.String())
	}
	slices.Sort(names)
	return names
}

// catchUp makes dst what a stream of src tells, resuming where dst is, and
// returns how many resets it took.
func catchUp(t *testing.T, dst, src *Store, selectors ...Selector) (resets int) {
	t.Helper()
	for b, err := range Whole(src.Follow(t.Context(), dst.Index(), dst.Epoch(), selectors)) {
		if err != nil {
			t.Fatal(err)
		}
		if b.Reset {
			resets++
		}
		dst.ApplyBatch(b)
		if b.Index == src.Index() {
			return resets
		}
	}
	return resets
}
