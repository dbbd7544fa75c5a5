package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLayersBecomeOneRoot(t *testing.T) {
	setuid := file("usr/bin/su", "su")
	setuid.Mode, setuid.Uid = 0o4755, 7
	private := dir("data/private/")
	private.Mode = 0o700
	capable := file("usr/bin/ping", "ping")
	tests := map[string]struct {
		layers [][]byte
		want   map[string]string
	}{
		"no layers": {nil, map[string]string{}},
		"links inside": {
			[][]byte{layer(t, dir("usr/"), dir("usr/bin/"), file("usr/bin/demo", "x"), symlink("bin", "/usr/bin"), hardlink("usr/bin/same", "usr/bin/demo"), symlink("up", "../../../usr"))},
			map[string]string{"usr": "dir", "usr/bin": "dir", "usr/bin/demo": "x", "usr/bin/same": "x", "bin": "-> /usr/bin", "up": "-> ../../../usr"},
		},
		"a later layer writes through an absolute link of its own": {
			[][]byte{layer(t, dir("usr/bin/"), symlink("bin", "/usr/bin"), file("bin/tool", "t"))},
			map[string]string{"usr": "dir", "usr/bin": "dir", "usr/bin/tool": "t", "bin": "-> /usr/bin"},
		},
		"parents that nobody wrote down": {
			[][]byte{layer(t, file("a/b/c", "deep"))},
			map[string]string{"a": "dir", "a/b": "dir", "a/b/c": "deep"},
		},
		"a whiteout hides a file of a lower layer": {
			[][]byte{layer(t, file("a", "1"), file("b", "2")), layer(t, file(".wh.a", ""))},
			map[string]string{"b": "2"},
		},
		"a whiteout hides a folder": {
			[][]byte{layer(t, file("d/a", "1"), file("d/b", "2")), layer(t, file(".wh.d", ""))},
			map[string]string{},
		},
		"an opaque folder hides what is below it alone": {
			[][]byte{layer(t, file("d/old", "1"), file("keep", "k")), layer(t, dir("d/"), file("d/.wh..wh..opq", ""), file("d/new", "2"))},
			map[string]string{"d": "dir", "d/new": "2", "keep": "k"},
		},
		"a file takes the place of a folder": {
			[][]byte{layer(t, file("x/y", "1")), layer(t, file("x", "now a file"))},
			map[string]string{"x": "now a file"},
		},
		"the same layer three times": {
			[][]byte{layer(t, file("a", "1")), layer(t, file("b", "2")), layer(t, file("b", "2")), layer(t, file("b", "2"))},
			map[string]string{"a": "1", "b": "2"},
		},
		"modes and owners": {
			[][]byte{layer(t, setuid, private, capable), layer(t, file("data/private/note", "n"))},
			map[string]string{"usr": "dir", "usr/bin": "dir", "usr/bin/su": "su", "usr/bin/ping": "ping", "data": "dir", "data/private": "dir", "data/private/note": "n"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			archive, d := simple(t, "web:1", tt.layers...)
			load(t, s, archive)
			root := mounted(t, s, "k", d)
			if diff := cmp.Diff(tt.want, treeOf(t, root)); diff != "" {
				t.Errorf("root (-want +got):\n%s", diff)
			}
			if name != "modes and owners" {
				return
			}
			su, err := os.Stat(filepath.Join(root, "usr/bin/su"))
			must(t, err)
			if st := su.Sys().(*syscall.Stat_t); su.Mode() != 0o755|os.ModeSetuid || st.Uid != 7 {
				t.Errorf("su has mode %v and owner %d, want setuid 0755 and 7", su.Mode(), st.Uid)
			}
			// The upper layer only wrote into this folder, and must not have opened it.
			if p, err := os.Stat(filepath.Join(root, "data/private")); err != nil || p.Mode().Perm() != 0o700 {
				t.Errorf("data/private: %v, %v, want mode 0700", p.Mode(), err)
			}
		})
	}
}

