package consensus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/skein-dev/skein/consensus/state"
)

const (
	keepEvery = time.Second // between two writes at least
	keepShare = 20          // and this many times what a write takes, for slow disks
)

// A replicaFile keeps a store on disk. A line says what the file is and which
// selectors the copy was made with; a packed snapshot follows.
type replicaFile struct {
	path   string
	header string
	dirty  chan struct{}      // signalled when the store differs from the file
	began  func() func(error) // told of each write; nil: nobody is
}

func newReplicaFile(path string, selectors []state.Selector) *replicaFile {
	sum := crc32.NewIEEE()
	for _, sel := range selectors {
		fmt.Fprintf(sum, "%q", []string{sel.Kind, sel.Namespace, sel.Index})
	}
	return &replicaFile{
		path:   path,
		header: fmt.Sprintf("skein replica 1 %08x\n", sum.Sum32()),
		dirty:  make(chan struct{}, 1),
	}
}

func (f *replicaFile) changed() {
	select {
	case f.dirty <- struct{}{}:
	default:
	}
}

// load fills the store and reports whether the copy has the selectors that are
// wanted now. No file is no error.
func (f *replicaFile) load(store *state.Store) (sameSelectors bool, err error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	defer file.Close()
	in := bufio.NewReader(file)
	header, err := in.ReadString('\n')
	if err != nil {
		return false, fmt.Errorf("read header: %w", err)
	}
	if len(header) != len(f.header) || header[:16] != f.header[:16] {
		return false, fmt.Errorf("header %q is not that of a replica", header)
	}
	if err := unpackFrom(in, store.Restore); err != nil {
		return false, err
	}
	return header == f.header, nil
}

// keep writes the store whenever it has changed, at most once in keepEvery, and
// once more at the end. Between changes it does nothing.
func (f *replicaFile) keep(ctx context.Context, store *state.Store, log *slog.Logger) {
	failed := false
	write := func() {
		err := f.told(func() error { return f.write(store) })
		if err != nil {
			f.changed() // again later
		}
		if err != nil && !failed {
			log.WarnContext(ctx, "copy not kept on disk", "path", f.path, "err", err)
		}
		failed = err != nil
	}
	for {
		select {
		case <-f.dirty:
		case <-ctx.Done():
			select {
			case <-f.dirty:
				write()
			default:
			}
			return
		}
		begin := time.Now()
		write()
		select {
		case <-time.After(max(keepEvery, keepShare*time.Since(begin))):
		case <-ctx.Done():
		}
	}
}

func (f *replicaFile) told(write func() error) error {
	if f.began == nil {
		return write()
	}
	ended := f.began()
	err := write()
	ended(err)
	return err
}

// write replaces the file by what the store holds, so that after a crash it is
// either the old one or the new one.
func (f *replicaFile) write(store *state.Store) error {
	aside := f.path + ".new"
	file, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := errors.Join(f.fill(file, store), file.Close()); err != nil {
		return errors.Join(err, os.Remove(aside)) // it may be what fills the disk
	}
	if err := os.Rename(aside, f.path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return syncDir(filepath.Dir(f.path))
}

func (f *replicaFile) fill(file *os.File, store *state.Store) error {
	if _, err := io.WriteString(file, f.header); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	if err := packTo(file, store.WriteSnapshot); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
