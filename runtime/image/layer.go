package image

import (
	"archive/tar"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// An inspector looks at every entry of a layer before anything is made of it.
type inspector struct {
	limits Limits
	root   string // where the layer goes
	n      int
	names  int64 // bytes of names, links and attributes
	bytes  int64 // of files, holes and all
}

const (
	whiteout  = ".wh."
	paxXattr  = "SCHILY.xattr."
	maxXattrs = 64
)

// entry refuses what a layer has no business to hold. It is called with the
// name cleaned; that a name or a link leads out of the root is harmless, as the
// applier keeps both inside, and there is nothing outside.
func (i *inspector) entry(h *tar.Header) (bool, error) {
	i.n++
	i.names += int64(len(h.Name) + len(h.Linkname))
	for k, v := range h.PAXRecords {
		i.names += int64(len(k) + len(v))
	}
	switch {
	case i.n > i.limits.Entries:
		return false, invalid("more than %d entries", i.limits.Entries)
	case i.names > i.limits.NameBytes:
		return false, invalid("more than %d bytes of names and attributes", i.limits.NameBytes)
	case h.Typeflag == tar.TypeXGlobalHeader:
		return false, nil // notes about the tar itself
	case len(h.Name) > i.limits.PathBytes || len(h.Linkname) > i.limits.PathBytes:
		return false, invalid("a name of more than %d bytes", i.limits.PathBytes)
	case strings.ContainsRune(h.Name+h.Linkname, 0):
		return false, invalid("%.200q: a zero byte in a name", h.Name)
	case h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock:
		return false, invalid("%.200q: device nodes are refused", h.Name)
	case h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<31 || int64(h.Gid) > 1<<31:
		return false, invalid("%.200q: owner %d:%d", h.Name, h.Uid, h.Gid)
	}
	if err := whiteoutName(path.Base(h.Name)); err != nil {
		return false, err
	}
	if err := attributes(h); err != nil {
		return false, err
	}
	return true, i.fit(h)
}

// whiteoutName refuses a whiteout of "." or "..": the parent of the root has
// been deleted that way.
func whiteoutName(base string) error {
	if hides, ok := strings.CutPrefix(base, whiteout); ok && (hides == "" || hides == "." || hides == "..") {
		return invalid("%q: no name to hide", base)
	}
	return nil
}

// attributes refuses those that overlay reads as its own orders: where to look
// for a folder or a file's content.
func attributes(h *tar.Header) error {
	n := 0
	for k := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok {
			continue
		}
		if n++; n > maxXattrs {
			return invalid("%.200q: more than %d attributes", h.Name, maxXattrs)
		}
		if strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "user.overlay.") {
			return invalid("%.200q: attribute %.80q is refused", h.Name, name)
		}
	}
	return nil
}

// fit checks that a file may be written. The size counts that the header
// claims, as a sparse one writes more than comes in.
func (i *inspector) fit(h *tar.Header) error {
	if h.Size < 0 || h.Size > i.limits.UnpackedBytes-i.bytes {
		return invalid("unpacks to more than the %d bytes that are allowed", i.limits.UnpackedBytes)
	}
	i.bytes += h.Size
	return i.limits.room(i.root, h.Size)
}

// blame tells the layer's faults from the machine's.
func blame(err error) error {
	var bad *InvalidError
	var room *SpaceError
	switch {
	case errors.As(err, &bad), errors.As(err, &room):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO),
		errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE):
		return err
	}
	return &InvalidError{Err: err}
}
