package runc

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// SinceBoot reads the clock that leases are counted on.
func (d *Driver) SinceBoot() time.Duration { return keeper.SinceBoot() }

// Lease hands the keeper the time until which a Pod may run.
func (d *Driver) Lease(_ context.Context, pod string, freeze, kill time.Duration) error {
	if err := checkPod(pod); err != nil {
		return err
	}
	d.noteLapse(pod)
	l := keeper.Lease{Boot: keeper.BootID(), Freeze: freeze, Kill: kill, Groups: d.groups.freezers(d.podCgroup(pod))}
	if err := d.keeper.WriteLease(pod, l); err != nil {
		return fmt.Errorf("write the lease of %s: %w", pod, err)
	}
	return nil
}

// noteLapse remembers that the lease which is about to be renewed had run out:
// what the keeper killed then may not have been recorded yet.
func (d *Driver) noteLapse(pod string) {
	l, err := d.keeper.ReadLease(pod)
	if err != nil || l.Boot != keeper.BootID() || keeper.SinceBoot() < l.Kill {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lapsed[pod] = time.Now()
}

// freezers lists the folders of a group, that by which it can be frozen first.
func (c *cgroups) freezers(group string) []string {
	if c.unified {
		return []string{filepath.Join(cgroupMount, group)}
	}
	var out []string
	if root := c.of["freezer"]; root != "" {
		return append(out, filepath.Join(root, group))
	}
	for _, root := range c.roots {
		out = append(out, filepath.Join(root, group))
	}
	return out
}

// leaseLost tells whether a container that was killed outlived its lease.
func (d *Driver) leaseLost(pod string, e *exit) bool {
	if e.Signal != int(syscall.SIGKILL) {
		return false
	}
	d.mu.Lock()
	until := d.lapsed[pod]
	d.mu.Unlock()
	if e.Finished.Before(until) {
		return true
	}
	l, err := d.keeper.ReadLease(pod)
	return err == nil && l.Boot == keeper.BootID() && keeper.SinceBoot() >= l.Kill
}
