package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A wreck is a store whose machine went down, with an image of two layers that were
// unpacked, and a root that stands upon them.
type wreck struct {
	t    *testing.T
	dir  string
	from *peer
	desc Descriptor
	want map[string]string // what the image is
}

func newWreck(t *testing.T) *wreck {
	t.Helper()
	lower := layer(t, dir("bin/"), file("bin/demo", "a program"), symlink("bin/link", "demo"), file("gone", "not for long"), file("twice", "one"), hardlink("again", "twice"))
	upper := layer(t, dir("etc/"), file("etc/conf", "a setting"), file(".wh.gone", ""))
	from, desc := source(t, lower, upper)
	w := &wreck{t: t, dir: t.TempDir(), from: from, desc: desc}
	s := open(t, w.dir)
	must(t, s.Fetch(t.Context(), "web:1", desc, from, nil))
	w.want = treeOf(t, mounted(t, s, "first", desc.Digest))
	if w.want["etc/conf"] != "a setting" || w.want["gone"] != "" {
		t.Fatalf("the image is %v", w.want)
	}
	must(t, s.Release(t.Context(), "first"))
	_, err := s.Mounts(t.Context(), "kept", desc.Digest)
	must(t, err)
	must(t, s.Close())
	return w
}

// crash is the machine going down with the store in use.
func (w *wreck) crash() *Store {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, runFile), []byte("an earlier run"), 0o600))
	return open(w.t, w.dir)
}

// find is the one file of the unpacked layers that ends so.
func (w *wreck) find(end string) string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "snapshots/snapshots/*/fs", end))
	must(w.t, err)
	if len(found) != 1 {
		w.t.Fatalf("%s: %v", end, found)
	}
	return found[0]
}

// blob is the file of the image's part of that number: 0 is the configuration.
func (w *wreck) blob(s *Store, part int) string {
	w.t.Helper()
	parts, err := s.Parts(w.t.Context(), w.desc.Digest)
	must(w.t, err)
	return w.blobFile(parts[part].Digest)
}

func (w *wreck) blobFile(digest string) string {
	return filepath.Join(w.dir, "content/blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
}

func (w *wreck) check(s *Store, key string) {
	w.t.Helper()
	if diff := cmp.Diff(w.want, treeOf(w.t, mounted(w.t, s, key, w.desc.Digest))); diff != "" {
		w.t.Errorf("%s (-image +root):\n%s", key, diff)
	}
}

// damage overwrites what is there, of the same length.
func damage(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Chmod(path, 0o600))
	must(t, os.WriteFile(path, make([]byte, info.Size()), 0o600))
	must(t, os.Chmod(path, info.Mode()))
}

func TestWhatAMachineLostIsUnpackedAgain(t *testing.T) {
	losses := map[string]func(w *wreck) error{
		"the end of a file":    func(w *wreck) error { return os.Truncate(w.find("bin/demo"), 3) },
		"what a file contains": func(w *wreck) error { damage(w.t, w.find("bin/demo")); return nil },
		"a file":               func(w *wreck) error { return os.Remove(w.find("etc/conf")) },
		"a mode":               func(w *wreck) error { return os.Chmod(w.find("bin/demo"), 0o600) },
		"an owner":             func(w *wreck) error { return os.Lchown(w.find("bin/link"), 1, 1) },
		"where a link goes": func(w *wreck) error {
			p := w.find("bin/link")
			return errors.Join(os.Remove(p), os.Symlink("other", p))
		},
		"a whiteout":            func(w *wreck) error { return removeWhiteout(w) },
		"one of two names":      func(w *wreck) error { return os.Remove(w.find("again")) },
		"all of a layer":        func(w *wreck) error { return os.RemoveAll(filepath.Dir(w.find("etc/conf"))) },
		"nothing but more came": func(w *wreck) error { return os.WriteFile(w.find("etc/conf")+"2", nil, 0o600) },
		"an attribute more":     func(w *wreck) error { return unix.Setxattr(w.find("etc/conf"), "trusted.x", []byte("y"), 0) },
	}
	for what, lose := range losses {
		t.Run(what, func(t *testing.T) {
			w := newWreck(t)
			must(t, lose(w))
			s := w.crash()
			w.check(s, "new")
			w.check(s, "kept")
			must(t, s.Verify(t.Context()))
			if s.doubts.healed != 1 || s.doubts.lost != 0 {
				t.Errorf("%d layers healed, %d blobs lost", s.doubts.healed, s.doubts.lost)
			}
			must(t, s.Release(t.Context(), "new"))
			must(t, s.Close())
			if s = open(t, w.dir); s.doubts != nil {
				t.Error("in doubt again, after all was verified")
			}
		})
	}
}

