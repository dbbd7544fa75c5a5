package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Used is how many bytes of its disk a folder takes, which is a stranger's to write
// to meanwhile. No link is followed out of it. At most so many entries are looked
// at: over says that there are more. A folder that is missing takes nothing.
func Used(dir string, entries int) (bytes int64, over bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, false, ignoreGone(err)
	}
	defer func() { _ = root.Close() }() // nothing was written to it
	seen := map[[2]uint64]bool{}
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		if entries--; entries < 0 {
			over = true
			return fs.SkipAll
		}
		info, err := root.Lstat(filepath.FromSlash(path))
		if err != nil {
			return ignoreGone(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if key := [2]uint64{uint64(st.Dev), st.Ino}; st.Nlink > 1 && !info.IsDir() { //nolint:unconvert // differs by platform
			if seen[key] {
				return nil
			}
			seen[key] = true
		}
		bytes += st.Blocks * 512
		return nil
	})
	return bytes, over, err
}

// ignoreGone passes over what was removed or swapped for a link between two looks
// at it.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
