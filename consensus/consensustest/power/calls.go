package power

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A call is a system call that may change what lies below the root.
type call struct {
	path string            // relative to the root
	sync bool              // of path
	nth  int               // of the syncs, if it is one
	done func(int64) error // with what it returned, if it did not fail
}

// begun returns nil for calls that change nothing below the root.
func (t *tracer) begun(pid int, number uint64, args [6]uint64) (*call, error) {
	switch number {
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		return t.syncing(pid, args)
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE:
		return t.writing(pid, number, args)
	case unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return t.naming(pid, number, args)
	case unix.SYS_MMAP:
		if args[2]&unix.PROT_WRITE == 0 || args[3]&unix.MAP_SHARED == 0 || int32(args[4]) < 0 { //nolint:gosec // a descriptor is an int
			return nil, nil
		}
		return t.strange(pid, number, args[4])
	case unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2:
		return t.strange(pid, number, args[0])
	case unix.SYS_COPY_FILE_RANGE:
		return t.strange(pid, number, args[2])
	case unix.SYS_SENDFILE:
		return t.strange(pid, number, args[0])
	case unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_TRUNCATE:
		return nil, fmt.Errorf("system call %d is not modelled", number)
	}
	return nil, nil //nolint:nilnil // as most are
}

func (t *tracer) strange(pid int, number, fd uint64) (*call, error) {
	path, err := t.file(pid, fd)
	if err == nil && path != "" {
		err = fmt.Errorf("system call %d on %s is not modelled", number, path)
	}
	return nil, err
}

// file returns the path of an open file, relative to the root, or "" if it is
// elsewhere or deleted.
func (t *tracer) file(pid int, fd uint64) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd))) //nolint:gosec // a descriptor is an int
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // the call will fail
	}
	if err != nil {
		return "", fmt.Errorf("look at a descriptor: %w", err)
	}
	return t.below(path), nil
}

func (t *tracer) below(path string) string {
	rel, err := filepath.Rel(t.life.Root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") || strings.HasSuffix(rel, " (deleted)") {
		return ""
	}
	return rel
}

func (t *tracer) syncing(pid int, args [6]uint64) (*call, error) {
	path, err := t.file(pid, args[0])
	if err != nil || path == "" {
		return nil, err
	}
	n, seq := t.disk.find(path), t.disk.seq
	if n == nil {
		return nil, fmt.Errorf("sync of %s, which is not known", path)
	}
	return &call{path: path, sync: true, done: func(int64) error {
		if t.life.Skip == nil || !t.life.Skip(path) {
			n.sync(seq)
		}
		return nil
	}}, nil
}

func (t *tracer) writing(pid int, number uint64, args [6]uint64) (*call, error) {
	path, err := t.file(pid, args[0])
	if err != nil || path == "" {
		return nil, err
	}
	n := t.disk.find(path)
	if n == nil {
		return nil, fmt.Errorf("write to %s, which is not known", path)
	}
	off := int64(args[3]) //nolint:gosec // an offset in a file
	switch number {
	case unix.SYS_FTRUNCATE:
		return &call{path: path, done: func(int64) error {
			t.disk.resize(n, int64(args[1]), true) //nolint:gosec // a size of a file
			return nil
		}}, nil
	case unix.SYS_FALLOCATE:
		if args[1] != 0 {
			return nil, fmt.Errorf("fallocate of %s with mode %#x is not modelled", path, args[1])
		}
		return &call{path: path, done: func(int64) error {
			t.disk.resize(n, int64(args[2]+args[3]), false) //nolint:gosec // a size of a file
			return nil
		}}, nil
	case unix.SYS_WRITE:
		if off, err = position(pid, args[0], n.size); err != nil {
			return nil, err
		}
	}
	return &call{path: path, done: func(written int64) error {
		data, err := memory(pid, args[1], int(written))
		if err == nil && written > 0 {
			t.disk.write(n, off, data)
		}
		return err
	}}, nil
}

