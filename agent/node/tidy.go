package node

import (
	"context"
	"time"
)

// tidyPause lets removals gather before space is freed, which writes to disk.
const tidyPause = 30 * time.Second

// tidy gives back the space of containers that are no more. Root file systems
// whose containers an earlier agent has removed, or never started, go first.
func (n *Node) tidy(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.cfg.Replica.SyncedC():
	}
	if err := n.releaseOrphans(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("cannot release old root file systems", "err", err)
	}
	pause := time.NewTimer(tidyPause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		if err := n.cfg.Images.Collect(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("cannot free space", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.litter:
		}
		pause.Reset(tidyPause)
	}
}

// releaseOrphans releases the root file systems of Pods that are neither
// assigned to this node nor left on it.
func (n *Node) releaseOrphans(ctx context.Context) error {
	keys, err := n.cfg.Images.Snapshots(ctx)
	if err != nil {
		return err
	}
	list, err := n.cfg.Driver.List(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, s := range list {
		used[s.ID.String()] = true
	}
	for _, key := range keys {
		if used[key] || n.assigned(key) {
			continue
		}
		if err := n.cfg.Images.Release(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// assigned tells whether a key is that of a container of a Pod of this node.
func (n *Node) assigned(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for uid := range n.workers {
		if len(key) > len(uid) && key[:len(uid)] == string(uid) {
			return true
		}
	}
	return false
}
