package transfer

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree lists what is below a folder: names, modes, links, what files hold.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(at, dir) + " " + info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			line += " " + info.ModTime().String() + " " + string(text)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(at)
			if err != nil {
				return err
			}
			line += " " + to
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhatIsPackedIsUnpackedTheSame(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	for path, text := range map[string]string{"a": "one", "sub/b": strings.Repeat("\x00\xff\n", 1000), "sub/deep/er/c": ""} {
		at := filepath.Join(from, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o604); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"dangling": "/no/such", "up": "../../..", "sub/near": "b"} {
		if err := os.Symlink(to, filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	c := &copier{}
	if err := c.pack(&b, from); err != nil || c.entries != 10 {
		t.Fatalf("packed %d, %v", c.entries, err)
	}
	whole := b.Bytes()
	to := filepath.Join(dir, "to")
	if err := (&copier{}).unpack(bytes.NewReader(whole), to, false); err != nil {
		t.Fatal(err)
	}
	if want, got := tree(t, from), tree(t, to); !slices.Equal(want, got) {
		t.Errorf("went in\n%q\ncame out\n%q", want, got)
	}
	// Once more, over what is there: it is a folder now, so it goes into it.
	if err := (&copier{}).unpack(bytes.NewReader(whole), to, false); err != nil {
		t.Fatal(err)
	}
	if want, got := tree(t, from), tree(t, filepath.Join(to, "from")); !slices.Equal(want, got) {
		t.Errorf("into a folder\n%q\ncame out\n%q", want, got)
	}
	for cut := range []int{1, 512, len(whole) / 2} {
		if err := (&copier{}).unpack(bytes.NewReader(whole[:cut+1]), filepath.Join(dir, "cut"), false); err == nil {
			t.Errorf("an archive that is cut at %d was taken for whole", cut+1)
		}
	}
}

// Whatever a tar holds, nothing outside the folder changes.
func FuzzUnpack(f *testing.F) {
	seed := func(headers ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			_ = w.WriteHeader(&h)
		}
		_ = w.Close()
		f.Add(b.Bytes())
	}
	seed(tar.Header{Name: "../canary", Typeflag: tar.TypeReg, Mode: 0o644})
	seed(tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "a/canary", Typeflag: tar.TypeReg, Mode: 0o644})
	seed(tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../canary"}, tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644})
	seed(tar.Header{Name: ".", Typeflag: tar.TypeDir, Mode: 0}, tar.Header{Name: "..", Typeflag: tar.TypeDir, Mode: 0})
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		canary, box := filepath.Join(dir, "canary"), filepath.Join(dir, "box")
		if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(box, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = (&copier{}).unpack(bytes.NewReader(archive), box, true) // it may refuse
		text, err := os.ReadFile(canary)
		left, _ := os.ReadDir(dir)
		info, _ := os.Stat(dir)
		if err != nil || string(text) != "alive" || len(left) != 2 || info.Mode().Perm() != 0o755 {
			t.Fatalf("outside: %q, %v, %v, %s", text, err, left, info.Mode())
		}
	})
}

func TestCopiesAreBounded(t *testing.T) {
	c := &copier{entries: maxEntries}
	if err := c.count(1); err == nil {
		t.Error("no end of files")
	}
	c = &copier{bytes: maxBytes - 1}
	if err := c.count(2); err == nil {
		t.Error("no end of bytes")
	}
	if err := (&copier{}).count(-1); err == nil {
		t.Error("a negative size")
	}
	for range 3 * maxNotices {
		c.notice("x")
	}
	if len(c.notices) != maxNotices+1 || !strings.Contains(c.notices[maxNotices], "40 more") {
		t.Errorf("%d notices, the last %q", len(c.notices), c.notices[len(c.notices)-1])
	}
}
