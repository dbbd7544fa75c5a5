// Package runc owns the containers of this machine: it is container.Driver by
// way of the runc program. What it knows is on disk and in the kernel, so a
// driver that was killed at any line leaves nothing that its successor could
// not go on with. The keeper, whose orphans containers become, tells how they
// ended and keeps their output; namespaces are network's.
package runc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/network"
)

// A Config says where a driver's things are. The folders are made if missing,
// and belong to it alone.
type Config struct {
	Program      *os.File               // the runc program, as Seal gives it
	Path         string                 // of runc, where Program is nil
	StateDir     string                 // what must outlive a boot
	RunDir       string                 // what need not: bundles, namespaces, runc's state; short, as it holds sockets
	KeeperDir    string                 // where the keeper is met
	CgroupParent string                 // absolute, like "/skein"
	Volumes      []string               // folders below which every Pod has one of its own, named by its uid, with its volumes
	Holder       func() ([]byte, error) // the keeper's program, for Pods that share processes; nil: none may
	// UsersDir is where roots of Pods are mounted that have users of their own. These
	// must be able to walk to it. Empty: there are no such Pods.
	UsersDir    string
	SeccompDir  string   // seccomp profiles that containers may name; empty: none
	CopyCommand []string // starts a process that calls transfer.Main with the argument that follows
	Logger      *slog.Logger

	binds []string     // from elsewhere that tests mount
	step  func(string) // told of each step of Start; tests fail there
}

// A Driver runs containers by runc.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	program string // path of runc
	keeper  keeper.Dir
	pins    *network.Pins
	groups  *cgroups
	host    host
	users   *userRanges
	starts  chan struct{} // bounds how many start at once

	ids  keyed[container.ID] // held while a container is started or cleaned up
	pods keyed[string]       // held for reading by whoever uses a sandbox

	holderMade atomic.Bool // the program of holders is this build's

	mu      sync.Mutex
	boxes   map[container.ID]*box
	lapsed  map[string]time.Time // by Pod, when a lease of its was renewed that had run out
	changed chan struct{}
}

var _ container.Driver = (*Driver)(nil)

// New opens the driver and adopts what an earlier one has left.
func New(cfg Config) (*Driver, error) {
	d := &Driver{
		cfg: cfg, log: cfg.Logger.With("component", "runc"), program: cfg.Path, keeper: keeper.Dir(cfg.KeeperDir),
		starts: make(chan struct{}, 2*runtime.NumCPU()), // more add latency and no throughput
		users:  newUserRanges(),
		boxes:  map[container.ID]*box{}, lapsed: map[string]time.Time{}, changed: make(chan struct{}),
	}
	if d.cfg.step == nil {
		d.cfg.step = func(string) {}
	}
	if cfg.Program != nil {
		d.program = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), cfg.Program.Fd())
	}
	if d.program == "" || !filepath.IsAbs(cfg.CgroupParent) {
		return nil, errors.New("open the runtime: no runc, or no absolute cgroup parent")
	}
	var err error
	if d.groups, err = findCgroups(); err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	if d.host, err = measure(d.groups); err != nil {
		return nil, fmt.Errorf("measure this machine: %w", err)
	}
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder
			return nil, err
		}
	}
	if err := d.keeper.Make(); err != nil {
		return nil, err
	}
	for _, name := range ownMounts {
		dir := filepath.Join(cfg.RunDir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		mount := network.MountPrivate
		if name != "pods" {
			mount = private
		}
		if err := mount(dir); err != nil {
			return nil, err
		}
	}
	if d.pins, err = network.Open(filepath.Join(cfg.RunDir, "ns")); err != nil {
		return nil, err
	}
	if d.host.users = errors.New("the agent was started without a place for them"); cfg.UsersDir != "" {
		d.host.users = canMap(cfg.StateDir)
	}
	if err := d.adopt(); err != nil {
		return nil, err
	}
	return d, nil
}

// ownMounts are the folders of RunDir that are mounts of their own, so that
// what is mounted in them stays in this machine's view. Package network has
// another for its pins.
var ownMounts = []string{"bundles", "pods", "exec", "hold"}

// Purge removes every Pod and all that New has made on this machine but the
// folders themselves. The driver is of no use afterwards.
func (d *Driver) Purge(ctx context.Context) error {
	pods, err := d.Sandboxes(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, d.RemoveSandbox(ctx, p.Pod))
	}
	errs = append(errs, d.groups.remove(d.cfg.CgroupParent), d.pins.Close())
	for _, name := range ownMounts {
		errs = append(errs, unmountAll(filepath.Join(d.cfg.RunDir, name)))
	}
	return errors.Join(errs...)
}

// Run notices containers that end, until ctx ends. The containers go on then.
func (d *Driver) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	watched := map[*box]bool{}
	for {
		changed := d.Changed()
		now := map[*box]bool{}
		for _, b := range d.all() {
			now[b] = true
			if !watched[b] {
				wait.Go(func() { d.watch(ctx, b) })
			}
		}
		watched = now
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// watch waits for a container's end and cleans up after it.
func (d *Driver) watch(ctx context.Context, b *box) {
	if err := d.awaitEnd(ctx, b); err != nil {
		if ctx.Err() == nil && !errors.Is(err, container.ErrNotFound) {
			d.log.Error("a container cannot be watched", "container", b.id, "err", err)
		}
		return
	}
	defer d.ids.lock(b.id)()
	if d.box(b.id) != b {
		return // removed meanwhile
	}
	if err := d.finish(ctx, b); err != nil && ctx.Err() == nil {
		d.log.Warn("an exited container left something behind", "container", b.id, "err", err)
	}
	d.sweepExits(10 * time.Minute)
}

// Changed returns a channel closed when List would answer differently.
func (d *Driver) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

func (d *Driver) notify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *Driver) box(id container.ID) *box {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.boxes[id]
}

func (d *Driver) all() []*box {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*box, 0, len(d.boxes))
	for _, b := range d.boxes {
		out = append(out, b)
	}
	return out
}

// put makes a container known.
func (d *Driver) put(b *box) {
	d.mu.Lock()
	d.boxes[b.id] = b
	d.mu.Unlock()
	d.notify()
}

// drop forgets a container.
func (d *Driver) drop(id container.ID) {
	d.mu.Lock()
	b := d.boxes[id]
	delete(d.boxes, id)
	d.mu.Unlock()
	if b != nil {
		b.close()
		d.notify()
	}
}