// position returns where the next write to a descriptor goes.
func position(pid int, fd uint64, size int64) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return 0, fmt.Errorf("look at a descriptor: %w", err)
	}
	var pos, flags int64
	if _, err := fmt.Sscanf(string(raw), "pos:\t%d\nflags:\t%o\n", &pos, &flags); err != nil {
		return 0, fmt.Errorf("look at a descriptor: %w", err)
	}
	if flags&unix.O_APPEND != 0 {
		pos = size
	}
	return pos, nil
}

func (t *tracer) naming(pid int, number uint64, args [6]uint64) (*call, error) {
	path, err := t.path(pid, args[0], args[1])
	if err != nil || path == "" {
		return nil, err
	}
	dir, name := filepath.Dir(path), filepath.Base(path)
	c := &call{path: path}
	switch number {
	case unix.SYS_OPENAT:
		c.done = func(int64) error { return t.opened(path, args[2]) }
	case unix.SYS_MKDIRAT:
		c.done = func(int64) error { return t.disk.rename(dir, map[string]*node{name: newDir()}) }
	case unix.SYS_UNLINKAT:
		c.done = func(int64) error { return t.disk.rename(dir, map[string]*node{name: nil}) }
	default:
		to, err := t.path(pid, args[2], args[3])
		if err != nil {
			return nil, err
		}
		if filepath.Dir(to) != dir || number == unix.SYS_RENAMEAT2 && args[4] != 0 {
			return nil, fmt.Errorf("rename of %s to %q is not modelled", path, to)
		}
		c.done = func(int64) error {
			return t.disk.rename(dir, map[string]*node{name: nil, filepath.Base(to): t.disk.find(path)})
		}
	}
	return c, nil
}

func (t *tracer) opened(path string, flags uint64) error {
	n := t.disk.find(path)
	if n == nil && flags&unix.O_CREAT != 0 {
		return t.disk.rename(filepath.Dir(path), map[string]*node{filepath.Base(path): {}})
	}
	if n != nil && flags&unix.O_TRUNC != 0 && n.size > 0 {
		t.disk.resize(n, 0, true)
	}
	return nil
}

// path returns the path that a call names, relative to the root, or "".
func (t *tracer) path(pid int, dir, at uint64) (string, error) {
	raw, err := memory(pid, at, unix.PathMax)
	if err != nil {
		return "", err
	}
	raw, _, ended := bytes.Cut(raw, []byte{0})
	if !ended {
		return "", errors.New("a path of " + strconv.Itoa(len(raw)) + " bytes has no end")
	}
	path := string(raw)
	if filepath.IsAbs(path) || int32(dir) == unix.AT_FDCWD { //nolint:gosec // a descriptor is an int
		return t.below(path), nil // the program's own directory is elsewhere
	}
	base, err := t.file(pid, dir)
	if err != nil || base == "" {
		return "", err
	}
	return filepath.Join(base, path), nil
}

// memory returns so many bytes of the process at most: fewer where its memory
// ends.
func memory(pid int, at uint64, most int) ([]byte, error) {
	data := make([]byte, most)
	if most == 0 {
		return data, nil
	}
	// A page at a time at the end, as the next may not be there.
	for got := 0; got < most; {
		length := min(most-got, 4096-int((at+uint64(got))%4096)) //nolint:gosec // small
		if most != unix.PathMax {
			length = most - got
		}
		local := []unix.Iovec{{Base: &data[got]}}
		local[0].SetLen(length)
		n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(at) + uintptr(got), Len: length}}, 0)
		if err != nil {
			if got > 0 {
				return data[:got], nil
			}
			return nil, fmt.Errorf("read the program's memory: %w", err)
		}
		got += n
		if most == unix.PathMax && bytes.IndexByte(data[got-n:got], 0) >= 0 {
			return data[:got], nil
		}
	}
	return data, nil
}
