package power

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// content returns what a file has on a disk that was written out, "-" if there
// is none.
func content(t *testing.T, put func(string) error, path string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := put(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil {
		return "-"
	}
	return string(data)
}

func TestOnlyWhatWasSyncedIsSafe(t *testing.T) {
	d := &Disk{root: newDir()}
	file := &node{}
	if err := d.rename("", map[string]*node{"a": file}); err != nil {
		t.Fatal(err)
	}
	d.write(file, 0, []byte("old"))
	expect := func(when, lost, kept string) {
		t.Helper()
		if got := content(t, d.Lost, "a"); got != lost {
			t.Errorf("%s: %q is there if the rest is lost, want %q", when, got, lost)
		}
		if got := content(t, d.Kept, "a"); got != kept {
			t.Errorf("%s: %q is there if all is kept, want %q", when, got, kept)
		}
	}
	expect("written", "-", "old")
	file.sync(d.seq)
	expect("the file is synced, and its name is not", "-", "old")
	d.root.sync(d.seq)
	expect("synced", "old", "old")
	begun := d.seq
	d.write(file, 0, []byte("new"))
	file.sync(begun)
	expect("written since the sync began", "old", "new")
	d.resize(file, 1, true)
	expect("cut", "old", "n")
	if err := d.rename("", map[string]*node{"a": nil, "b": file}); err != nil {
		t.Fatal(err)
	}
	expect("renamed", "old", "-")
	d.root.sync(d.seq)
	expect("the name is synced, and the file is not", "-", "-")
	if got := content(t, d.Lost, "b"); got != "old" {
		t.Errorf("%q has the new name, want what was safe", got)
	}
}

func TestATornWriteKeepsSectorsWhole(t *testing.T) {
	d := &Disk{root: newDir()}
	file := &node{}
	if err := d.rename("", map[string]*node{"a": file}); err != nil {
		t.Fatal(err)
	}
	d.write(file, 0, bytes.Repeat([]byte("o"), 4*sector))
	file.sync(d.seq)
	d.root.sync(d.seq)
	d.write(file, sector/2, bytes.Repeat([]byte("n"), 3*sector))
	chance := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // not a secret
	mixed := 0
	for range 50 {
		got := content(t, func(dir string) error { return d.Torn(dir, chance) }, "a")
		changes := 0
		for i := 1; i < len(got); i++ {
			if got[i] == got[i-1] {
				continue
			}
			changes++
			if at := i % sector; at != 0 && i != sector/2 && i != 3*sector+sector/2 {
				t.Fatalf("a sector is torn at %d", i)
			}
		}
		if len(got) != 4*sector {
			t.Fatalf("%d bytes are left of %d", len(got), 4*sector)
		}
		if changes > 2 {
			mixed++
		}
	}
	if mixed == 0 {
		t.Error("nothing was ever torn in the middle")
	}
}
