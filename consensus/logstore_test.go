package consensus

import (
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/consensustest"
)

// The library removes the whole of a log that takes no gaps when it installs a
// snapshot, though entries that follow the snapshot were acknowledged.
func TestAnInstalledSnapshotKeepsTheEntriesThatFollowIt(t *testing.T) {
	for _, c := range []struct {
		name       string
		index      uint64 // where the snapshot ends
		term       uint64
		all        bool // the library is about to remove all
		from, to   uint64
		want, last uint64 // that are left
	}{
		{"in the log", 6, 1, true, 1, 10, 7, 10},
		{"at the end of the log", 10, 1, true, 1, 10, 0, 0},
		{"beyond the log", 20, 2, true, 1, 10, 0, 0},
		{"of another history", 6, 2, true, 1, 10, 0, 0},
		{"and a conflict beyond it", 6, 1, false, 8, 10, 1, 7},
		{"that is installed again", 0, 0, true, 1, 10, 1, 10},
		{"and a conflict right after it", 0, 0, false, 1, 10, 0, 0},
		{"and its own compaction", 6, 1, false, 1, 4, 5, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			stores, err := consensustest.NewDisk(1).Open()
			if err != nil {
				t.Fatal(err)
			}
			w := newWriting(&Config{Writes: func() func(error) { return func(error) {} }}, func() {}, func() {})
			logs, err := newLogStore(stores.Log, stores.Snapshots, w)
			if err != nil {
				t.Fatal(err)
			}
			for i := range uint64(10) {
				if err := logs.StoreLog(&raft.Log{Index: i + 1, Term: 1}); err != nil {
					t.Fatal(err)
				}
			}
			snaps := snapshots{stores.Snapshots, logs}
			sink, err := snaps.Create(1, c.index, c.term, raft.Configuration{}, 1, nil)
			if err == nil {
				err = sink.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, index := range []uint64{c.index - 1, c.index + 1} { // an older one, and one that fails
				other, err := snaps.Create(1, index, c.term, raft.Configuration{}, 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				if index < c.index {
					err = other.Close()
				} else {
					err = other.Cancel()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if c.all {
				if _, err := logs.LastIndex(); err != nil {
					t.Fatal(err)
				}
			}
			if err := logs.DeleteRange(c.from, c.to); err != nil {
				t.Fatal(err)
			}
			first, _ := stores.Log.FirstIndex()
			last, _ := stores.Log.LastIndex()
			if got, want := []uint64{first, last}, []uint64{c.want, c.last}; !slices.Equal(got, want) {
				t.Errorf("the log goes from %d to %d, want %d", first, last, want)
			}
		})
	}
}
