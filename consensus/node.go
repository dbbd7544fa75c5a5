// Package consensus makes the nodes of a cluster agree. A Node takes part in
// raft: it elects a leader, commits transactions in batches, applies the log to a
// state.Store and runs the leader's duties while it leads. A Replica is a small
// copy of some of the objects, for those who do not hold the log. What the
// objects mean, who should vote and how nodes reach each other belongs to others.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
)

var (
	// ErrNotLeader refuses what only the leader does. Nothing was changed: ask
	// Node.Leader.
	ErrNotLeader = errors.New("not the leader")
	// ErrUncertain says that leadership, patience or the disk ended before the
	// outcome of a write was known: it may have happened or may yet happen.
	// Read before trying again.
	ErrUncertain = errors.New("outcome unknown")
	// ErrMembersChanged refuses a change to the members that was based on an old
	// list of them.
	ErrMembersChanged = errors.New("members have changed meanwhile")
	// ErrInvalid refuses a transaction that no replica could apply.
	ErrInvalid = errors.New("invalid transaction")
)

// Config says what a Node is made of. The fields up to Transport are required;
// a zero duration or number takes the default in its comment.
type Config struct {
	Name      string // of this node, its raft id and address
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Transport raft.Transport // with pre-vote; its LocalAddr is Name. Run closes it

	Logger    *slog.Logger // nil: silent
	Store     *state.Store // empty; nil: a new one
	Bootstrap bool         // begin a cluster of this node alone, unless the stores hold one

	HeartbeatTimeout   time.Duration // 300 ms: a follower that hears nothing for 1-2 of these stands for election
	ElectionTimeout    time.Duration // 300 ms, at least HeartbeatTimeout
	LeaderLeaseTimeout time.Duration // 300 ms, at most HeartbeatTimeout: a leader that reaches no quorum steps down
	CommitTimeout      time.Duration // 50 ms: followers learn of commits after 1-2 of these at the latest
	SnapshotInterval   time.Duration // 30 s: time between looks at SnapshotThreshold
	SnapshotThreshold  uint64        // 50,000 entries after the last snapshot
	TrailingLogs       uint64        // 20,000 entries kept behind a snapshot
	StallAfter         time.Duration // 2 s: a log write longer than this takes the node off the network

	// Writes is called before each attempt to write to the log, and what it
	// returns with the outcome, at once after it: who makes room on a disk that
	// is full is given a second attempt. nil: nobody wants to know.
	Writes func() (ended func(error))
}

func (c *Config) complete() error {
	switch {
	case c.Name == "":
		return errors.New("node has no name")
	case c.Log == nil || c.Stable == nil || c.Snapshots == nil || c.Transport == nil:
		return errors.New("node needs log, stable and snapshot stores and a transport")
	case string(c.Transport.LocalAddr()) != c.Name:
		return fmt.Errorf("transport speaks for %q, not for %q", c.Transport.LocalAddr(), c.Name)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Store == nil {
		c.Store = state.New()
	}
	for value, preset := range map[*time.Duration]time.Duration{
		&c.HeartbeatTimeout:   300 * time.Millisecond,
		&c.ElectionTimeout:    300 * time.Millisecond,
		&c.LeaderLeaseTimeout: 300 * time.Millisecond,
		&c.CommitTimeout:      50 * time.Millisecond,
		&c.SnapshotInterval:   30 * time.Second,
		&c.StallAfter:         2 * time.Second,
	} {
		if *value == 0 {
			*value = preset
		}
	}
	if c.Writes == nil {
		c.Writes = func() func(error) { return func(error) {} }
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = 50_000
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 20_000
	}
	return nil
}

// raft returns the configuration of the library.
func (c *Config) raft() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.Name)
	rc.HeartbeatTimeout = c.HeartbeatTimeout
	rc.ElectionTimeout = c.ElectionTimeout
	rc.LeaderLeaseTimeout = c.LeaderLeaseTimeout
	rc.CommitTimeout = c.CommitTimeout
	rc.MaxAppendEntries = 512
	rc.BatchApplyCh = true
	rc.ShutdownOnRemove = false // who is removed goes on as a spectator
	rc.TrailingLogs = c.TrailingLogs
	rc.SnapshotInterval = c.SnapshotInterval
	rc.SnapshotThreshold = c.SnapshotThreshold
	rc.NoLegacyTelemetry = true
	rc.Logger = newBridge(c.Logger)
	return rc
}

