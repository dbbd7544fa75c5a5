package agent

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// FuzzFollowFrame takes in what a stream that a node follows may say. The copy
// holds afterwards what was told, and nothing of what was deleted.
func FuzzFollowFrame(f *testing.F) {
	key := &logv1.Key{Kind: "Pod", Namespace: "default", Name: "web"}
	for _, msg := range []*skeinv1.FollowResponse{
		{Index: 9, Epoch: "e", Puts: []*logv1.Object{{Key: key, Uid: "u", Version: 8, Index: []string{"node=n1"}, Body: []byte("{}")}}},
		{Index: 2, Reset_: true, More: true, Deletes: []*logv1.Key{key, {}}},
		{Puts: []*logv1.Object{{}}},
	} {
		data, err := proto.Marshal(msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		msg := &skeinv1.FollowResponse{}
		if proto.Unmarshal(data, msg) != nil {
			return
		}
		s := state.New(state.Checked(func(problem string) { t.Error(problem) }))
		s.ApplyEntry(5, &logv1.Entry{Epoch: "e", Txns: []*logv1.Txn{{Ops: []*logv1.Op{
			{Key: key, Change: &logv1.Op_Put{Put: &logv1.Object{Key: key, Uid: "old", Body: []byte("old")}}},
		}}}})
		b := batch(msg)
		s.ApplyBatch(b)
		if s.Index() != b.Index || s.Epoch() != b.Epoch {
			t.Fatalf("the copy is at %d of %q, its source at %d of %q", s.Index(), s.Epoch(), b.Index, b.Epoch)
		}
		put := map[state.Key]bool{}
		for _, row := range b.Puts {
			put[row.Key] = true
			if _, ok := s.Get(row.Key); !ok {
				t.Fatalf("%s was told, and is not there", row.Key)
			}
		}
		for _, gone := range b.Deletes {
			if _, ok := s.Get(gone); ok && !put[gone] {
				t.Fatalf("%s was deleted, and is there", gone)
			}
		}
		if s.ApplyBatch(b) && len(b.Deletes) == 0 && len(put) == len(b.Puts) {
			t.Fatal("the same frame again has changed something")
		}
	})
}
