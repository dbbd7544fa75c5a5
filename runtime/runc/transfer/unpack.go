package transfer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func timeOf(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }

// unpack unpacks a tar at a path: all of it in the folder that it names, or one
// file or folder there or, where no folder is there, as that path itself.
func (c *copier) unpack(r io.Reader, at string, archive bool) error {
	at = path.Clean("/" + at)
	dir, first := at, ""
	info, err := os.Stat(at) // through links: they lead nowhere but in here
	switch {
	case err == nil && info.IsDir():
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case archive && err != nil:
		if err := os.MkdirAll(at, 0o755); err != nil { //nolint:gosec // a folder of the container's own
			return err
		}
	case archive:
		return fmt.Errorf("%s is not a folder", at)
	default:
		dir, first = path.Dir(at), path.Base(at)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // nothing is left to write
	in := tar.NewReader(r)
	u := &unpacker{copier: c, root: root, first: first, archive: archive, in: in}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return u.settle()
		}
		if err != nil {
			return fmt.Errorf("read the tar: %w", err)
		}
		if err := u.entry(h); err != nil {
			return err
		}
	}
}

// An unpacker puts entries below one folder. It follows links only where they
// stay below it.
type unpacker struct {
	*copier
	root    *os.Root
	first   string // stands in the place of the first element of each name
	archive bool
	in      *tar.Reader
	folders []*tar.Header // whose times and modes are set last
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header) error {
	if err := u.count(h.Size); err != nil {
		return err
	}
	name, err := u.place(h.Name)
	if err != nil {
		return err
	}
	if dir := path.Dir(name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	mode := fs.FileMode(h.Mode & 0o777) //nolint:gosec // nine bits
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(h, name, mode)
	case tar.TypeDir:
		if name != "." {
			if err := u.root.Mkdir(name, 0o700|mode); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			folder := *h
			folder.Name = name
			u.folders = append(u.folders, &folder)
		}
		return nil
	case tar.TypeSymlink:
		return u.link(name, func() error { return u.root.Symlink(h.Linkname, name) })
	case tar.TypeLink:
		to, err := u.place(h.Linkname)
		if err != nil {
			return err
		}
		return u.link(name, func() error { return u.root.Link(to, name) })
	}
	u.notice("%s: is a device or a pipe", h.Name)
	return nil
}

// place is where an entry goes.
func (u *unpacker) place(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("%.100s…: too long a name", name)
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%q: not a name", name)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%q leads out of the folder", name)
	}
	if strings.Count(clean, "/") > maxDepth {
		return "", fmt.Errorf("%.100s…: too deep", name)
	}
	if u.first == "" {
		return clean, nil
	}
	_, rest, _ := strings.Cut(clean, "/")
	return path.Join(u.first, rest), nil
}

// file writes a new file aside the old one, if there is one, whose links and
// open descriptors stay what they are.
func (u *unpacker) file(h *tar.Header, name string, mode fs.FileMode) error {
	aside := path.Join(path.Dir(name), fmt.Sprintf(".skein-cp-%d-%d", os.Getpid(), u.entries))
	f, err := u.root.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, u.in)
	// What was set for another user's program must not run as this one's.
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = u.root.Chtimes(aside, h.ModTime, h.ModTime)
	}
	if err == nil {
		err = u.root.Rename(aside, name)
	}
	if err != nil {
		return errors.Join(err, u.root.Remove(aside))
	}
	return nil
}

// link makes a link in the place of what is there, unless that is a folder.
func (u *unpacker) link(name string, put func() error) error {
	err := put()
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := u.root.Remove(name); err != nil {
		return err
	}
	return put()
}

// settle gives folders their modes and times, which what was put in them has
// changed.
func (u *unpacker) settle() error {
	var errs []error
	for i := len(u.folders) - 1; i >= 0; i-- {
		h := u.folders[i]
		errs = append(errs, u.mode(h.Name, fs.FileMode(h.Mode&0o777)), u.root.Chtimes(h.Name, h.ModTime, h.ModTime)) //nolint:gosec // nine bits
	}
	return errors.Join(errs...)
}

// mode sets that of a folder. It opens the folder: to do so by name without
// following a link takes Linux 6.6.
func (u *unpacker) mode(name string, mode fs.FileMode) error {
	f, err := u.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Close())
}
