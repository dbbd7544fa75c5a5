package transfer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// pack writes a tar of what is at a path, a link itself and not where it leads.
// The names in it begin with the last element of the path.
func (c *copier) pack(w io.Writer, at string) error {
	at = path.Clean("/" + at)
	name, base := path.Base(at), path.Base(at)
	if at == "/" {
		name, base = ".", "root"
	}
	parent, err := unix.Open(path.Dir(at), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not in the container", at)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(parent)
	out := tar.NewWriter(w)
	if err := c.add(out, parent, name, base, 0); err != nil {
		if errors.Is(err, fs.ErrNotExist) && c.entries == 0 {
			return fmt.Errorf("%s is not in the container", at)
		}
		return err
	}
	return out.Close()
}

// add packs one entry of an open folder and all that is in it. Each element is
// opened below the one before, so what is swapped meanwhile is seen as it was or
// as it is, and never through a link.
func (c *copier) add(out *tar.Writer, dir int, name, as string, depth int) error {
	if depth > maxDepth || len(as) > maxName {
		return fmt.Errorf("%.100s…: too deep, or too long a name", as)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: as, Err: err}
	}
	h := &tar.Header{
		Name: as, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX,
		ModTime: timeOf(st.Mtim),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.addFile(out, h, dir, name, &st)
	case unix.S_IFDIR:
		return c.addFolder(out, h, dir, name, depth)
	case unix.S_IFLNK:
		to := make([]byte, maxName+1)
		n, err := unix.Readlinkat(dir, name, to)
		if err != nil || n > maxName {
			return &fs.PathError{Op: "readlink", Path: as, Err: errors.Join(err, errIf(n > maxName, "too long"))}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(to[:n])
		if err := c.count(0); err != nil {
			return err
		}
		return out.WriteHeader(h)
	}
	c.notice("%s: is a device, a pipe or a socket", as)
	return nil
}

func errIf(bad bool, text string) error {
	if bad {
		return errors.New(text)
	}
	return nil
}

// addFolder packs a folder and what is in it.
func (c *copier) addFolder(out *tar.Writer, h *tar.Header, dir int, name string, depth int) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return c.pass(h.Name, err, depth == 0)
	}
	f := os.NewFile(uintptr(fd), h.Name) //nolint:gosec // a descriptor is not negative
	defer f.Close()
	as := h.Name
	h.Typeflag, h.Name = tar.TypeDir, as+"/"
	if err := c.count(0); err != nil {
		return err
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	var names []string
	for {
		some, err := f.Readdirnames(4096)
		if names = append(names, some...); len(names) > maxEntries {
			return errTooMany
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c.pass(as, err, false)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if err := c.add(out, fd, n, as+"/"+n, depth+1); err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // gone since it was listed
				return err
			}
		}
	}
	return nil
}

// pass leaves out what cannot be read, unless it is what was asked for.
func (c *copier) pass(as string, err error, fatal bool) error {
	if fatal || errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "open", Path: as, Err: err}
	}
	c.notice("%s: %v", as, err)
	return nil
}

// addFile packs a regular file: as many bytes as it had when it was opened. A
// file that grows has no end, and one that shrinks is filled with zeroes.
func (c *copier) addFile(out *tar.Writer, h *tar.Header, dir int, name string, st *unix.Stat_t) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return c.pass(h.Name, err, !strings.Contains(h.Name, "/"))
	}
	f := os.NewFile(uintptr(fd), h.Name) //nolint:gosec // a descriptor is not negative
	defer f.Close()
	if err := unix.Fstat(fd, st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		c.notice("%s: became another kind of file", h.Name)
		return nil // told
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := c.count(h.Size); err != nil {
		return err
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(out, f, h.Size)
	if n == h.Size {
		return nil
	}
	var broken *fs.PathError // of the file; what out says is for the caller
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &broken) {
		return err
	}
	c.notice("%s: shrank, or could not be read, at byte %d; the rest is zeroes", h.Name, n)
	_, err = io.CopyN(out, zeroes{}, h.Size-n)
	return err
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