func removeWhiteout(w *wreck) error {
	found, err := filepath.Glob(filepath.Join(w.dir, "snapshots/snapshots/*/fs/gone"))
	must(w.t, err)
	for _, path := range found {
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return os.Remove(path)
		}
	}
	return fs.ErrNotExist
}

// Verify finds it before anybody asks for the image.
func TestVerifyHealsInTheBackground(t *testing.T) {
	w := newWreck(t)
	must(t, os.Truncate(w.find("bin/demo"), 0))
	s := w.crash()
	must(t, s.Verify(t.Context()))
	if text, err := os.ReadFile(w.find("bin/demo")); err != nil || string(text) != "a program" {
		t.Errorf("%q, %v", text, err)
	}
	w.check(s, "new")
}

func TestADamagedBlobIsGivenUpAndComesAgain(t *testing.T) {
	for what, path := range map[string]func(w *wreck, s *Store) string{
		"a layer":           func(w *wreck, s *Store) string { return w.blob(s, 2) },
		"the configuration": func(w *wreck, s *Store) string { return w.blob(s, 0) },
		"the manifest":      func(w *wreck, _ *Store) string { return w.blobFile(w.desc.Digest) },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWreck(t)
			s := open(t, w.dir)
			at := path(w, s)
			must(t, s.Close())
			damage(t, at)
			s = w.crash()
			must(t, s.Verify(t.Context()))
			if s.Has(t.Context(), w.desc.Digest) {
				t.Error("the image counts as whole")
			}
			must(t, s.Fetch(t.Context(), "web:1", w.desc, w.from, nil))
			w.check(s, "new")
			w.check(s, "kept")
		})
	}
}

// Neither what was unpacked nor what it came from is right.
func TestALayerAndItsBlobAreDamaged(t *testing.T) {
	w := newWreck(t)
	s := open(t, w.dir)
	blob := w.blob(s, 1)
	must(t, s.Close())
	damage(t, blob)
	damage(t, w.find("bin/demo"))
	s = w.crash()
	if _, err := s.Mounts(t.Context(), "new", w.desc.Digest); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Fatalf("mounts: %v", err)
	}
	if s.Has(t.Context(), w.desc.Digest) {
		t.Error("the image counts as whole")
	}
	must(t, s.Fetch(t.Context(), "web:1", w.desc, w.from, nil))
	w.check(s, "new")
	w.check(s, "kept")
}

// A store that was closed, or whose process alone ended, is not in doubt: what that
// process had written is in the kernel's hands.
func TestOnlyAMachineThatWentDownIsInDoubt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, errors.Join(s.backend.Close(), s.bolt.Close())) // killed
	if s = open(t, dir); s.doubts != nil {
		t.Error("in doubt after a kill")
	}
	must(t, s.Close())
	if s = open(t, dir, func(o *Options) { o.Run = "another" }); s.doubts != nil {
		t.Error("in doubt though it was closed before the machine went down")
	}
	must(t, errors.Join(s.backend.Close(), s.bolt.Close()))
	s = open(t, dir, func(o *Options) { o.Run = "a third" })
	if s.doubts == nil {
		t.Fatal("not in doubt")
	}
	must(t, s.Close()) // before all was verified
	if s = open(t, dir, func(o *Options) { o.Run = "a third" }); s.doubts == nil {
		t.Error("no longer in doubt, though nobody has verified")
	}
	must(t, s.Verify(t.Context()))
	must(t, s.Close())
	if s = open(t, dir, func(o *Options) { o.Run = "a fourth" }); s.doubts != nil {
		t.Error("in doubt again")
	}
}

// A sum is of names and contents alone, wherever they are.
func TestASumIsTheSameElsewhere(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, at := range []string{a, b} {
		must(t, os.Mkdir(filepath.Join(at, "d"), 0o755))
		must(t, os.WriteFile(filepath.Join(at, "d/f"), []byte("text"), 0o600))
		must(t, unix.Setxattr(filepath.Join(at, "d/f"), "trusted.one", []byte("1"), 0))
		must(t, unix.Setxattr(filepath.Join(at, "d/f"), "trusted.two", []byte("2"), 0))
	}
	one, err1 := sumOf(a)
	two, err2 := sumOf(b)
	if must(t, errors.Join(err1, err2)); one != two || !strings.HasPrefix(one, sumForm) {
		t.Errorf("%s and %s", one, two)
	}
}