// A Node is this machine's part in the agreement. One that is in no
// configuration yet waits in silence to be added by a leader.
type Node struct {
	cfg    Config
	log    *slog.Logger
	store  *state.Store
	writes *writing
	logs   *logStore
	gate   *gate
	queue  queue
	duties []Duty

	raft   atomic.Pointer[raft.Raft] // nil before Run and after
	reign  atomic.Pointer[reign]     // nil while another leads
	leader leaderCell
	heard  atomic.Uint64 // the term in which a leader was first heard, 0 before
	reigns chan *reign   // begun reigns, latest only

	calls   sync.WaitGroup // into raft that have not been answered
	callsMu sync.Mutex
	stopped bool // no more calls; guarded by callsMu
}

// Open prepares a node; Run makes it take part. Open writes to the stores only
// when it bootstraps.
func Open(cfg Config) (*Node, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	gate, err := newGate(cfg.Transport)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:    cfg,
		log:    cfg.Logger.With("component", "consensus"),
		store:  cfg.Store,
		gate:   gate,
		queue:  newQueue(),
		reigns: make(chan *reign, 1),
	}
	n.leader.changed = make(chan struct{})
	n.writes = newWriting(&n.cfg, n.stalled, n.recovered)
	n.logs, err = newLogStore(cfg.Log, cfg.Snapshots, n.writes)
	if err != nil {
		return nil, err
	}
	if cfg.Bootstrap {
		if err := n.bootstrap(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *Node) stable() stable { return stable{n.cfg.Stable, n.writes} }

// Store returns the agreed objects as far as this node knows them. Only members
// hear of changes.
func (n *Node) Store() *state.Store { return n.store }

// Run takes part until ctx ends, then hands leadership over if it leads and
// others can, and returns nil after everything it started has ended. It returns
// an error if raft cannot start, if a duty fails, or if the disk hangs so that
// it cannot stop. It closes the transport and leaves the stores open. It may be
// called once.
func (n *Node) Run(ctx context.Context) error {
	led := make(chan bool)
	rc := n.cfg.raft()
	rc.NotifyCh = led
	cache, err := raft.NewLogCache(64, n.logs)
	if err != nil {
		return errors.Join(fmt.Errorf("make log cache: %w", err), n.gate.Close())
	}
	r, err := raft.NewRaft(rc, &fsm{store: n.store, codec: newCodec()}, cache, n.stable(), snapshots{n.cfg.Snapshots, n.logs}, n.gate)
	if err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), n.gate.Close())
	}
	n.raft.Store(r)

	life, end := context.WithCancel(context.WithoutCancel(ctx)) // of what must outlive ctx
	defer end()
	ruling, abdicate := context.WithCancelCause(ctx) // of duties
	defer abdicate(nil)
	var parts sync.WaitGroup
	parts.Go(func() { n.followLeadership(life, r, led) })
	parts.Go(func() { n.propose(life, r) })
	dutiesDone := make(chan struct{})
	go func() {
		defer close(dutiesDone)
		if err := n.rule(ruling, r); err != nil {
			abdicate(err)
		}
	}()

	<-ruling.Done()
	failure := context.Cause(ruling)
	if ctx.Err() != nil {
		failure = nil
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.handOver(life, r)
		n.writes.stop()
		<-dutiesDone
		n.queue.close()
		n.refuseCalls()
		_ = r.Shutdown().Error() // never fails; closes the transport
		end()
		parts.Wait()
		n.raft.Store(nil)
		n.updateLeader(nil)
	}()
	return errors.Join(failure, n.awaitStop(stopped))
}

// awaitStop waits for the end, but not for a disk that never answers: a write
// hangs in the kernel, and nothing here can end it.
func (n *Node) awaitStop(stopped <-chan struct{}) error {
	for {
		select {
		case <-stopped:
			return nil
		case <-time.After(10 * time.Second):
			if n.writes.hangs() {
				return errors.New("stop raft: a write to its log hangs")
			}
		}
	}
}

// handOver gives leadership to the voter that is furthest along and answers. It
// tries each once.
func (n *Node) handOver(ctx context.Context, r *raft.Raft) {
	if n.writes.hangs() {
		return
	}
	for _, name := range n.heirs() {
		if r.State() != raft.Leader {
			return
		}
		err := r.LeadershipTransferToServer(raft.ServerID(name), raft.ServerAddress(name)).Error()
		if err == nil {
			n.log.InfoContext(ctx, "leadership handed over", "node", name)
			return
		}
		n.log.InfoContext(ctx, "leadership not handed over", "node", name, "err", err)
	}
}
