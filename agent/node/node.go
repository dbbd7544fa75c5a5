// Package node owns what every agent does for its own machine: it makes the
// Pods that the store assigns to this node run, and says back what it saw. How
// a container is run is the driver's affair, where a Pod runs the leader's.
package node

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
)

// Replica is this node's copy of what concerns it.
type Replica interface {
	Store() *state.Store
	// Synced tells whether the copy has caught up since this agent started.
	// Before that an absent Pod means nothing.
	Synced() bool
	// SyncedC is closed when Synced turns true.
	SyncedC() <-chan struct{}
}

// Images is where root file systems come from.
type Images interface {
	// Ensure makes the image present on this node, from a peer if need be, and
	// returns its digest. A *PullError tells why it cannot.
	Ensure(ctx context.Context, ask ImageAsk) (digest string, err error)
	Config(ctx context.Context, digest string) (image.Config, error)
	Mounts(ctx context.Context, key, digest string) ([]container.Mount, error)
	Release(ctx context.Context, key string) error
	// Used tells how many bytes of disk a root file system takes besides its image,
	// or that it has more entries than were to be looked at.
	Used(ctx context.Context, key string, entries int) (bytes int64, over bool, err error)
	Snapshots(ctx context.Context) ([]string, error)
	// Collect frees what no name and no root file system needs.
	Collect(ctx context.Context) error
	// Present lists what this node holds, and Changed is closed when that changes.
	Present(ctx context.Context) ([]corev1.ContainerImage, error)
	Changed() <-chan struct{}
}

// Reporter carries what this node says of itself to the leader. An error means
// that the leader may not have heard it.
type Reporter interface {
	Report(ctx context.Context, report *skeinv1.ReportRequest) error
}

// Network is this machine's part of the cluster's.
type Network interface {
	// MTU is what Pods' links are made with, in bytes.
	MTU() int
	// Admit lets a Pod with an address of its own onto it, before its containers
	// start, and Dismiss takes it off, once nothing is left of it. Both may be
	// repeated.
	Admit(ctx context.Context, pod *corev1.Pod, addr netip.Addr) error
	Dismiss(ctx context.Context, uid string) error
	// Release waits until no node sends a Pod that is to go anything new.
	Release(ctx context.Context, pod *corev1.Pod) error
}

// Config is what a Node needs.
type Config struct {
	Name     string
	Address  netip.Addr // of this machine, as others reach it
	Replica  Replica
	Driver   container.Driver
	Images   Images
	Holdings Holdings // nil: no image is given up
	Reclaim  Reclaim
	Reporter Reporter
	Lessor   Lessor
	Volumes  Volumes // nil: Pods that mount any do not start
	Machine  Machine // what this machine is and has
	// Resolv reads the resolv.conf of this machine, that Pods are given which look
	// names up as it does; nil: it has none.
	Resolv  func(own bool) string // of the machine's own network, or of another
	Network Network               // nil: Pods have no network of their own
	// Pressure names what this machine is short of now, or what is wrong with it,
	// by the type of the condition that says so, with a reason.
	Pressure        func() map[string]string
	PressureChanged func() <-chan struct{} // closed when Pressure answers differently; nil: it is asked now and then
	Now             func() time.Time       // the wall clock, for what others are told; nil: time.Now
	Logger          *slog.Logger
}

// A Node runs this machine's Pods.
type Node struct {
	cfg     Config
	log     *slog.Logger
	reports *reports
	leases  *leases
	sources *Sources
	turn    atomic.Int64  // counts news of sources
	coming  *coming       // images that are on their way
	cramped chan struct{} // an image did not fit
	litter  chan struct{} // something was removed that takes space
	born    time.Time     // when Run began
	meter   *meter

	addresses *addresses

	mu      sync.Mutex
	workers map[types.UID]*worker
	have    map[string][]container.Status // by Pod uid, as last listed
	gone    sync.WaitGroup                // workers that run
}

// New returns a node that does nothing yet.
func New(cfg Config) *Node {
	if cfg.Pressure == nil {
		cfg.Pressure = func() map[string]string { return nil }
	}
	if cfg.PressureChanged == nil {
		cfg.PressureChanged = func() <-chan struct{} { return nil }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Reclaim = cfg.Reclaim.withDefaults()
	n := &Node{
		cfg:     cfg,
		log:     cfg.Logger.With("component", "node"),
		reports: newReports(cfg.Reporter, cfg.Logger),
		coming:  newComing(),
		cramped: make(chan struct{}, 1),
		litter:  make(chan struct{}, 1),
		workers: map[types.UID]*worker{},
		have:    map[string][]container.Status{},

		addresses: newAddresses(),
	}
	n.meter = &meter{usage: cfg.Driver.Usage}
	n.leases = newLeases(n, n.log)
	n.sources = newSources(cfg.Volumes, n.log)
	return n
}

// Run makes this machine match the store until ctx ends. The Pods go on then.
func (n *Node) Run(ctx context.Context) error {
	defer n.gone.Wait()
	n.born = time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.reports.run(ctx) })
	group.Go(func() error { return n.watchPods(ctx) })
	group.Go(func() error { return n.watchSelf(ctx) })
	group.Go(func() error { return n.tidy(ctx) })
	group.Go(func() error { return n.reclaim(ctx) })
	group.Go(func() error { return n.leases.run(ctx) })
	group.Go(func() error { return n.watchSources(ctx) })
	return group.Wait()
}

