package image

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// One more root file system of an image that is unpacked: it stands between a
// Pod's assignment and its process.
func BenchmarkMounts(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir(), UnpackCommand: unpackCommand(b), Logger: slog.New(slog.DiscardHandler)})
	must(b, err)
	defer s.Close()
	archive, d := simple(b, "web:1", hello(b), layer(b, file("v", "1")))
	load(b, s, archive)
	_, err = s.Mounts(b.Context(), "first", d)
	must(b, err)
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Mounts(b.Context(), fmt.Sprint("k", n), d); err != nil {
			b.Fatal(err)
		}
	}
}

// What was unpacked is read once when it is unpacked, and again when a machine that
// went down is back: 300 MB in 1,000 files.
func BenchmarkSum(b *testing.B) {
	const size = 300 << 10
	dir := b.TempDir()
	text := make([]byte, size)
	for i := range 1000 {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), text, 0o600))
	}
	b.SetBytes(1000 * size)
	for b.Loop() {
		if _, err := sumOf(dir); err != nil {
			b.Fatal(err)
		}
	}
}
