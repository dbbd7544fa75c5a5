package agenttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent"
	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/gossip/gossiptest"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/traffic/traffictest"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/consensustest"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
	watch "github.com/skein-dev/skein/runtime/disk"
	"github.com/skein-dev/skein/runtime/image"
	"github.com/skein-dev/skein/runtime/volume/volumetest"
)

const (
	port       = agent.DefaultPort
	socketPort = 1 // stands for the local socket
)

// A Machine outlives the agents that run on it, one after the other.
type Machine struct {
	Name string

	cluster *Cluster
	addr    netip.AddrPort
	host    *gossiptest.Host
	driver  *containertest.Driver
	volumes *volumetest.Volumes
	table   *traffictest.Table // of Services; as in a kernel, it outlives agents
	starts  int
	format  uint32 // that its program reads; 0: that of this build
	seed    string // where it was told to join

	clock  atomic.Int64 // by how much its wall clock is ahead, in ns
	disk   *consensustest.Disk
	dir    string
	power  bool
	paused bool
	run    *life   // of the present agent, nil: none runs
	past   []*life // every one there ever was; changed with the cluster's mu held
}

// A life is one agent from its start to its end. Once it is dead nothing it does
// has an effect any more.
type life struct {
	machine *Machine
	cancel  context.CancelFunc
	ended   chan struct{}

	mu    sync.Mutex
	agent *agent.Agent
	err   error
	dead  bool
	// crashed: it has ended by itself, and waits to be started again.
	crashed bool
	stores  *consensustest.Stores
	endedAt time.Time
	still   chan struct{} // closed when a pause ends; nil: it is not paused
	stopped map[container.ID]bool
}

var errDead = errors.New("this agent is dead")

// enter lets a call to the machine through: not of the dead, and not while
// everything stands still.
func (l *life) enter() error {
	for {
		l.mu.Lock()
		dead, still := l.dead, l.still
		l.mu.Unlock()
		switch {
		case dead:
			return errDead
		case still == nil:
			return nil
		}
		<-still
	}
}

func (l *life) current() *agent.Agent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agent
}

func (l *life) bury() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	if l.still != nil {
		close(l.still)
		l.still = nil
	}
}

// start starts an agent on the machine. With a token it joins, or, where it has
// joined before, goes on.
func (m *Machine) start(first bool, join []string, token string) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{machine: m, cancel: cancel, ended: make(chan struct{})}
	m.cluster.mu.Lock()
	m.run, m.past = l, append(m.past, l)
	m.cluster.mu.Unlock()
	m.starts++
	log := slog.New(m.cluster.trace.handler(m.Name))
	cfg := agent.Config{
		DataDir: m.dir, RunDir: filepath.Join(m.dir, "run"), KeeperDir: filepath.Join(m.dir, "keeper"),
		Socket: "socket", Listen: m.addr, Advertise: m.addr, Name: m.Name,
		Init: first, Join: join, Token: token, Version: "sim", Format: m.format, Logger: log,
		Announcement: m.cluster.announced, World: m.world(l),
	}
	go func() {
		defer close(l.ended)
		a, err := agent.New(ctx, cfg)
		if err == nil {
			l.mu.Lock()
			l.agent = a
			l.mu.Unlock()
			err = a.Run(ctx)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.err = err; err != nil && !l.dead {
			m.cluster.trace.add(m.Name, "agent ended: %v", err)
			l.crashed, l.endedAt = true, time.Now()
		}
	}()
}

// now is what the machine's wall clock says, by which no duration can be
// measured.
func (m *Machine) now() time.Time {
	return time.Now().Round(0).Add(time.Duration(m.clock.Load()))
}

// world is the machine as an agent sees it.
func (m *Machine) world(l *life) agent.World {
	disk := m.disk
	return agent.World{
		Network: &network{life: l, host: m.host},
		Stores:  func(string, *slog.Logger) (*consensus.Stores, error) { return openStores(disk, l) },
		Driver:  func(agent.Config) (agent.Driver, error) { return &driver{Driver: m.driver, life: l}, nil },
		Volumes: func(agent.Config) (agent.VolumeStore, error) { return m.volumes, nil },
		Images:  func(agent.Config) (agent.ImageStore, error) { return images{}, nil },
		Machine: func(agent.Config) (node.Machine, error) {
			return node.Machine{CPUMilli: 8000, MemoryBytes: 16 << 30, DiskBytes: 100 << 30, Pods: 200, Info: corev1.NodeSystemInfo{MachineID: m.Name}}, nil
		},
		Resolv: func(bool) string { return "" },
		Wires: func(agent.Config, func() []string, *slog.Logger) (agent.Wires, error) {
			return agent.Wires{Table: m.table, Fabric: new(traffictest.Fabric), Names: new(traffictest.Names)}, nil
		},
		Disk: func(agent.Config) (watch.Medium, error) { return medium{disk: disk, life: l}, nil },
		Load: func(agent.Config) func() (gossip.Load, error) {
			return func() (gossip.Load, error) { return gossip.Load{}, nil }
		},
		Now: m.now,
	}
}

// moveDir gives the next agent the files as they are now: the last one may go on
// writing to its own.
func (m *Machine) moveDir() error {
	next := filepath.Join(filepath.Dir(m.dir), fmt.Sprintf("%s-%d", m.Name, len(m.past)))
	err := filepath.WalkDir(m.dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // it was only there for a moment
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(m.dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(next, rel), 0o700)
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return errors.Join(err, os.WriteFile(filepath.Join(next, rel), text, 0o600))
	})
	m.dir = next
	return err
}

