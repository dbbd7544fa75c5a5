package image

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// FuzzImport takes in archives: whatever they hold, they are taken or refused,
// and nothing beside the store is touched.
func FuzzImport(f *testing.F) {
	good, _ := simple(f, "docker.io/skein/demo:v1", hello(f))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(gz(f, good))
	f.Add(zst(f, good))
	f.Add(dockerSave(f, []string{"web:1"}, hello(f), hello(f)))
	f.Add(layer(f, file("../index.json", "{}"), symlink("blobs", "/etc"), file("blobs/sha256/"+"a", "x")))
	f.Add(layer(f, file("index.json", `{"manifests":[{"digest":"sha256:../../x","size":-1}]}`)))
	top := f.TempDir()
	s, err := Open(Options{
		Dir: filepath.Join(top, "store"), UnpackCommand: []string{"/bin/false"}, Logger: slog.New(slog.DiscardHandler),
		Limits: Limits{ImageBytes: 8 << 20, Entries: 1000, JSONBytes: 1 << 20, KeepFree: -1},
	})
	must(f, err)
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := s.Import(t.Context(), bytes.NewReader(data))
		if err == nil && len(list) == 0 {
			t.Error("an archive without an image was taken without a word")
		}
		for _, i := range list {
			if !s.Has(t.Context(), i.Digest) {
				t.Errorf("%s was imported, and is not there", i.Reference)
			}
		}
		beside, err := os.ReadDir(top)
		must(t, err)
		if len(beside) != 1 {
			t.Fatalf("beside the store there is %v", beside)
		}
	})
}
