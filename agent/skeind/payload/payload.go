// Package payload owns the programs and images that skeind carries inside
// itself: runc, the keeper and the demo images. "make payload" builds and
// compresses them into the folder files, which a fresh clone has empty but for
// a placeholder, so that editors and vet need no build. What becomes of them is
// the affair of those who ask.
package payload

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// RuncVersion is that of the runc carried, as go.mod pins it.
const RuncVersion = "1.5.2"

// ErrMissing says that this program was built from a tree in which "make
// payload" never ran.
var ErrMissing = errors.New("this skeind was built without its payloads: run make")

// maxProgram bounds, in bytes, what a carried program unfolds to.
const maxProgram = 64 << 20

//go:embed all:files
var files embed.FS

// Runc returns the static runc program, about 10 MB. Each call unfolds it anew,
// so that nobody holds the memory for longer than it takes to write it.
func Runc() ([]byte, error) { return unfold(files, "runc.zst") }

// Keeper returns the static keeper program, about 2 MB.
func Keeper() ([]byte, error) { return unfold(files, "skeeper.zst") }

// DemoImages returns the archive of the demo images as it is carried: an OCI
// layout tar compressed by zstd, which the image store imports as it stands.
func DemoImages() ([]byte, error) { return read(files, "demo.tar.zst") }

func read(from fs.FS, name string) ([]byte, error) {
	data, err := fs.ReadFile(from, "files/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	return data, err
}

func unfold(from fs.FS, name string) ([]byte, error) {
	data, err := read(from, name)
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxProgram))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	program, err := dec.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("unfold the carried %s: %w", name, err)
	}
	return program, nil
}
