package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A cluster is nodes over an in-memory network inside a bubble.
type cluster struct {
	t     *testing.T
	nodes map[string]*testNode
}

// A testNode is one machine: its disk outlives its process.
type testNode struct {
	*Node
	name  string
	net   *raft.InmemTransport
	disk  *disk
	stop  context.CancelFunc
	ended chan struct{}
	err   error
}

// A disk keeps what a node stored. Its log can be made to hang.
type disk struct {
	*raft.InmemStore
	snaps *raft.InmemSnapshotStore

	mu   sync.Mutex
	hold chan struct{} // writes wait until it is closed; nil: they do not
}

func newDisk() *disk {
	return &disk{InmemStore: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore()}
}

func (d *disk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = make(chan struct{})
}

func (d *disk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hold != nil {
		close(d.hold)
		d.hold = nil
	}
}

func (d *disk) StoreLogs(logs []*raft.Log) error {
	d.mu.Lock()
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return d.InmemStore.StoreLogs(logs)
}

// inBubble runs a test on a cluster in virtual time. Whatever still runs when it
// ends fails the test.
func inBubble(t *testing.T, test func(*testing.T, *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, nodes: make(map[string]*testNode)}
		test(t, c)
		for _, n := range c.nodes {
			n.disk.heal()
			n.stop()
		}
		for _, n := range c.nodes {
			<-n.ended
			if n.err != nil {
				t.Errorf("%s ended with %v", n.name, n.err)
			}
			n.Store().Verify()
		}
		time.Sleep(time.Minute) // calls over the dead network time out
	})
}

// start starts a node on a disk; prepare may change its configuration and
// register duties.
func (c *cluster) start(name string, d *disk, prepare ...func(*Config, *[]Duty)) *testNode {
	c.t.Helper()
	_, transport := raft.NewInmemTransport(raft.ServerAddress(name))
	cfg := Config{
		Name: name, Log: d, Stable: d, Snapshots: d.snaps, Transport: transport,
		Store: state.New(state.Checked(func(problem string) { c.t.Error(problem) })),
	}
	var duties []Duty
	for _, p := range prepare {
		p(&cfg, &duties)
	}
	node, err := Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, duty := range duties {
		node.Lead(duty)
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &testNode{Node: node, name: name, net: transport, disk: d, stop: stop, ended: make(chan struct{})}
	c.nodes[name] = n
	for _, other := range c.nodes {
		c.connect(n, other)
	}
	go func() {
		defer close(n.ended)
		n.err = node.Run(ctx)
	}()
	return n
}

func alone(cfg *Config, _ *[]Duty) { cfg.Bootstrap = true }

func with(duty Duty) func(*Config, *[]Duty) {
	return func(_ *Config, duties *[]Duty) { *duties = append(*duties, duty) }
}

func (c *cluster) connect(a, b *testNode) {
	if a != b {
		a.net.Connect(raft.ServerAddress(b.name), b.net)
		b.net.Connect(raft.ServerAddress(a.name), a.net)
	}
}

// cut takes a node off the network; join undoes it.
func (c *cluster) cut(n *testNode) {
	for _, other := range c.nodes {
		n.net.Disconnect(raft.ServerAddress(other.name))
		other.net.Disconnect(raft.ServerAddress(n.name))
	}
}

func (c *cluster) join(n *testNode) {
	for _, other := range c.nodes {
		c.connect(n, other)
	}
}

// three starts voters n1, n2 and n3, of which n1 leads.
func (c *cluster) three(prepare ...func(*Config, *[]Duty)) (n1, n2, n3 *testNode) {
	c.t.Helper()
	n1 = c.start("n1", newDisk(), append(prepare, alone)...)
	n2 = c.start("n2", newDisk(), prepare...)
	n3 = c.start("n3", newDisk(), prepare...)
	c.leader()
	for _, name := range []string{"n2", "n3"} {
		if err := n1.AddVoter(c.t.Context(), name, 0); err != nil {
			c.t.Fatal(err)
		}
	}
	return n1, n2, n3
}

// within waits in virtual time until what is so.
func (c *cluster) within(d time.Duration, what string, so func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(d); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// leader waits for a leader whom a majority of voters follows.
func (c *cluster) leader(except ...*testNode) (leader *testNode) {
	c.t.Helper()
	c.within(10*time.Second, "a leader", func() bool {
		for _, n := range c.nodes {
			if n.IsLeader() && !slices.Contains(except, n) {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (c *cluster) commit(n *testNode, txn *logv1.Txn) uint64 {
	c.t.Helper()
	index, err := n.Commit(c.t.Context(), txn)
	if err != nil {
		c.t.Fatalf("commit on %s: %v", n.name, err)
	}
	return index
}

// everywhere waits until all given nodes hold an index.
func (c *cluster) everywhere(index uint64, nodes ...*testNode) {
	c.t.Helper()
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		if err := n.Store().Wait(ctx, index); err != nil {
			c.t.Fatalf("%s is at %d, not at %d: %v", n.name, n.Store().Index(), index, err)
		}
		cancel()
	}
}

func pod(name string) state.Key { return state.Key{Kind: "Pod", Namespace: "default", Name: name} }

// put returns a transaction that writes a pod; expect < 0 means any version.
func put(name, body string, expect int64, index ...string) *logv1.Txn {
	key := pod(name).Proto()
	op := &logv1.Op{Key: key, Change: &logv1.Op_Put{Put: &logv1.Object{Key: key, Index: index, Body: []byte(body)}}}
	if expect >= 0 {
		version := uint64(expect)
		op.Expect = &version
	}
	return &logv1.Txn{Ops: []*logv1.Op{op}}
}

func body(s *state.Store, name string) string {
	row, ok := s.Get(pod(name))
	if !ok {
		return "(none)"
	}
	return string(row.Body)
}

func mustConflict(t *testing.T, err error) {
	t.Helper()
	var conflict *state.ConflictError
	if !errors.As(err, &conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}

// reigns records duties and fails if two of one node overlap.
type terms struct {
	t    *testing.T
	mu   sync.Mutex
	held map[string]uint64 // node: term of its running duty
	seen []string
}

func (r *terms) duty(slow time.Duration) func(*Config, *[]Duty) {
	return func(cfg *Config, duties *[]Duty) {
		name := cfg.Name
		var last uint64
		*duties = append(*duties, func(ctx context.Context, term uint64) error {
			r.mu.Lock()
			if held := r.held[name]; held != 0 {
				r.t.Errorf("%s begins term %d in term %d", name, term, held)
			}
			if term <= last {
				r.t.Errorf("%s leads term %d after term %d", name, term, last)
			}
			last = term
			r.held[name] = term
			r.seen = append(r.seen, fmt.Sprintf("%s/%d", name, term))
			r.mu.Unlock()
			<-ctx.Done()
			time.Sleep(slow)
			r.mu.Lock()
			r.held[name] = 0
			r.mu.Unlock()
			return nil
		})
	}
}

func (r *terms) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func newTerms(t *testing.T) *terms { return &terms{t: t, held: make(map[string]uint64)} }
