package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"
)

func TestEverythingIsThereAfterReopening(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	before, err := s.Mounts(t.Context(), "root-1", d)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(upper(t, s, "root-1"), "written"), []byte("by the container"), 0o600))
	must(t, s.Close())

	s = open(t, folder)
	if !s.Has(t.Context(), d) {
		t.Error("the image has gone")
	}
	after, err := s.Mounts(t.Context(), "root-1", d)
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("mounts (-before +after):\n%s", diff)
	}
	if got := treeOf(t, mountAt(t, after))["written"]; got != "by the container" {
		t.Errorf("what the container wrote is %q", got)
	}
	keys, err := s.Snapshots(t.Context())
	must(t, err)
	if diff := cmp.Diff([]string{"root-1"}, keys); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
}

func upper(t *testing.T, s *Store, key string) string {
	t.Helper()
	m, err := s.snapshots.Mounts(s.context(t.Context()), key)
	must(t, err)
	up, _, err := folders(m)
	must(t, err)
	return up
}

func TestWhatAKilledProcessLeftHalfDoneGoesAtTheNextStart(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	ctx, _, err := s.lease(s.context(t.Context())) // never released
	must(t, err)
	_, err = s.snapshots.Prepare(ctx, unpackPrefix+"sha256:half", "")
	must(t, err)
	_, err = s.write(ctx, strings.NewReader("nobody's"), 8, "")
	must(t, err)
	must(t, s.Close())

	s = open(t, folder)
	if left := snapshotsOf(t, s); len(left) > 0 {
		t.Errorf("left of an unpacking: %v", left)
	}
	if n := len(blobsOf(t, s)); n != 3 {
		t.Errorf("%d blobs are on the disk, want the image's 3", n)
	}
	if _, err := s.Mounts(t.Context(), "k", d); err != nil {
		t.Errorf("the image does not unpack: %v", err)
	}
}

func TestAStoreIsOpenedOnce(t *testing.T) {
	folder := t.TempDir()
	open(t, folder)
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v, want mode 0700", info.Mode(), err)
	}
	if _, err := Open(Options{Dir: "relative"}); err == nil {
		t.Error("a relative folder was taken")
	}
	if _, err := Open(Options{Dir: filepath.Join(folder, "a,b")}); err == nil || !strings.Contains(err.Error(), "comma") {
		t.Errorf("a folder with a comma: error %v", err)
	}
}

func TestOneImageAskedForManyTimesAtOnceIsUnpackedOnce(t *testing.T) {
	s := open(t, t.TempDir())
	base := hello(t)
	// Two images share their lowest layer.
	one, first := simple(t, "web:1", base, layer(t, file("v", "1")))
	two, second := simple(t, "web:2", base, layer(t, file("v", "2")))
	load(t, s, one)
	load(t, s, two)
	spawned := filepath.Join(t.TempDir(), "spawned")
	s.opt.UnpackCommand = append([]string{"/bin/sh", "-c", `echo x >> ` + spawned + `; exec "$@"`, "sh"}, unpackCommand(t)...)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, err := s.Mounts(t.Context(), fmt.Sprint("root-", i), []string{first, second}[i%2]); err != nil {
				t.Errorf("mounts: %v", err)
			}
		})
	}
	all.Wait()
	data, err := os.ReadFile(spawned)
	must(t, err)
	if n := strings.Count(string(data), "x"); n != 3 {
		t.Errorf("%d layers were unpacked, want 3", n)
	}
	if got := treeOf(t, mounted(t, s, "root-1", second))["v"]; got != "2" {
		t.Errorf("v is %q, want 2", got)
	}
}

func TestRootsOfOneImageDoNotSeeEachOther(t *testing.T) {
	s := open(t, t.TempDir())
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	a, b := mounted(t, s, "a", d), mounted(t, s, "b", d)
	must(t, os.WriteFile(filepath.Join(a, "bin/demo"), []byte("changed"), 0o600))
	if got := treeOf(t, b)["bin/demo"]; got != "a program" {
		t.Errorf("the other root holds %q", got)
	}
}

