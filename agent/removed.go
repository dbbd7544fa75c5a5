package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/runtime/container"
)

// removedFile marks the data directory of a node that the cluster has removed.
// Its key opens nothing ever again, so the mark stays until the data goes.
const removedFile = "removed"

// A RemovedError says that this node is in its cluster no more, and that nothing
// runs here.
type RemovedError struct{ Node string }

func (e *RemovedError) Error() string {
	return fmt.Sprintf("node %s was removed from its cluster, and runs nothing any more", e.Node)
}

// Hint tells the way out.
func (e *RemovedError) Hint() string {
	return "\"skeind cleanup --yes\" makes this machine new, to join again"
}

// Removed tells whether this machine was a node of a cluster that has removed it.
func Removed(dataDir string) bool {
	_, err := os.Stat(filepath.Join(dataDir, removedFile))
	return err == nil
}

// removed takes the leader's word that this node is in the cluster no more. The
// error that it returns ends the agent, for good.
func (a *Agent) removed(by string) error {
	f, err := os.OpenFile(filepath.Join(a.cfg.DataDir, removedFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), consensus.SyncDirs(a.cfg.DataDir))
	}
	if err != nil {
		a.log.Error("cannot keep in mind that this node was removed", "err", err)
	}
	a.log.Warn("this node was removed from the cluster: its Pods end, and so does this agent", "node", a.cfg.Name, "by", by)
	return &RemovedError{Node: a.cfg.Name}
}

const (
	stripGrace    = 10 * time.Second // between SIGTERM and SIGKILL
	stripPatience = 30 * time.Second // for all of it
	stripWidth    = 16               // containers at once
)

// strip ends whatever runs here, of which nobody else takes care any more.
func strip(ctx context.Context, driver Driver) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stripPatience)
	defer cancel()
	watch, stop := context.WithCancel(ctx)
	var noticing errgroup.Group
	noticing.Go(func() error { return driver.Run(watch) })
	err := stripAll(ctx, driver)
	stop()
	return errors.Join(err, noticing.Wait())
}

func stripAll(ctx context.Context, driver Driver) error {
	list, err := driver.List(ctx)
	if err != nil {
		return fmt.Errorf("list what runs here: %w", err)
	}
	var ends errgroup.Group
	ends.SetLimit(stripWidth)
	ended := make([]error, len(list))
	for i, s := range list {
		ends.Go(func() error {
			if s.State == container.Running {
				ended[i] = ignoreGone(driver.Stop(ctx, s.ID, stripGrace))
			}
			if ended[i] == nil {
				ended[i] = ignoreGone(driver.Remove(ctx, s.ID))
			}
			return nil
		})
	}
	_ = ends.Wait() // each has its own error
	sandboxes, err := driver.Sandboxes(ctx)
	errs := append(slices.Clip(ended), err)
	for _, s := range sandboxes {
		errs = append(errs, ignoreGone(driver.RemoveSandbox(ctx, s.Pod)))
	}
	return errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, container.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// stripVolumes removes what Pods have left, and all that is known of Secrets.
func stripVolumes(volumes VolumeStore) error {
	pods, err := volumes.Pods()
	errs := []error{err}
	for _, pod := range pods {
		errs = append(errs, volumes.Remove(pod))
	}
	return errors.Join(append(errs, volumes.Close())...)
}

// stayRemoved ends what an agent that was cut off in the middle has left.
func stayRemoved(ctx context.Context, cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	cfg.World.complete(cfg.Logger)
	driver, err := cfg.World.Driver(cfg)
	if err != nil {
		return fmt.Errorf("open the runtime: %w", err)
	}
	if err := strip(ctx, driver); err != nil {
		return err
	}
	volumes, err := cfg.World.Volumes(cfg)
	if err != nil {
		return fmt.Errorf("open the volumes: %w", err)
	}
	if err := stripVolumes(volumes); err != nil {
		return err
	}
	if id, err := identity.Load(identityDir(cfg)); err == nil {
		cfg.Name = id.Name()
	}
	return &RemovedError{Node: cfg.Name}
}
