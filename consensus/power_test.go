package consensus

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skein-dev/skein/consensus/consensustest/power"
)

const (
	powerWork = "SKEIN_POWER_WORK" // what this program does instead of its tests
	powerDir  = "SKEIN_POWER_DIR"  // and where

	powerSegment = 8 << 10 // so that a short life has several files of the log
)

var powerWorks = map[string]func(dir string){
	"stores": func(dir string) { storesWork(dir, promise()) },
	"node":   func(dir string) { nodeWork(dir, promise()) },
}

// promise returns where to say what is done.
func promise() io.Writer { return os.NewFile(3, "promises") }

// powerLife runs a work until its power goes.
func powerLife(t *testing.T, work string, cut int, skip func(string) bool) *power.Death {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	death, err := power.Run(power.Life{
		Args: []string{program}, Env: append(os.Environ(), powerWork+"="+work, powerDir+"="+root),
		Root: root, Cut: cut, Skip: skip,
	})
	if err != nil {
		t.Errorf("cut %d: %v", cut, err)
		return nil
	}
	if err := os.RemoveAll(root); err != nil {
		t.Error(err)
	}
	return death
}

// powerCuts runs a work once for each moment at which its power can go, and
// checks what may be left on the disk: nothing that need not be, all, and so
// many times something torn.
func powerCuts(t *testing.T, work string, torn int, check func(dir string, said []string) error) {
	t.Helper()
	var next, moments, disks atomic.Int64
	seen := make(chan string, 1<<12)
	var group sync.WaitGroup
	for range 6 { // most of the time is spent waiting for the disk
		group.Go(func() {
			for ended := false; !ended; {
				cut := next.Add(1)
				death := powerLife(t, work, int(cut), nil)
				if death == nil {
					return
				}
				ended = death.At == ""
				if !ended {
					moments.Add(1)
				}
				seen <- death.At
				for _, err := range powerLeft(t, death, cut, torn, check) {
					t.Error(err)
				}
				disks.Add(int64(torn) + 2)
			}
		})
	}
	group.Wait()
	close(seen)
	var all strings.Builder
	for at := range seen {
		fmt.Fprintln(&all, at)
	}
	for _, kind := range []string{".wal", "wal-meta.db", "raft/log", "raft/snapshots", "meta.json", "state.bin", ".tmp"} {
		if !strings.Contains(all.String(), kind+"\n") {
			t.Errorf("no sync of %s was cut: the test shows less than it should", kind)
		}
	}
	t.Logf("%d moments, %d disks", moments.Load(), disks.Load())
}

// powerLeft checks what the power may have left.
func powerLeft(t *testing.T, death *power.Death, seed int64, torn int, check func(dir string, said []string) error) (failed []error) {
	t.Helper()
	chance := rand.New(rand.NewPCG(uint64(seed), 1)) //nolint:gosec // not a secret
	left := map[string]func(string) error{"lost": death.Disk.Lost, "kept": death.Disk.Kept}
	for i := range torn {
		left[fmt.Sprint("torn ", i)] = func(dir string) error { return death.Disk.Torn(dir, chance) }
	}
	said := strings.Split(string(bytes.TrimSpace(death.Said)), "\n")
	for _, kind := range slices.Sorted(maps.Keys(left)) {
		dir := filepath.Join(t.TempDir(), "left")
		err := left[kind](dir)
		if err == nil {
			err = check(dir, said)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s, unsynced %s, after %q: %w", death.At, kind, said[len(said)-1], err))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
	return failed
}