// Every hostile layer is unpacked with a canary beside and above everything of
// the store, which must not change, whether the layer is refused or tamed.
func TestHostileLayersTouchNothingOutside(t *testing.T) {
	overlay := file("d", "")
	overlay.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/../../etc"}
	owner := file("o", "")
	owner.Uid, owner.Format, owner.PAXRecords = -1, tar.FormatGNU, nil
	tests := map[string]struct {
		layers [][]byte
		want   string // what the refusal says; empty if the layer is tamed
		root   map[string]string
	}{
		"a name that leads up":     {[][]byte{layer(t, file("../../../../../../../canary", "gotcha"))}, "", map[string]string{"canary": "gotcha"}},
		"an absolute name":         {[][]byte{layer(t, file("/canary", "gotcha"))}, "", map[string]string{"canary": "gotcha"}},
		"through an absolute link": {[][]byte{layer(t, symlink("l", "/"), file("l/canary", "gotcha"))}, "", map[string]string{"l": "-> /", "canary": "gotcha"}},
		"through a relative link": {
			[][]byte{layer(t, symlink("l", "../../../../../.."), file("l/canary", "gotcha"))},
			"",
			map[string]string{"l": "-> ../../../../../..", "canary": "gotcha"},
		},
		"through a link of a lower layer": {
			[][]byte{layer(t, symlink("l", "/lower/0")), layer(t, dir("lower/"), dir("lower/0/"), file("l/canary", "gotcha"))},
			"",
			map[string]string{"l": "dir", "l/canary": "gotcha", "lower": "dir", "lower/0": "dir"},
		},
		"a hard link to a file outside":        {[][]byte{layer(t, hardlink("h", "/etc/passwd"))}, "no such file", nil},
		"a hard link up":                       {[][]byte{layer(t, hardlink("h", "../../../../../etc/passwd"))}, "no such file", nil},
		"a hard link through a link":           {[][]byte{layer(t, symlink("e", "/etc"), hardlink("h", "e/passwd"))}, "no such file", nil},
		"a link replaced by a folder":          {[][]byte{layer(t, symlink("l", "/etc"), dir("l/"), file("l/canary", "in"))}, "", map[string]string{"l": "dir", "l/canary": "in"}},
		"a whiteout of the parent":             {[][]byte{layer(t, file(".wh...", ""))}, "no name to hide", nil},
		"a whiteout of the parent from above":  {[][]byte{layer(t, file("a", "")), layer(t, file("d/.wh...", ""))}, "no name to hide", nil},
		"a whiteout of itself":                 {[][]byte{layer(t, file("d/.wh..", ""))}, "no name to hide", nil},
		"a whiteout of nothing":                {[][]byte{layer(t, file(".wh.", ""))}, "no name to hide", nil},
		"a whiteout through a link":            {[][]byte{layer(t, symlink("l", "/"), file("l/.wh.canary", ""))}, "", map[string]string{"l": "-> /"}},
		"a device":                             {[][]byte{layer(t, entry{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666})}, "device nodes are refused", nil},
		"a whiteout device of overlay's own":   {[][]byte{layer(t, entry{Name: "etc", Typeflag: tar.TypeChar})}, "device nodes are refused", nil},
		"an order to overlay":                  {[][]byte{layer(t, overlay)}, "is refused", nil},
		"nobody's number":                      {[][]byte{layer(t, owner)}, "owner -1:0", nil},
		"a name of many bytes":                 {[][]byte{layer(t, file(strings.Repeat("a/", 3000)+"f", ""))}, "a name of more than", nil},
		"a long part of a name":                {[][]byte{layer(t, file(strings.Repeat("a", 300), ""))}, "too long", nil},
		"a file through a file":                {[][]byte{layer(t, file("f", ""), file("f/g", ""))}, "not a directory", nil},
		"a hard link as a folder":              {[][]byte{layer(t, dir("d/"), hardlink("h", "d"))}, "not permitted", nil},
		"a whiteout of what its layer brought": {[][]byte{layer(t, file("z", "")), layer(t, file("a", "1"), file(".wh.a", ""))}, "file exists", nil},
		"no tar":                               {[][]byte{bytes.Repeat([]byte("junk "), 400)}, "invalid tar header", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			must(t, os.WriteFile(filepath.Join(top, "canary"), []byte("alive"), 0o600))
			s := open(t, filepath.Join(top, "store"))
			archive, d := simple(t, "evil:1", tt.layers...)
			load(t, s, archive)
			mounts, err := s.Mounts(t.Context(), "k", d)
			var refused *InvalidError
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want == "":
				if diff := cmp.Diff(tt.root, treeOf(t, mountAt(t, mounts))); diff != "" {
					t.Errorf("root (-want +got):\n%s", diff)
				}
			case !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want):
				t.Errorf("got error %v, want an InvalidError that says %q", err, tt.want)
			}
			if data, err := os.ReadFile(filepath.Join(top, "canary")); err != nil || string(data) != "alive" {
				t.Errorf("the canary: %q, %v", data, err)
			}
			names, err := filepath.Glob(filepath.Join(top, "*"))
			must(t, err)
			if len(names) != 2 {
				t.Errorf("beside the store stands %q", names)
			}
			if tt.want != "" {
				must(t, s.Remove(t.Context(), "evil:1"))
				must(t, s.Collect(t.Context()))
				if left := snapshotsOf(t, s); len(left) > 0 {
					t.Errorf("left of a refused image: %v", left)
				}
			}
		})
	}
}

