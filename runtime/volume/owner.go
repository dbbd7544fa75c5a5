package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skein-dev/skein/runtime/disk"

	"golang.org/x/sys/unix"
)

// What a group may do to the files of a volume, and to its folders beside.
const (
	writableBits = 0o660
	readableBits = 0o440
	folderBits   = fs.ModeSetgid | 0o110
)

// own gives all of a volume to a group, and lets what is made in it later be the
// group's too. Links are not followed: a container may have made them.
func own(dir string, o Owner, bits fs.FileMode) error {
	if o.Group <= 0 {
		return nil
	}
	if o.OnMismatch {
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err == nil && int64(st.Gid) == o.Group && st.Mode&uint32(bits) == uint32(bits) && st.Mode&unix.S_ISGID != 0 {
			return nil
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // nothing was written to it
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a container has removed it meanwhile
		}
		if err != nil {
			return err
		}
		return ignoreGone(ownOne(root, filepath.FromSlash(path), e.Type(), o.Group, bits))
	})
}

func ownOne(root *os.Root, path string, kind fs.FileMode, group int64, bits fs.FileMode) error {
	if kind&fs.ModeSymlink != 0 {
		return root.Lchown(path, -1, int(group))
	}
	if !kind.IsDir() && !kind.IsRegular() {
		return nil // a socket or a pipe, of whoever made it
	}
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chown(-1, int(group)); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mode := info.Mode() | bits
	if info.IsDir() {
		mode |= folderBits
	}
	return f.Chmod(mode)
}

// ignoreGone passes over what a container has removed or swapped for a link
// between two looks at it.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}

// Used is how many bytes of disk a volume takes, at most entries of which are
// looked at; more of them count as more than any limit.
func (s *Store) Used(pod, name string, entries int) (bytes int64, over bool, err error) {
	if err := plainName(pod, name); err != nil {
		return 0, false, err
	}
	return disk.Used(filepath.Join(s.cfg.StateDir, pod, name), entries)
}
