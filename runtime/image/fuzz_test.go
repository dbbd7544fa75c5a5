package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
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

// FuzzLayer unpacks layers, as the confined process does, upon a lower one. Whatever
// they hold, nothing changes but the folder they go to, and that no more than the
// limits say. It happens in a file system of its own, which is the root meanwhile: a
// layer that got out would find a canary there, and nothing of the machine.
func FuzzLayer(f *testing.F) {
	overlay := file("d", "")
	overlay.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/../../etc"}
	for _, seed := range [][]byte{
		hello(f), layer(f, file("../../canary", "x")), layer(f, symlink("l", "/"), file("l/canary", "x")), layer(f, symlink("l", "../.."), hardlink("h", "l/canary")),
		layer(f, file(".wh.low", ""), file("dir/.wh..wh..opq", "")), layer(f, file(".wh...", "")), layer(f, file("l/.wh.canary", "")), layer(f, overlay),
		layer(f, entry{Name: "dev", Typeflag: tar.TypeBlock}, entry{Name: "fifo", Typeflag: tar.TypeFifo}), layer(f, dir(strings.Repeat("a/", 300))),
		gz(f, hello(f)), zst(f, hello(f)), layer(f, dir("dir/"), symlink("dir", "/lower/0"), file("dir/low", "changed")),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlock: the thread's root is another one
			done <- unpackAlone(data)
		}()
		must(t, <-done)
	})
}

// unpackAlone puts the thread into a root of its own and unpacks a layer there. It
// returns what must not be.
func unpackAlone(data []byte) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("fuzz", "/mnt", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=16m,mode=700"); err != nil {
		return err
	}
	if err := errors.Join(unix.Chroot("/mnt"), unix.Chdir("/"), unix.Mkdir(upperDir, 0o755), os.MkdirAll("/lower/0/dir", 0o755)); err != nil {
		return err
	}
	for _, path := range []string{"/canary", "/lower/0/low", "/lower/0/dir/low"} {
		if err := os.WriteFile(path, []byte("alive"), 0o600); err != nil {
			return err
		}
	}
	limits := Limits{UnpackedBytes: 1 << 20, Entries: 200, JSONBytes: 1 << 20, KeepFree: -1}.withDefaults()
	_, err := applyLayer(bytes.NewReader(data), upperDir, []string{"/lower/0"}, digest.FromString("never"), limits)
	if err == nil {
		return errors.New("a layer of another digest was taken")
	}
	for _, path := range []string{"/canary", "/lower/0/low", "/lower/0/dir/low"} {
		if text, err := os.ReadFile(path); err != nil || string(text) != "alive" {
			return fmt.Errorf("%s: %q, %w", path, text, err)
		}
	}
	for dir, want := range map[string]int{"/": 3, "/lower": 1, "/lower/0": 2, "/lower/0/dir": 1} {
		if list, err := os.ReadDir(dir); err != nil || len(list) != want {
			return fmt.Errorf("%s has %v, %w", dir, list, err)
		}
	}
	entries := 0
	return filepath.WalkDir(upperDir, func(path string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err := cmp.Or(err, unix.Lstat(path, &st)); err != nil {
			return err
		}
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFBLK || kind == unix.S_IFCHR && st.Rdev != 0 {
			return fmt.Errorf("%s is a device", path)
		}
		if entries++; entries > 200*100 { // folders on the way to an entry are made too
			return fmt.Errorf("%d entries of 200", entries)
		}
		return nil
	})
}