func TestAKeyBelongsToOneImage(t *testing.T) {
	s := open(t, t.TempDir())
	one, first := simple(t, "web:1", hello(t))
	two, second := simple(t, "web:2", layer(t, file("v", "2")))
	load(t, s, one)
	load(t, s, two)
	_, err := s.Mounts(t.Context(), "k", first)
	must(t, err)
	if _, err := s.Mounts(t.Context(), "k", second); err == nil || !strings.Contains(err.Error(), first) {
		t.Errorf("another image under the same key: error %v", err)
	}
	for _, key := range []string{"", unpackPrefix + "x", strings.Repeat("k", 600)} {
		if _, err := s.Mounts(t.Context(), key, first); err == nil {
			t.Errorf("key %.20q was taken", key)
		}
	}
	tree, err := s.known(t.Context(), first)
	must(t, err)
	if err := s.Release(t.Context(), tree.config.diffs[0].String()); err == nil {
		t.Error("an unpacked layer was released like a root")
	}
	if err := s.Release(t.Context(), "never heard of"); err != nil {
		t.Errorf("releasing what is not there: %v", err)
	}
}

func TestTheLastOneOutFreesTheDisk(t *testing.T) {
	s := open(t, t.TempDir())
	archive, d := simple(t, "web:1", hello(t), layer(t, file("v", "1")))
	load(t, s, archive)
	_, err := s.Mounts(t.Context(), "k", d)
	must(t, err)

	must(t, s.Remove(t.Context(), "web:1"))
	must(t, s.Collect(t.Context()))
	if _, err := s.Resolve(t.Context(), "web:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the name after its removal: %v", err)
	}
	if !s.Has(t.Context(), d) {
		t.Error("an image in use went with its name")
	}
	if _, err := s.Mounts(t.Context(), "k2", d); err != nil {
		t.Errorf("a restart of its container: %v", err)
	}
	must(t, s.Release(t.Context(), "k"))
	must(t, s.Release(t.Context(), "k2"))
	if left := append(blobsOf(t, s), snapshotsOf(t, s)...); len(left) > 0 {
		t.Errorf("left on the disk: %v", left)
	}
	if err := s.Remove(t.Context(), "web:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removing twice: error %v, want %v", err, ErrNotFound)
	}
	load(t, s, archive)
	if _, err := s.Mounts(t.Context(), "k", d); err != nil {
		t.Errorf("the image come again: %v", err)
	}
}

func TestManyReleasesAtOnceFreeEverything(t *testing.T) {
	s := open(t, t.TempDir())
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	for i := range 30 {
		_, err := s.Mounts(t.Context(), fmt.Sprint("k", i), d)
		must(t, err)
	}
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			if err := s.Release(t.Context(), fmt.Sprint("k", i)); err != nil {
				t.Errorf("release: %v", err)
			}
		})
	}
	all.Wait()
	if left := snapshotsOf(t, s); len(left) != 1 {
		t.Errorf("on the disk are %v, want the image's one layer", left)
	}
}

func TestAnUnusedImageKeepsItsUnpackedLayers(t *testing.T) {
	s := open(t, t.TempDir())
	archive, d := simple(t, "web:1", hello(t), layer(t, file("v", "1")))
	load(t, s, archive)
	_, err := s.Mounts(t.Context(), "k", d)
	must(t, err)
	must(t, s.Release(t.Context(), "k"))
	must(t, s.Collect(t.Context()))
	n := 0
	must(t, s.snapshots.Walk(s.context(t.Context()), func(context.Context, snapshots.Info) error { n++; return nil }))
	if n != 2 {
		t.Errorf("%d snapshots are left, want the image's 2", n)
	}
	s.opt.UnpackCommand = []string{"/bin/false"}
	if _, err := s.Mounts(t.Context(), "k2", d); err != nil {
		t.Errorf("mounts of an unpacked image: %v", err)
	}
}

func TestCollectingAllTheWhileLosesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	var archives [][]byte
	var digests []string
	base := random(t, "base", 50_000)
	for i := range 6 {
		a, d := simple(t, fmt.Sprintf("web:%d", i), base, layer(t, file("v", fmt.Sprint(i))))
		archives, digests = append(archives, a), append(digests, d)
	}
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := s.Collect(t.Context()); err != nil {
					t.Errorf("collect: %v", err)
				}
			}
		}
	})
	var all sync.WaitGroup
	for i := range archives {
		all.Go(func() {
			load(t, s, archives[i])
			if _, err := s.Mounts(t.Context(), fmt.Sprint("k", i), digests[i]); err != nil {
				t.Errorf("mounts of image %d: %v", i, err)
			}
		})
	}
	all.Wait()
	close(stop)
	collector.Wait()
	for i, d := range digests {
		if got := treeOf(t, mounted(t, s, fmt.Sprint("k", i), d))["v"]; got != fmt.Sprint(i) {
			t.Errorf("image %d holds %q", i, got)
		}
	}
}
