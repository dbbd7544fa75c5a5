package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// DefaultReserve is what is kept free for the agent alone, in bytes, where
	// the disk is not so small that reserveShare of it is less.
	DefaultReserve = 64 << 20
	reserveShare   = 32

	reserveFile = ".reserve"
	probeFile   = ".probe"
)

// A folder is the medium that holds a folder of this machine.
type folder struct {
	dir        string
	have, want atomic.Uint64
}

// Folder returns the medium that holds dir, which is there. A file system in
// memory gets no reserve: it would be memory.
func Folder(dir string) (Medium, error) {
	f := &folder{dir: dir}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return nil, fmt.Errorf("measure the disk of %s: %w", dir, err)
	}
	if kind := int64(stat.Type); kind != unix.TMPFS_MAGIC && kind != unix.RAMFS_MAGIC { //nolint:unconvert // 32 bits wide on some systems
		f.want.Store(min(DefaultReserve, stat.Blocks*uint64(stat.Bsize)/reserveShare)) //nolint:gosec // a block size
	}
	if info, err := os.Stat(f.path(reserveFile)); err == nil {
		f.have.Store(min(uint64(info.Size()), f.want.Load())) //nolint:gosec // a size
	}
	if err := os.Remove(f.path(probeFile)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return nil, fmt.Errorf("remove an old probe: %w", err)
	}
	return f, nil
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// Space asks the file system, which answers from memory.
func (f *folder) Space() (free uint64, readOnly bool, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(f.dir, &stat); err != nil {
		return 0, false, fmt.Errorf("measure the disk of %s: %w", f.dir, err)
	}
	return stat.Bavail * uint64(stat.Bsize), stat.Flags&unix.ST_RDONLY != 0, nil //nolint:gosec // a block size
}

// Probe goes the whole way: a new file, its bytes, its name.
func (f *folder) Probe() (err error) {
	file, err := os.OpenFile(f.path(probeFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("probe the disk: %w", err)
	}
	_, err = file.Write(make([]byte, 4096))
	if err = errors.Join(err, file.Sync(), file.Close(), os.Remove(file.Name())); err != nil {
		return fmt.Errorf("probe the disk: %w", err)
	}
	return nil
}

func (f *folder) Reserve() (have, want uint64) { return f.have.Load(), f.want.Load() }

// MakeReserve takes blocks and writes nothing to them. Where that is not
// possible no reserve is wanted any more.
func (f *folder) MakeReserve() error {
	want := f.want.Load()
	file, err := os.OpenFile(f.path(reserveFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the reserve: %w", err)
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, int64(want)) //nolint:gosec // 64 MB at most
	if errors.Is(err, unix.EOPNOTSUPP) {
		f.want.Store(0)
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		f.have.Store(0)
		return errors.Join(fmt.Errorf("make the reserve: %w", err), os.Remove(file.Name()))
	}
	f.have.Store(want)
	return nil
}

// FreeReserve returns when others can have the room: a journal gives it free
// with its next commit.
func (f *folder) FreeReserve() error {
	if err := os.Remove(f.path(reserveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("free the reserve: %w", err)
	}
	f.have.Store(0)
	dir, err := os.Open(f.dir)
	if err != nil {
		return fmt.Errorf("free the reserve: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("free the reserve: %w", err)
	}
	return nil
}