// network is a host's, for one agent.
type network struct {
	life *life
	host *gossiptest.Host
}

func (n *network) Listen(_ context.Context, addr netip.AddrPort) (net.Listener, error) {
	if err := n.life.enter(); err != nil {
		return nil, err
	}
	return n.host.Listen(addr.Port())
}

func (n *network) ListenLocal(context.Context, string) (net.Listener, error) {
	if err := n.life.enter(); err != nil {
		return nil, err
	}
	return n.host.Listen(socketPort)
}

func (n *network) ListenPacket(_ context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	if err := n.life.enter(); err != nil {
		return nil, err
	}
	return n.host.ListenPacket(addr.Port())
}

// dialPatience is how long a stream that nobody answers is tried for, as of the
// real network.
const dialPatience = 3 * time.Second

func (n *network) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if err := n.life.enter(); err != nil {
		return nil, err
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	return n.host.Dial(ctx, to)
}

func (n *network) DialPacket(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if err := n.life.enter(); err != nil {
		return nil, err
	}
	return n.host.DialPacket(ctx, addr)
}

func (n *network) Knock(ctx context.Context, addr netip.AddrPort) bool {
	conn, err := n.Dial(ctx, "tcp", addr.String())
	if err == nil {
		_ = conn.Close() // it was only a question
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// driver is a machine's containers, for one agent.
type driver struct {
	*containertest.Driver
	life *life
}

// Run waits: the model needs no care.
func (d *driver) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (d *driver) Prepare(ctx context.Context, s container.Sandbox) error {
	if err := d.life.enter(); err != nil {
		return err
	}
	return d.Driver.Prepare(ctx, s)
}

func (d *driver) Start(ctx context.Context, spec container.Spec) error {
	select {
	case <-time.After(startTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := d.life.enter(); err != nil {
		return err
	}
	return d.Driver.Start(ctx, spec)
}

// startTime is what runc takes.
const startTime = 25 * time.Millisecond

func (d *driver) Stop(ctx context.Context, id container.ID, grace time.Duration) error {
	if err := d.life.enter(); err != nil {
		return err
	}
	d.life.machine.cluster.stopping(d.life.machine, id)
	d.life.machine.cluster.graceful(d.life, id, grace)
	return d.Driver.Stop(ctx, id, grace)
}

func (d *driver) Remove(ctx context.Context, id container.ID) error {
	if err := d.life.enter(); err != nil {
		return err
	}
	d.life.machine.cluster.stopping(d.life.machine, id)
	return d.Driver.Remove(ctx, id)
}

func (d *driver) RemoveSandbox(ctx context.Context, pod string) error {
	if err := d.life.enter(); err != nil {
		return err
	}
	d.life.machine.cluster.stopping(d.life.machine, container.ID{Pod: pod})
	return d.Driver.RemoveSandbox(ctx, pod)
}

func (d *driver) Lease(ctx context.Context, pod string, freeze, kill time.Duration) error {
	if err := d.life.enter(); err != nil {
		return err
	}
	return d.Driver.Lease(ctx, pod, freeze, kill)
}

func (d *driver) List(ctx context.Context) ([]container.Status, error) {
	if err := d.life.enter(); err != nil {
		return nil, err
	}
	return d.Driver.List(ctx)
}

// images has every image there is.
type images struct{}

const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func (images) Resolve(context.Context, string) (image.Descriptor, error) {
	return image.Descriptor{Digest: digest, Size: 1}, nil
}
func (images) Has(context.Context, string) bool { return true }
func (images) Fetch(context.Context, string, image.Descriptor, image.Fetcher, *image.Progress) error {
	return nil
}

func (images) Config(context.Context, string) (image.Config, error) {
	return image.Config{Entrypoint: []string{"/program"}, WorkingDir: "/"}, nil
}

func (images) Mounts(context.Context, string, string) ([]container.Mount, error) {
	return []container.Mount{{Type: "bind", Source: "/"}}, nil
}
func (images) Release(context.Context, string) error       { return nil }
func (images) Snapshots(context.Context) ([]string, error) { return nil, nil }
func (images) Collect(context.Context) error               { return nil }
func (images) List(context.Context) ([]image.Image, error) { return nil, nil }
func (images) Blobs(context.Context) ([]string, error)     { return nil, nil }
func (images) Import(context.Context, io.Reader) ([]image.Imported, error) {
	return nil, errors.New("this store has all there is")
}

func (images) FollowBlob(context.Context, string, int64) (io.ReadCloser, int64, error) {
	return nil, 0, errors.New("this store has no pieces")
}
func (images) Use(context.Context, string, time.Time) error { return nil }
func (images) Remove(context.Context, string) error         { return nil }
func (images) Used(context.Context, string, int) (bytes int64, over bool, err error) {
	return 0, false, nil
}
func (images) Verify(context.Context) error { return nil }

func (images) BeginPush(context.Context, []image.Entry) (*image.Push, error) {
	return nil, errors.New("this store has all there is")
}

func (images) Parts(context.Context, string) ([]image.Descriptor, error) {
	return nil, nil
}
func (images) Close() error { return nil }
