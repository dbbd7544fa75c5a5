package runc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// stopSignal is what a container is told to end by.
func (d *Driver) stopSignal(id container.ID) syscall.Signal {
	var spec struct{ StopSignal string }
	if err := readJSON(filepath.Join(d.boxDir(id), specFile), &spec); err != nil {
		return syscall.SIGTERM
	}
	return parseSignal(spec.StopSignal)
}

// parseSignal reads "SIGQUIT", "QUIT", "quit", "3" or "RTMIN+3", as docker does.
func parseSignal(name string) syscall.Signal {
	name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= maxSignal {
		return syscall.Signal(n)
	}
	for base, first := range map[string]int{"RTMIN": realtimeMin, "RTMAX": maxSignal} {
		rest, ok := strings.CutPrefix(name, base)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(cmp.Or(rest, "+0"))
		if n += first; err == nil && n >= realtimeMin && n <= maxSignal {
			return syscall.Signal(n)
		}
	}
	if s := unix.SignalNum("SIG" + name); s != 0 {
		return s
	}
	return syscall.SIGTERM
}

// Real-time signals, as the C library numbers those that it leaves to programs.
const (
	realtimeMin = 34
	maxSignal   = 64
)

// Stop sends the stop signal and, after grace, SIGKILL to all of the container.
func (d *Driver) Stop(ctx context.Context, id container.ID, grace time.Duration) error {
	b := d.box(id)
	if b == nil {
		return fmt.Errorf("stop %s: %w", id, container.ErrNotFound)
	}
	if err := d.stop(ctx, b, grace); err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	return nil
}

func (d *Driver) stop(ctx context.Context, b *box, grace time.Duration) error {
	if d.record(b) {
		return nil
	}
	if grace > 0 {
		if err := b.signal(d.stopSignal(b.id)); err != nil {
			return err
		}
		patient, cancel := context.WithTimeout(ctx, grace)
		err := d.awaitEnd(patient, b)
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
	d.groups.kill(d.cgroup(b.id))
	if err := b.signal(syscall.SIGKILL); err != nil {
		return err
	}
	return d.awaitEnd(ctx, b)
}

// Remove forgets an exited container, its root and its output. It stops a
// running one at once.
func (d *Driver) Remove(ctx context.Context, id container.ID) error {
	if err := checkID(id); err != nil {
		return err
	}
	if b := d.box(id); b != nil {
		if err := d.stop(ctx, b, 0); err != nil && !errors.Is(err, container.ErrNotFound) {
			return fmt.Errorf("remove %s: %w", id, err)
		}
	}
	defer d.ids.lock(id)()
	if b := d.box(id); b != nil {
		if err := d.finish(ctx, b); err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
	}
	if err := d.clear(id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	// Only now: a driver that is killed before goes on from the folder.
	gone := filepath.Join(d.podDir(id.Pod), ".gone-"+filepath.Base(d.boxDir(id)))
	if err := ignoreMissing(os.Rename(d.boxDir(id), gone)); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	d.drop(id)
	return os.RemoveAll(gone)
}

const logPatience = 2 * time.Second // for the keeper to read what is left

// finish cleans up after a container that has ended, and whose end is written
// down: its output is complete, and runc and the kernel forget it. Its root and
// its output stay. The caller holds the id.
func (d *Driver) finish(ctx context.Context, b *box) error {
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), logPatience)
	defer cancel()
	if d.shareProcesses(b.id.Pod) {
		d.groups.kill(d.cgroup(b.id)) // its first process was not the first of a namespace, which takes the others along
	}
	errLog := d.keeper.EndLog(patient, b.id.String())
	if _, err := os.Stat(d.runcDir(b.id)); err == nil {
		// Plain, for -f would take 100 ms. Should it refuse, we do the same.
		log := filepath.Join(d.bundle(b.id), "delete.log")
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		if err := d.runc(undo, log, [3]*os.File{}, "delete", b.id.String()); err != nil {
			d.log.Debug("runc did not delete a container", "container", b.id, "err", err)
		}
	}
	return errors.Join(errLog, d.groups.remove(d.cgroup(b.id)), unmountAll(d.messageDir(b.id)), unmountVolumes(d.bundle(b.id)), os.RemoveAll(d.runcDir(b.id)))
}
