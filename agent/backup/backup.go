// Package backup keeps snapshots of the cluster in a directory: one every so
// often, the newest few of them. What a snapshot holds is for whoever writes it.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config says where, how often and how many. All fields are required.
type Config struct {
	Dir   string
	Every time.Duration
	Keep  int
	// Index tells how far the objects are, and whether this node's copy is good
	// to be kept now. Nothing is written while the index stays what it was.
	Index  func() (index uint64, ok bool)
	Write  func(ctx context.Context, w io.Writer) error
	Logger *slog.Logger
}

// A Keeper keeps snapshots.
type Keeper struct {
	cfg  Config
	log  *slog.Logger
	last uint64 // index of the one written last
}

// New returns a keeper; Run makes it work.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, log: cfg.Logger.With("component", "backup")}
}

const (
	prefix = "skein-"
	suffix = ".snap"
	aside  = ".new" // of a snapshot that is being written
)

// Run writes snapshots until ctx ends. One that cannot be written, on a disk that
// is full for example, is tried again when the next is due; those that are there
// stay until there is a newer one.
func (k *Keeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(k.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if err := k.once(ctx, now); err != nil && ctx.Err() == nil {
				k.log.Error("no snapshot written", "dir", k.cfg.Dir, "err", err)
			}
		}
	}
}

func (k *Keeper) once(ctx context.Context, now time.Time) error {
	index, ok := k.cfg.Index()
	if !ok || index == k.last {
		return nil
	}
	if err := os.MkdirAll(k.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of snapshots: %w", err)
	}
	name := prefix + now.UTC().Format("20060102T150405Z") + suffix
	if err := k.write(ctx, filepath.Join(k.cfg.Dir, name)); err != nil {
		return err
	}
	k.last = index
	k.log.Info("snapshot written", "file", name, "index", index)
	return k.prune()
}

// write makes a file whole or not at all, and leaves no half one on a full disk.
func (k *Keeper) write(ctx context.Context, path string) (err error) {
	file, err := os.OpenFile(path+aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path+aside))
		}
	}()
	err = k.cfg.Write(ctx, file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	if err = os.Rename(path+aside, path); err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	dir, err := os.Open(k.cfg.Dir)
	if err != nil {
		return nil // it is there; that it may not outlive a power cut is all
	}
	_ = errors.Join(dir.Sync(), dir.Close()) // likewise
	return nil
}

// prune removes all but the newest, by the time in their names, and what an
// agent that was killed has left. Other files are nobody's business here.
func (k *Keeper) prune() error {
	entries, err := os.ReadDir(k.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var names, gone []string
	for _, e := range entries {
		switch name := e.Name(); {
		case !strings.HasPrefix(name, prefix):
		case strings.HasSuffix(name, suffix):
			names = append(names, name)
		case strings.HasSuffix(name, suffix+aside):
			gone = append(gone, name)
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range append(gone, names[:max(0, len(names)-k.cfg.Keep)]...) {
		errs = append(errs, os.Remove(filepath.Join(k.cfg.Dir, name)))
	}
	return errors.Join(errs...)
}
