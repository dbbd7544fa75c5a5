package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// sumForm begins a sum, so that another way to make them is told apart.
const sumForm = "1:"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf says in one line what a folder holds: names, kinds, modes, owners, sizes,
// links, extended attributes, and the CRC-32C of what files contain. It finds what
// a disk has lost, and is no defence against who can write there: only root can.
func sumOf(dir string) (string, error) {
	out := summer{all: sha256.New(), buf: make([]byte, 128<<10)}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return out.add(path, path[len(dir):])
	})
	if err != nil {
		return "", err
	}
	return sumForm + hex.EncodeToString(out.all.Sum(nil)), nil
}

type summer struct {
	all hash.Hash
	buf []byte
}

func (s *summer) add(path, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	size, links := st.Size, st.Nlink
	if kind == unix.S_IFDIR {
		size, links = 0, 0 // the file system's own business
	}
	fmt.Fprintf(s.all, "%q %o %d %d %d %d %d", name, st.Mode, st.Uid, st.Gid, size, links, st.Rdev)
	switch kind {
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.all, " %q", to)
	case unix.S_IFREG:
		sum, err := s.content(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.all, " %08x", sum)
	}
	if err := s.attributes(path); err != nil {
		return err
	}
	s.all.Write([]byte{'\n'})
	return nil
}

func (s *summer) content(path string) (uint32, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum := uint32(0)
	for {
		n, err := f.Read(s.buf)
		sum = crc32.Update(sum, castagnoli, s.buf[:n])
		if err == io.EOF {
			return sum, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// attributes adds the extended ones, in order. Those of the machine's own security
// module are its to change.
func (s *summer) attributes(path string) error {
	n, err := unix.Llistxattr(path, s.buf)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	if n == 0 {
		return nil
	}
	var names []string
	for name := range bytes.SplitSeq(bytes.TrimRight(s.buf[:n], "\x00"), []byte{0}) {
		if text := string(name); text != "security.selinux" && text != "security.evm" && text != "security.ima" {
			names = append(names, text)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, s.buf)
		if err != nil {
			return &fs.PathError{Op: "lgetxattr", Path: path, Err: err}
		}
		fmt.Fprintf(s.all, " %q=%x", name, s.buf[:n])
	}
	return nil
}
