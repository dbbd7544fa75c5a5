package agent

import (
	"context"
	"io"

	"github.com/skein-dev/skein/agent/backup"
)

// keepSnapshots writes snapshots on a schedule, from this node's own copy: each
// voter that is told to does, so that none is lost with a machine.
func (a *Agent) keepSnapshots(ctx context.Context) error {
	if a.cfg.SnapshotDir == "" {
		return nil
	}
	return backup.New(backup.Config{
		Dir: a.cfg.SnapshotDir, Every: a.cfg.SnapshotEvery, Keep: a.cfg.SnapshotKeep, Logger: a.log,
		Index: func() (uint64, bool) {
			_, votes := a.member()
			return a.raft.Store().Index(), votes && a.raft.CaughtUp()
		},
		Write: func(ctx context.Context, w io.Writer) error {
			_, err := a.api.WriteSnapshot(ctx, w)
			return err
		},
	}).Run(ctx)
}
