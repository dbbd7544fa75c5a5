package power

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const sector = 512 // bytes that a disk writes whole

// A Disk is what lies below a directory, as far as it is safe and as far as it
// is not.
type Disk struct {
	root *node
	seq  int // of changes
}

// A node is a file or a directory.
type node struct {
	dir bool

	names, safeNames map[string]*node // of a directory
	renamed          []naming         // not synced, oldest first

	size    int64 // of a file, as the process sees it
	safe    []byte
	written []write // not synced, oldest first
}

// A naming is a change to a directory; a nil node is a name that goes.
type naming struct {
	seq   int
	names map[string]*node
}

// A write puts data at an offset, or, with no data, gives the file a size.
type write struct {
	seq  int
	off  int64
	data []byte
	cut  bool // the size may be smaller than it was
}

func newDir() *node {
	return &node{dir: true, names: make(map[string]*node), safeNames: make(map[string]*node)}
}

// find returns what is at a path relative to the root, nil if nothing is.
func (d *Disk) find(path string) *node {
	n := d.root
	for _, name := range strings.Split(path, "/") {
		if name == "." || name == "" {
			continue
		}
		if n == nil || !n.dir {
			return nil
		}
		n = n.names[name]
	}
	return n
}

// rename changes names in one directory, all at once.
func (d *Disk) rename(dir string, names map[string]*node) error {
	n := d.find(dir)
	if n == nil || !n.dir {
		return fmt.Errorf("no directory %q is known", dir)
	}
	d.seq++
	n.renamed = append(n.renamed, naming{d.seq, names})
	apply(n.names, names)
	return nil
}

func apply(to, changes map[string]*node) {
	for name, n := range changes {
		if n == nil {
			delete(to, name)
		} else {
			to[name] = n
		}
	}
}

func (d *Disk) write(n *node, off int64, data []byte) {
	d.seq++
	n.written = append(n.written, write{seq: d.seq, off: off, data: data})
	n.size = max(n.size, off+int64(len(data)))
}

func (d *Disk) resize(n *node, size int64, cut bool) {
	d.seq++
	n.written = append(n.written, write{seq: d.seq, off: size, cut: cut})
	if cut || size > n.size {
		n.size = size
	}
}

// sync makes safe what n had when the sync began, before change seq.
func (n *node) sync(seq int) {
	for len(n.renamed) > 0 && n.renamed[0].seq <= seq {
		apply(n.safeNames, n.renamed[0].names)
		n.renamed = n.renamed[1:]
	}
	for len(n.written) > 0 && n.written[0].seq <= seq {
		n.safe = n.written[0].to(n.safe, nil)
		n.written = n.written[1:]
	}
}

// to returns the content after the write; chance, if any, tears it.
func (w write) to(content []byte, chance func() bool) []byte {
	if chance == nil {
		chance = func() bool { return true }
	}
	if w.data == nil {
		switch size := int(w.off); {
		case !chance():
		case size > len(content):
			content = append(content, make([]byte, size-len(content))...)
		case w.cut:
			content = content[:size:size]
		}
		return content
	}
	for from := 0; from < len(w.data); {
		at := int(w.off) + from
		end := min(len(w.data), from+sector-at%sector)
		if chance() {
			if missing := at + end - from - len(content); missing > 0 {
				content = append(content, make([]byte, missing)...)
			}
			copy(content[at:], w.data[from:end])
		}
		from = end
	}
	return content
}

// Lost writes to dir, which it makes, what is there if the disk had written
// nothing that it need not.
func (d *Disk) Lost(dir string) error {
	return d.root.put(dir, func(int) int { return 0 }, func() func() bool { return func() bool { return false } })
}

// Kept writes to dir what is there if the disk had written all.
func (d *Disk) Kept(dir string) error {
	return d.root.put(dir, func(n int) int { return n }, func() func() bool { return nil })
}

// Torn writes to dir what is there if the disk had written some of it.
func (d *Disk) Torn(dir string, chance *rand.Rand) error {
	// Where all sectors are alike in chance, hardly a write of many is whole.
	each := func() func() bool {
		share := []float64{0, 0.1, 0.5, 0.9, 1}[chance.IntN(5)]
		return func() bool { return chance.Float64() < share }
	}
	return d.root.put(dir, func(n int) int { return chance.IntN(n + 1) }, each)
}

// put writes n to path: a number of the changes to the names of each directory,
// and of each write to a file the sectors that its own chance keeps.
func (n *node) put(path string, renames func(of int) int, each func() func() bool) error {
	if !n.dir {
		content := append([]byte(nil), n.safe...)
		for _, w := range n.written {
			content = w.to(content, each())
		}
		return os.WriteFile(path, content, 0o600) //nolint:wrapcheck // for a test, which says more
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err //nolint:wrapcheck // for a test, which says more
	}
	names := maps.Clone(n.safeNames)
	for _, change := range n.renamed[:renames(len(n.renamed))] {
		apply(names, change.names)
	}
	for _, name := range sorted(names) {
		if err := names[name].put(filepath.Join(path, name), renames, each); err != nil {
			return err
		}
	}
	return nil
}
