package backup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestTheNewestSnapshotsAreKept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"notes.txt", "skein-20000101T000000Z.snap", "skein-20000101T010000Z.snap.new"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var index atomic.Uint64
		var full atomic.Bool
		index.Store(1)
		k := New(Config{
			Dir: dir, Every: time.Hour, Keep: 2, Logger: slog.New(slog.DiscardHandler),
			Index: func() (uint64, bool) { return index.Load(), true },
			Write: func(_ context.Context, w io.Writer) error {
				_, err := io.WriteString(w, "state")
				if full.Load() {
					err = errors.New("no space left on device")
				}
				return err
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		hour := func() { time.Sleep(time.Hour); synctest.Wait() }
		time.Sleep(time.Minute)
		hour()
		if got := files(t, dir); len(got) != 3 || got[0] != "notes.txt" {
			t.Errorf("after an hour: %v, want the note, the old snapshot and a new one", got)
		}
		hour()
		if got := files(t, dir); len(got) != 3 {
			t.Errorf("nothing has changed, yet there is another: %v", got)
		}
		for i := range uint64(3) {
			index.Store(2 + i)
			hour()
		}
		before := files(t, dir)
		if len(before) != 3 || before[1] < "skein-2000010" {
			t.Errorf("%v, want the note and the newest two", before)
		}
		index.Store(9)
		full.Store(true)
		hour()
		if got := files(t, dir); len(got) != len(before) || got[1] != before[1] {
			t.Errorf("a full disk: %v, want %v as before", got, before)
		}
		full.Store(false)
		hour()
		if got := files(t, dir); got[2] == before[2] {
			t.Errorf("the disk has room again, and there is no new snapshot: %v", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