func TestALayerThatUnpacksToTooMuchIsStopped(t *testing.T) {
	zero := func(n int) []byte {
		return layer(t, entry{Name: "zeros", Typeflag: tar.TypeReg, Size: int64(n), Mode: 0o644, PAXRecords: map[string]string{"SKEIN.text": string(make([]byte, n))}})
	}
	many := func(n int) []byte {
		var list []entry
		for i := range n {
			list = append(list, dir(fmt.Sprintf("d%06d/", i)))
		}
		return layer(t, list...)
	}
	tests := map[string]struct {
		limits Limits
		pack   func(testing.TB, []byte) []byte
		layers [][]byte
		want   string
	}{
		"by its ratio in gzip":  {Limits{}, gz, [][]byte{zero(66 << 20)}, "more than 250 times its size"},
		"by its ratio in zstd":  {Limits{}, zst, [][]byte{zero(66 << 20)}, "more than 250 times its size"},
		"by its size":           {Limits{UnpackedBytes: 1 << 20}, asIs, [][]byte{zero(2 << 20)}, "more than the 1048576 bytes"},
		"by the sum of layers":  {Limits{UnpackedBytes: 3 << 20}, asIs, [][]byte{zero(2 << 20), zero(2<<20 + 1)}, "layer 2 of 2"},
		"by its entries":        {Limits{Entries: 100}, asIs, [][]byte{many(101)}, "more than 100 entries"},
		"by its names":          {Limits{NameBytes: 500}, asIs, [][]byte{many(101)}, "bytes of names"},
		"by a size it claims":   {Limits{}, asIs, [][]byte{claim(t, 1<<50)}, "unpacks to more"},
		"by holes it claims":    {Limits{UnpackedBytes: 1 << 30}, asIs, [][]byte{sparse(t, 1<<40)}, "unpacks to more"},
		"cut short after a lie": {Limits{}, asIs, [][]byte{claim(t, 1<<20)}, "unexpected EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), func(o *Options) { o.Limits = tt.limits })
			big := s.opt.Limits // the archive is let through: the layers are what is tried
			s.opt.Limits.Entries, s.opt.Limits.UnpackedBytes = 1000, 64<<30
			b := newBuilder(t)
			d := b.image(runtime.GOARCH, tt.pack, nil, tt.layers...)
			load(t, s, b.layout(map[string]ocispec.Descriptor{"bomb:1": d}))
			s.opt.Limits = big
			_, err := s.Mounts(t.Context(), "k", d.Digest.String())
			var refused *InvalidError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want an InvalidError that says %q", err, tt.want)
			}
			if left := snapshotsOf(t, s); len(left) > len(tt.layers)-1 {
				t.Errorf("left of the bomb: %v", left)
			}
		})
	}
}

// claim is a layer whose one file says it has n bytes, and has none.
func claim(t testing.TB, n int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	must(t, tar.NewWriter(&buf).WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: n, Mode: 0o644, Format: tar.FormatGNU}))
	return buf.Bytes()
}

// sparse is a layer whose one file is a hole of n bytes, in GNU's first format.
func sparse(t testing.TB, n int64) []byte {
	t.Helper()
	data := layer(t, entry{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatGNU})
	h := data[:512]
	h[156] = tar.TypeGNUSparse
	put := func(at int, v int64) { // base 256
		clear(h[at : at+12])
		h[at] = 0x80
		for i := range 8 {
			h[at+11-i] = byte(v >> (8 * i))
		}
	}
	put(386, n) // one piece of no bytes, at the end
	put(398, 0)
	put(483, n)
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

func TestALayerThatIsNotWhatItsImageSaysIsRefused(t *testing.T) {
	s := open(t, t.TempDir())
	b := newBuilder(t)
	d := b.image(runtime.GOARCH, gz, func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = digest.FromString("another") }, hello(t))
	load(t, s, b.layout(map[string]ocispec.Descriptor{"web:1": d}))
	_, err := s.Mounts(t.Context(), "k", d.Digest.String())
	var refused *InvalidError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "and its image says") {
		t.Errorf("got error %v, want an InvalidError about the digest", err)
	}
}

func TestAnUnpackingProcessThatDiesLeavesNothing(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.UnpackCommand = []string{"/bin/sh", "-c", "echo gone wrong >&2; kill -9 $$"} })
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	_, err := s.Mounts(t.Context(), "k", d)
	if err == nil || !strings.Contains(err.Error(), "killed") || !strings.Contains(err.Error(), "gone wrong") {
		t.Errorf("got error %v, want one with the signal and what was said", err)
	}
	if left := snapshotsOf(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.opt.UnpackCommand = unpackCommand(t)
	if _, err := s.Mounts(t.Context(), "k", d); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}
