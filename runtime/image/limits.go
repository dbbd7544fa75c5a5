package image

import (
	"cmp"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNotFound says that this machine has no such image, name or blob.
var ErrNotFound = errors.New("not on this machine")

// An InvalidError refuses an image, an archive or a peer's answer for what it
// is: damaged, hostile, past a limit or for another platform. Trying again with
// the same bytes is in vain.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }
func (e *InvalidError) Unwrap() error { return e.Err }

func invalid(format string, args ...any) error {
	return &InvalidError{Err: fmt.Errorf(format, args...)}
}

// A SpaceError says that keeping something would leave the disk with too little.
type SpaceError struct {
	Need, Free, Keep int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%d MiB needed, %d MiB free, of which %d MiB are kept free", e.Need>>20, e.Free>>20, e.Keep>>20)
}

// Limits bound what an image, an archive or a peer may make this machine hold
// or read. A zero field takes its default.
type Limits struct {
	ImageBytes    int64 `json:"imageBytes"`    // all blobs of one image or archive as they are kept; 32 GiB
	UnpackedBytes int64 `json:"unpackedBytes"` // all layers of one image, unpacked; 64 GiB
	Ratio         int64 `json:"ratio"`         // unpacked to packed, past the first 64 MiB unpacked; 250
	Entries       int   `json:"entries"`       // of one layer or archive; 400,000
	NameBytes     int64 `json:"nameBytes"`     // names, links and attributes of one layer together; 128 MiB
	PathBytes     int   `json:"pathBytes"`     // one name or link; 4096
	JSONBytes     int64 `json:"jsonBytes"`     // one index, manifest or configuration; 4 MiB
	Layers        int   `json:"layers"`        // of one image; 127
	Manifests     int   `json:"manifests"`     // of one index or archive; 256
	KeepFree      int64 `json:"keepFree"`      // of the disk; 256 MiB, negative: none
}

func (l Limits) withDefaults() Limits {
	return Limits{
		ImageBytes:    cmp.Or(l.ImageBytes, 32<<30),
		UnpackedBytes: cmp.Or(l.UnpackedBytes, 64<<30),
		Ratio:         cmp.Or(l.Ratio, 250),
		Entries:       cmp.Or(l.Entries, 400_000),
		NameBytes:     cmp.Or(l.NameBytes, 128<<20),
		PathBytes:     cmp.Or(l.PathBytes, 4096),
		JSONBytes:     cmp.Or(l.JSONBytes, 4<<20),
		Layers:        cmp.Or(l.Layers, 127),
		Manifests:     cmp.Or(l.Manifests, 256),
		KeepFree:      cmp.Or(l.KeepFree, 256<<20),
	}
}

// ratioFrom is how much may come out of a compressed stream before its ratio
// says anything: a layer of zeros packs a thousand to one, and may be meant.
const ratioFrom = 64 << 20

// keepInodes is how many inodes are left to others on file systems that count them.
const keepInodes = 4096

// room fails with a *SpaceError unless need bytes fit into the file system at
// dir beside what is kept free.
func (l Limits) room(dir string, need int64) error {
	if l.KeepFree < 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for room in %s: %w", dir, err)
	}
	free := int64(min(st.Bavail, 1<<40)) * st.Bsize //nolint:gosec // bounded by the line itself
	if need+l.KeepFree > free {
		return &SpaceError{Need: need, Free: free, Keep: l.KeepFree}
	}
	if st.Files > 0 && st.Ffree < keepInodes {
		return fmt.Errorf("only %d inodes are left in %s", st.Ffree, dir)
	}
	return nil
}
