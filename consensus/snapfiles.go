package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

const (
	keepSnapshots = 2      // on disk
	unfinished    = ".tmp" // ends the name of a snapshot that is being written, in the library
)

// snapFiles are the snapshots on disk. The library makes their content and their
// own names last through a power cut, but not the names of the files within.
type snapFiles struct {
	*raft.FileSnapshotStore
	dir string
}

// openSnapFiles opens the snapshots in a folder of dir, and removes those that
// were not finished and those that were being removed.
func openSnapFiles(dir string, log *slog.Logger) (*snapFiles, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, newBridge(log))
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	s := &snapFiles{inner, filepath.Join(dir, "snapshots")}
	if err := s.sweep(); err != nil {
		// They are in nobody's way. On a disk that can only be read they stay.
		log.Warn("what is left of unfinished snapshots was not removed", "err", err)
	}
	return s, nil
}

func (s *snapFiles) sweep() error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var errs []error
	for _, name := range names {
		path := filepath.Join(s.dir, name.Name())
		_, err := os.Stat(filepath.Join(path, "meta.json"))
		if name.IsDir() && (errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(name.Name(), unfinished)) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(append(errs, s.ReapSnapshots())...)
}

// Create begins a snapshot. The names of its files last from here on, before it
// takes the place of another.
func (s *snapFiles) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, c, configIndex, t)
	if err != nil {
		return nil, err //nolint:wrapcheck // raft says what it was doing
	}
	if err := syncDir(filepath.Join(s.dir, sink.ID()+unfinished)); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}
