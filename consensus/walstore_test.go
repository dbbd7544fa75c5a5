package consensus

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// The library cannot begin another segment, as when the disk is full, and from
// then on refuses all that is appended to the full one.
func TestALogWhoseNextSegmentWasNotMadeIsOpenedAnew(t *testing.T) {
	dir := t.TempDir()
	var said bytes.Buffer
	stores, err := OpenStores(dir, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	const each = segmentSize / 4
	entry := func(index uint64) *raft.Log {
		data := make([]byte, each)
		copy(data, fmt.Sprint(index))
		return &raft.Log{Index: index, Term: 1, Data: data}
	}
	for id := uint64(1); id < 3; id++ { // the segments after the first one, whatever they begin with
		for base := uint64(2); base < 12; base++ {
			name := segment.FileName(types.SegmentInfo{ID: id, BaseIndex: base})
			if err := os.WriteFile(filepath.Join(dir, "log", name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	const last = 12
	for index := uint64(1); index <= last; index++ {
		if err := stores.Log.StoreLog(entry(index)); err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
		if err := stores.Stable.SetUint64([]byte("k"), index); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		for index := uint64(1); index <= last; index++ {
			var got raft.Log
			if err := stores.Log.GetLog(index, &got); err != nil || string(got.Data[:len(fmt.Sprint(index))]) != fmt.Sprint(index) {
				t.Errorf("%s: entry %d: %.5q, %v", when, index, got.Data, err)
			}
		}
		if got, err := stores.Stable.GetUint64([]byte("k")); got != last || err != nil {
			t.Errorf("%s: %d is kept, %v, want %d", when, got, err, last)
		}
	}
	check("as it goes on")
	if !strings.Contains(said.String(), "opened anew") {
		t.Errorf("nothing was in the way of the log: the test shows less than it should\n%s", said.String())
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	if stores, err = OpenStores(dir, nil); err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	check("opened again")
}
