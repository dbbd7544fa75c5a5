package consensus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// segmentSize is what a log file on disk takes from the beginning. Small, because
// most nodes never write much; entries larger than it are no problem.
const segmentSize = 4 << 20

// Stores are what a Node keeps on disk.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Closer    io.Closer // of all of them
}

// OpenStores opens the stores in dir, which it makes if need be (mode 0700). One
// process at a time may have them open: another waits. Close them after
// Node.Run.
func OpenStores(dir string, log *slog.Logger) (*Stores, error) {
	return openStores(dir, segmentSize, log)
}

func openStores(dir string, segment int, log *slog.Logger) (*Stores, error) {
	logDir := filepath.Join(dir, "log")
	for _, d := range []string{logDir, filepath.Join(dir, "snapshots")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make directory for the log: %w", err)
		}
	}
	// What lies in a folder whose name is lost is lost with it.
	if err := SyncDirs(filepath.Dir(dir), dir); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w, err := openWalStore(logDir, segment, log)
	if err != nil {
		return nil, err
	}
	snaps, err := openSnapFiles(dir, log) // now that no other process has them open
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &Stores{Log: w, Stable: w, Snapshots: snaps, Closer: w}, nil
}

// Close closes the stores.
func (s *Stores) Close() error { return s.Closer.Close() }
