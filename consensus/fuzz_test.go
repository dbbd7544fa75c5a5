package consensus

import (
	"bytes"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

func anEntry() *logv1.Entry {
	key := &logv1.Key{Kind: "Pod", Namespace: "default", Name: "web"}
	return &logv1.Entry{Epoch: "e", Txns: []*logv1.Txn{{Ops: []*logv1.Op{
		{Key: key, Change: &logv1.Op_Put{Put: &logv1.Object{Key: key, Uid: "u", Index: []string{"node=n1"}, Body: bytes.Repeat([]byte("body "), 100)}}},
		{Key: key, Change: &logv1.Op_Delete{Delete: true}},
	}}}}
}

// FuzzEntry reads log entries: one that is no entry is an error and nothing
// else, and one that is survives being written again.
func FuzzEntry(f *testing.F) {
	c := newCodec()
	plain, err := proto.Marshal(anEntry())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.encode(plain))
	f.Add(append([]byte{packedPlain}, plain...))
	f.Add(c.encode(make([]byte, 1<<20))) // a bomb
	f.Add([]byte{2, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		entry, err := c.decode(data)
		if err != nil {
			return
		}
		again, err := proto.Marshal(entry)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := c.decode(c.encode(again))
		if err != nil || !proto.Equal(entry, twice) {
			t.Fatalf("%v became %v (%v)", entry, twice, err)
		}
	})
}

// FuzzSnapshotFile restores from packed snapshots, as raft and a replica keep
// them: a damaged one changes nothing.
func FuzzSnapshotFile(f *testing.F) {
	s := state.New()
	s.ApplyEntry(7, &logv1.Entry{Epoch: "e", Txns: anEntry().GetTxns()})
	var good bytes.Buffer
	if err := packTo(&good, s.WriteSnapshot); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()/2])
	f.Add([]byte{packedPlain, 2, 8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		to := state.New()
		to.ApplyEntry(3, anEntry())
		before := to.Index()
		if err := unpackFrom(bytes.NewReader(data), to.Restore); err != nil {
			if to.Index() != before || to.Epoch() != "e" {
				t.Fatalf("a snapshot that was refused moved the store to %d of %q", to.Index(), to.Epoch())
			}
			return
		}
		if err := packTo(io.Discard, to.WriteSnapshot); err != nil {
			t.Fatalf("what was restored cannot be written: %v", err)
		}
	})
}
