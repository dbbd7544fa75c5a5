package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Limits of what is taken from a container, which may show what has no end.
const (
	maxEntries = 1 << 20
	maxDepth   = 256
	maxName    = 4095 // bytes
)

// readable says whether there is something to copy.
func readable(from string) error {
	if _, err := os.Lstat(from); err != nil {
		return unreadable(err)
	}
	return nil
}

// A packer writes a tar of what is here.
type packer struct {
	out  *tar.Writer
	warn func(string)
}

// pack writes a file or folder, whose name in the tar is its last element. Links
// stay links.
func (p *packer) pack(w io.Writer, from string) error {
	whole, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	base := filepath.Base(whole)
	if base == string(filepath.Separator) || base == "." {
		base = "root"
	}
	p.out = tar.NewWriter(w)
	err = filepath.WalkDir(whole, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return unreadable(err)
		}
		below, err := filepath.Rel(whole, at)
		if err != nil {
			return err
		}
		return p.add(at, path.Join(base, filepath.ToSlash(below)))
	})
	return errors.Join(err, p.out.Close())
}

func (p *packer) add(at, name string) error {
	info, err := os.Lstat(at)
	if err != nil {
		return unreadable(err)
	}
	link := ""
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		if link, err = os.Readlink(at); err != nil {
			return unreadable(err)
		}
		link = filepath.ToSlash(link)
	case !mode.IsRegular() && !mode.IsDir():
		p.warn(name + " is a device, a pipe or a socket")
		return nil
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", "" // whose they are here means nothing there
	if info.IsDir() {
		h.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return p.out.WriteHeader(h)
	}
	f, err := os.Open(at)
	if err != nil {
		return unreadable(err)
	}
	defer f.Close()
	if err := p.out.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(p.out, f, h.Size)
	if errors.Is(err, io.EOF) {
		return failed("", "%s shrank while it was copied, at byte %d", at, n)
	}
	return err
}

// unpack puts what a container has sent where the person wants it, and nothing
// anywhere else: the tar is the container's, and so may be a trap.
func unpack(r io.Reader, to string, warn func(string)) error {
	dir, first := filepath.Dir(to), filepath.Base(to)
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		dir, first = to, ""
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return unreadable(err)
	}
	defer func() { _ = root.Close() }() // nothing is left to write
	u := &unpacker{root: root, first: first, warn: warn, in: tar.NewReader(r)}
	for range maxEntries {
		h, err := u.in.Next()
		if errors.Is(err, io.EOF) {
			return u.settle()
		}
		if err != nil {
			return err
		}
		if err := u.entry(h); err != nil {
			return err
		}
	}
	return failed("copy parts of it", "the container sends more than %d files", maxEntries)
}

// An unpacker makes files below one folder, which os.Root sees to.
type unpacker struct {
	root    *os.Root
	first   string // stands in the place of the first element of each name; empty: leave it
	warn    func(string)
	in      *tar.Reader
	folders []tar.Header // whose times are set last
}

// place is where an entry goes, or an error where its name is no name.
func (u *unpacker) place(name string) (string, error) {
	clean := path.Clean(name)
	if len(name) > maxName || path.IsAbs(name) || !filepath.IsLocal(filepath.FromSlash(clean)) || strings.Count(clean, "/") > maxDepth {
		return "", failed("", "the container sent a file of the name %.80q, which was not made", name)
	}
	if u.first != "" {
		_, rest, _ := strings.Cut(clean, "/")
		clean = path.Join(u.first, rest)
	}
	return filepath.FromSlash(clean), nil
}

func (u *unpacker) entry(h *tar.Header) error {
	name, err := u.place(h.Name)
	if err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode & 0o777) //nolint:gosec // nine bits
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(name, 0o700|mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		h.Name = name
		u.folders = append(u.folders, *h)
		return nil
	case tar.TypeReg:
		return u.file(h, name, mode)
	case tar.TypeSymlink:
		// One that leads out would have a later program write there.
		to := path.Join(path.Dir(filepath.ToSlash(name)), h.Linkname)
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(filepath.FromSlash(to)) || u.leaves(to) {
			u.warn(fmt.Sprintf("%s is a link that leads out of the folder: %s", h.Name, h.Linkname))
			return nil
		}
		if err := u.clear(name); err != nil {
			return err
		}
		return u.root.Symlink(filepath.FromSlash(h.Linkname), name)
	}
	u.warn(h.Name + " is neither file, folder nor link")
	return nil
}

// leaves says whether a link to a path would lead out of what is copied, to what
// else lies in the folder.
func (u *unpacker) leaves(to string) bool {
	return u.first != "" && to != u.first && !strings.HasPrefix(to, u.first+"/")
}

func (u *unpacker) clear(name string) error {
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (u *unpacker) file(h *tar.Header, name string, mode fs.FileMode) error {
	if info, err := u.root.Lstat(name); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		if err := u.clear(name); err != nil { // written to, a link would lead elsewhere, and a pipe wait
			return err
		}
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, u.in)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// settle gives folders their modes and times, which what was put in them has
// changed.
func (u *unpacker) settle() error {
	var errs []error
	for i := len(u.folders) - 1; i >= 0; i-- {
		h := u.folders[i]
		errs = append(errs, u.root.Chmod(h.Name, fs.FileMode(h.Mode&0o777)), u.root.Chtimes(h.Name, h.ModTime, h.ModTime)) //nolint:gosec // nine bits
	}
	return errors.Join(errs...)
}
