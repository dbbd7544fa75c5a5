package consensus

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// fillSegment stores entries until one file of the log is full, as several
// batches so that the last one can be torn, and returns the last index.
func fillSegment(t *testing.T, s *Stores) uint64 {
	t.Helper()
	index := uint64(0)
	for size := 0; size < segmentSize; size += 512 << 10 {
		index++
		log := &raft.Log{Index: index, Term: 1, Data: make([]byte, 512<<10)}
		log.Data[0], log.Data[len(log.Data)-1] = byte(index), 0xee
		if err := s.Log.StoreLog(log); err != nil {
			t.Fatal(err)
		}
	}
	return index
}

// goOn checks that the log reaches as far as it should, holds what was written
// and takes more.
func goOn(t *testing.T, dir string, last uint64) {
	t.Helper()
	for range 2 { // the second time from what the first one left
		s, err := OpenStores(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Log.LastIndex(); err != nil || got != last {
			t.Fatalf("log ends at %d (%v), want %d", got, err, last)
		}
		for index := uint64(1); index <= last; index++ {
			var log raft.Log
			if err := s.Log.GetLog(index, &log); err != nil || log.Data[0] != byte(index) {
				t.Fatalf("entry %d: %v", index, err)
			}
		}
		last++
		if err := s.Log.StoreLog(&raft.Log{Index: last, Term: 2, Data: []byte{byte(last), 1}}); err != nil {
			t.Fatalf("entry %d is refused: %v", last, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The state between sealing a segment and noting so is kept apart here by
// putting the old metadata beside the new file.
func TestALogGoesOnAfterARotationThatWasCutShort(t *testing.T) {
	dir := t.TempDir()
	last := halfRotated(t, dir)
	goOn(t, dir, last)
}

func TestALogGoesOnAfterATornSealingWrite(t *testing.T) {
	for name, damage := range map[string]func([]byte, int){
		"payload of the last batch": func(file []byte, at int) { file[at] ^= 0xff },
		"commit mark":               func(file []byte, _ int) { zeroLastFrame(file) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			last := halfRotated(t, dir)
			path := segments(t, dir)[0]
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damage(file, lastMark(file))
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			goOn(t, dir, last-1) // the torn batch was never acknowledged
		})
	}
}

// halfRotated leaves in dir a log whose segment is sealed in its file only, and
// returns its last index.
func halfRotated(t *testing.T, dir string) uint64 {
	t.Helper()
	s, err := OpenStores(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(dir, "log", "wal-meta.db")
	before, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	last := fillSegment(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(meta, before, 0o600); err != nil {
		t.Fatal(err)
	}
	return last
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "log", "*.wal"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no log segments: %v", err)
	}
	return paths
}

// lastMark returns the offset of the last byte of the last entry.
func lastMark(file []byte) int {
	at := len(file) - 1
	for file[at] != 0xee {
		at--
	}
	return at
}

// zeroLastFrame makes the end of the file as if the last 8 bytes that were
// written, the commit mark, had not reached the disk.
func zeroLastFrame(file []byte) {
	end := len(file)
	for file[end-1] == 0 {
		end--
	}
	end = (end + 7) / 8 * 8
	clear(file[end-8 : end])
}