// watchPods hands every Pod of this node, and every Pod that has left something
// here, to a worker of its own, and wakes that worker when either side changes.
func (n *Node) watchPods(ctx context.Context) error {
	store := n.cfg.Replica.Store()
	mine := store.Changed(state.Selector{Kind: object.KindPod, Index: object.NodeIndex(n.cfg.Name)})
	defer mine.Close()
	synced := n.cfg.Replica.SyncedC()
	retry := time.NewTimer(0)
	defer retry.Stop()
	changed := n.cfg.Driver.Changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-mine.C():
		case <-changed:
		case <-synced:
			synced = nil
			n.wakeAll()
		case <-retry.C:
		}
		changed = n.cfg.Driver.Changed()
		next := resync
		if err := n.look(ctx); err != nil {
			n.log.Warn("cannot list what runs here", "err", err)
			next = time.Second
		}
		retry.Reset(next)
	}
}

// ago is when something was that bears the time of this machine's wall clock, by
// the clock that durations are measured with. The wall clock may have been set
// back since: what is from the future happens now.
func (n *Node) ago(stamp time.Time) time.Time {
	return time.Now().Add(-max(0, n.cfg.Now().Sub(stamp)))
}

// alonePatience is how long a machine that comes back waits for word of what it
// is to run now, before it starts what it ran when it was last told. Its Pods may
// run elsewhere by now; and without a leader it must not wait for ever.
const alonePatience = 3 * time.Second

// mayStart is when containers may be started at the earliest, the zero time if
// they may now. Those that run are adopted all the same.
func (n *Node) mayStart(now time.Time) time.Time {
	if at := n.born.Add(alonePatience); !n.cfg.Replica.Synced() && now.Before(at) {
		return at
	}
	return time.Time{}
}

func (n *Node) wakeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.workers {
		w.wake()
	}
}

// resync repairs what a lost wake-up would leave behind.
const resync = time.Minute

// look compares the store with the machine, and wakes the workers concerned.
func (n *Node) look(ctx context.Context) error {
	have, err := n.cfg.Driver.List(ctx)
	if err != nil {
		return err
	}
	sandboxes, err := n.cfg.Driver.Sandboxes(ctx)
	if err != nil {
		return err
	}
	n.addresses.learn(sandboxes)
	byPod := map[string][]container.Status{}
	for _, s := range have {
		byPod[s.ID.Pod] = append(byPod[s.ID.Pod], s)
	}
	here := map[types.UID]string{}
	for pod := range byPod {
		here[types.UID(pod)] = pod
	}
	for _, s := range sandboxes {
		here[types.UID(s.Pod)] = s.Pod
	}
	rows := n.cfg.Replica.Store().List(object.KindPod, "", object.NodeIndex(n.cfg.Name))

	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.have
	n.have = byPod
	for _, row := range rows {
		uid := types.UID(row.UID)
		delete(here, uid)
		w := n.workerLocked(ctx, uid)
		if w.version != row.Version || !sameStatuses(before[row.UID], byPod[row.UID]) {
			w.version = row.Version
			w.wake()
		}
	}
	for uid := range here { // something is here that nobody assigned
		if n.cfg.Replica.Synced() {
			n.workerLocked(ctx, uid).wake()
		}
	}
	for _, w := range n.workers { // one that runs but has lost its row
		if n.cfg.Replica.Synced() && !hasRow(rows, w.uid) {
			w.wake()
		}
	}
	return nil
}

func hasRow(rows []*state.Row, uid types.UID) bool {
	for _, row := range rows {
		if row.UID == string(uid) {
			return true
		}
	}
	return false
}

// workerLocked returns the worker of a Pod and starts one if there is none.
func (n *Node) workerLocked(ctx context.Context, uid types.UID) *worker {
	if w, ok := n.workers[uid]; ok {
		return w
	}
	w := newWorker(n, uid)
	n.workers[uid] = w
	n.gone.Go(func() {
		w.run(ctx)
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.workers, uid)
	})
	return w
}

// statuses returns the containers of a Pod as last listed.
func (n *Node) statuses(pod types.UID) []container.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.have[string(pod)]
}

// pod returns the Pod with this uid as the store has it, or nil.
func (n *Node) pod(uid types.UID) (*corev1.Pod, error) {
	for _, row := range n.cfg.Replica.Store().List(object.KindPod, "", object.NodeIndex(n.cfg.Name)) {
		if row.UID == string(uid) {
			return object.Decode[corev1.Pod](row)
		}
	}
	return nil, nil
}

func sameStatuses(a, b []container.Status) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].ID != b[i].ID || a[i].State != b[i].State || a[i].PID != b[i].PID || a[i].ExitCode != b[i].ExitCode {
			return false
		}
	}
	return true
}
