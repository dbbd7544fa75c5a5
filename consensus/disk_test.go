package consensus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A machine runs a node on real stores and real connections.
type machine struct {
	*Node
	stores *Stores
	stop   func()
}

// A net finds machines by name on the loopback.
type network struct {
	mu    sync.Mutex
	addrs map[string]string
	calls map[string]int
}

func newNetwork() *network {
	return &network{addrs: make(map[string]string), calls: make(map[string]int)}
}

func (n *network) dial(ctx context.Context, name string) (net.Conn, error) {
	n.mu.Lock()
	addr := n.addrs[name]
	n.calls[name]++
	n.mu.Unlock()
	if addr == "" {
		return nil, errors.New("no such node")
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// boot starts a machine on a directory.
func (n *network) boot(t testing.TB, name, dir string, prepare ...func(*Config, *[]Duty)) *machine {
	t.Helper()
	stores, err := OpenStores(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.addrs[name] = listener.Addr().String()
	n.mu.Unlock()
	cfg := Config{
		Name: name, Log: stores.Log, Stable: stores.Stable, Snapshots: stores.Snapshots,
		Transport: NewTransport(TransportConfig{Name: name, Listener: listener, Dial: n.dial}),
	}
	var duties []Duty
	for _, p := range prepare {
		p(&cfg, &duties)
	}
	node, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	m := &machine{Node: node, stores: stores}
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := stores.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	t.Cleanup(m.stop)
	return m
}

// awaitLeader waits for real until one of the machines leads.
func awaitLeader(t testing.TB, machines ...*machine) *machine {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		changed := make(chan struct{}, len(machines))
		ctx, cancel := context.WithCancel(t.Context())
		for _, m := range machines {
			c := m.LeaderChanged()
			go func() {
				select {
				case <-c:
				case <-ctx.Done():
				}
				changed <- struct{}{}
			}()
		}
		for _, m := range machines {
			if m.IsLeader() {
				cancel()
				return m
			}
		}
		select {
		case <-changed:
			cancel()
		case <-deadline:
			cancel()
			t.Fatal("no leader within 30 s")
		}
	}
}

func mustCommit(t testing.TB, m *machine, txn *logv1.Txn) uint64 {
	t.Helper()
	index, err := m.Commit(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func TestWhatWasCommittedIsThereAfterARestart(t *testing.T) {
	dir, wires := t.TempDir(), newNetwork()
	m := wires.boot(t, "n1", dir, alone)
	awaitLeader(t, m)
	var last uint64
	for i := range 50 {
		last = mustCommit(t, m, put(fmt.Sprint("p", i), "1", 0))
	}
	epoch := m.Store().Epoch()
	m.stop()

	m = wires.boot(t, "n1", dir, alone) // bootstraps no second time
	awaitLeader(t, m)
	if got := len(m.Store().List("Pod", "", "")); got != 50 || m.Store().Index() < last {
		t.Errorf("%d pods at index %d, want 50 at %d", got, m.Store().Index(), last)
	}
	if got := m.Store().Epoch(); got != epoch {
		t.Errorf("epoch is %q, was %q", got, epoch)
	}
	mustCommit(t, m, put("p0", "2", int64(must(row(m, "p0")).Version)))
}

func row(m *machine, name string) (*state.Row, error) {
	r, ok := m.Store().Get(pod(name))
	if !ok {
		return nil, errors.New("no such pod")
	}
	return r, nil
}

func TestWhatWasAcknowledgedOutlivesAKill(t *testing.T) {
	dir, wires := t.TempDir(), newNetwork()
	m := wires.boot(t, "n1", dir, alone, func(cfg *Config, _ *[]Duty) {
		cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 40, 5, 20*time.Millisecond
	})
	awaitLeader(t, m)
	// Copies taken at any moment are what a kill at that moment leaves behind:
	// the process writes, the kernel keeps.
	for round := range 5 {
		for i := range 60 {
			mustCommit(t, m, put(fmt.Sprint("p", i), fmt.Sprint(round), -1))
		}
		acknowledged := m.Store().Index()
		left := filepath.Join(t.TempDir(), "copy")
		copyTree(t, dir, left)
		survivor := newNetwork().boot(t, "n1", left)
		awaitLeader(t, survivor)
		if got := survivor.Store().Index(); got < acknowledged {
			t.Errorf("round %d: survived up to %d, acknowledged up to %d", round, got, acknowledged)
		}
		for i := range 60 {
			if got := body(survivor.Store(), fmt.Sprint("p", i)); got != fmt.Sprint(round) {
				t.Errorf("round %d: p%d is %s", round, i, got)
			}
		}
		survivor.stop()
	}
	if snaps, err := m.stores.Snapshots.List(); err != nil || len(snaps) == 0 {
		t.Errorf("no snapshot was taken in 300 entries (%v): the test shows less than it should", err)
	}
}

// copyTree copies dir as far as its files are there to be copied: those that go
// while it looks were not needed any more.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		target := filepath.Join(to, path[len(from):])
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnIdleNodeTakesLittleDisk(t *testing.T) {
	dir := t.TempDir()
	stores, err := OpenStores(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	var total int64
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			total += info.Size()
		}
		return err
	})
	if err != nil || total > 8<<20 {
		t.Errorf("%d bytes before anything is stored (%v)", total, err)
	}
}

func TestStoresOpenAgainInOneProcess(t *testing.T) {
	dir := t.TempDir()
	for i := range uint64(3) {
		stores, err := OpenStores(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if last, err := stores.Log.LastIndex(); err != nil || last != i {
			t.Errorf("opened for the %d. time the log ends at %d, %v", i+1, last, err)
		}
		big := make([]byte, 2*segmentSize) // larger than a file of the log
		if err := stores.Log.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: big}); err != nil {
			t.Error(err)
		}
		if err := stores.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestThreeMachinesOverTCP(t *testing.T) {
	wires := newNetwork()
	m1 := wires.boot(t, "n1", t.TempDir(), alone)
	m2, m3 := wires.boot(t, "n2", t.TempDir()), wires.boot(t, "n3", t.TempDir())
	awaitLeader(t, m1)
	for _, name := range []string{"n2", "n3"} {
		if err := m1.AddVoter(t.Context(), name, 0); err != nil {
			t.Fatal(err)
		}
	}
	index := mustCommit(t, m1, put("a", "1", 0))
	for _, m := range []*machine{m1, m2, m3} {
		if err := m.Store().Wait(t.Context(), index); err != nil {
			t.Fatal(err)
		}
	}
	if err := m1.Confirm(t.Context()); err != nil {
		t.Error(err)
	}
	m1.stop()
	next := awaitLeader(t, m2, m3)
	mustCommit(t, next, put("a", "2", -1))
}

func TestATransportTurnsStrangersAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	transport := NewTransport(TransportConfig{
		Name: "n1", Listener: listener,
		Dial:  func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") },
		Allow: func(net.Conn) bool { asked <- struct{}{}; return false },
	})
	defer transport.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-asked
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("a stranger was sent %d bytes", n)
	}
}

func TestAClosedTransportLeavesNothingOpen(t *testing.T) {
	wires := newNetwork()
	m1 := wires.boot(t, "n1", t.TempDir(), alone)
	m2 := wires.boot(t, "n2", t.TempDir())
	awaitLeader(t, m1)
	if err := m1.AddNonvoter(t.Context(), "n2", 0); err != nil {
		t.Fatal(err)
	}
	if err := m2.Store().Wait(t.Context(), mustCommit(t, m1, put("a", "1", 0))); err != nil {
		t.Fatal(err)
	}
	conn, err := wires.dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m2.stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the transport that accepted it")
	}
}
