package image

import (
	"fmt"
	"log/slog"
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
