// Package leader owns what only the leader does: it turns Deployments into Pods,
// finds nodes for Pods, judges silent nodes and replaces what ran on them, keeps
// the right number of voters, turns the gossip keys, and removes what nobody
// owns. Who leads it leaves to package consensus, where a Pod fits to package
// place, what a node does with its Pods to the node, and what is asked for to
// people.
//
// Everything here reads a model that the store's changes keep up to date, plans
// without side effects, and writes transactions that are refused when what they
// are based on has changed. So it may be interrupted at any point: whoever leads
// next goes on from what the log says.
package leader

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-dev/skein/agent/leader/verdict"
	"github.com/skein-dev/skein/agent/lease"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Consensus is the agreed state, and the way to change it.
type Consensus interface {
	Store() *state.Store
	Commit(ctx context.Context, txn *logv1.Txn) (uint64, error)
	// Confirm tells whether a quorum still follows this leader.
	Confirm(ctx context.Context) error
}

// Voting changes who votes. prevIndex is that which Members gave: a change that
// is based on an old list fails.
type Voting interface {
	Members() (members []consensus.Member, index uint64, err error)
	AddNonvoter(ctx context.Context, name string, prevIndex uint64) error
	AddVoter(ctx context.Context, name string, prevIndex uint64) error
	Demote(ctx context.Context, name string, prevIndex uint64) error
	Remove(ctx context.Context, name string, prevIndex uint64) error
	TransferLeadership(ctx context.Context, name string) error
	Progress(name string) (consensus.Progress, bool)
}

// Prober reaches nodes by fresh datagrams, to see whether they live.
type Prober interface {
	// Probe asks helper to try. An error means that helper did not answer.
	Probe(ctx context.Context, helper, node string, epoch uint64) (skeinv1.ProbeResult, error)
	// ProbeSelf tries from here.
	ProbeSelf(ctx context.Context, node string, epoch uint64) skeinv1.ProbeResult
}

// Preparer hands a node what it must hold before it may vote.
type Preparer interface {
	Prepare(ctx context.Context, node string) error
}

// Config is what a Leader needs.
type Config struct {
	Name      string // of this node
	Consensus Consensus
	Voting    Voting
	Prober    Prober
	Preparer  Preparer
	// Observers takes a snapshot of who observes whom, by this agent's own view
	// of the ring: only their reports count. nil: everybody observes everybody.
	Observers func() func(node string) []string
	// Load tells how busy a node is, 0 to 1, and whether anybody knows. nil
	// where nobody does.
	Load func(node string) (float64, bool)
	// AgentGrace is how long an agent may be away from a machine that lives
	// before its Pods are replaced; 0: 30 s.
	AgentGrace time.Duration
	Now        func() time.Time // the wall clock, for what others are told; nil: time.Now
	UID        func() string
	Random     func() uint64
	Logger     *slog.Logger
}

// A Leader does what only the leader does, in the terms in which this node is it.
type Leader struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	streams map[string]int // open ones by node, whether this node leads or not
	now     *reign         // nil while another leads
	acks    acks
}

// New returns a leader that waits for its first term.
func New(cfg Config) *Leader {
	if cfg.AgentGrace == 0 {
		cfg.AgentGrace = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Leader{cfg: cfg, log: cfg.Logger.With("component", "leader"), streams: map[string]int{}, acks: acks{upTo: map[string]uint64{}, moved: make(chan struct{})}}
}

// A reign is one term of leading.
type reign struct {
	Config
	log     *slog.Logger
	term    uint64
	store   *state.Store
	model   *model
	court   *court
	turn    chan struct{} // held while one plans and writes, see take
	events  *recorder
	brakes  *brakes
	leases  leases
	budget  verdict.Budget // of moves; whoever has the turn spends it
	trimmed time.Time      // when old events were last removed; the garbage loop's
	audited time.Time      // when EndpointSlices and Selections of nobody were last looked for; the endpoints loop's
}

// Run leads for one term, until ctx ends. It is a consensus.Duty: what earlier
// terms wrote is in the store already.
func (l *Leader) Run(ctx context.Context, term uint64) error {
	log := l.log.With("term", term)
	r := &reign{
		Config: l.cfg, log: log, term: term, store: l.cfg.Consensus.Store(),
		model: newModel(log, l.cfg.Now), turn: make(chan struct{}, 1),
	}
	r.brakes = &brakes{held: map[Brake]Brake{}}
	r.leases.table = lease.NewTable(time.Now())
	r.events = newRecorder(r)
	r.court = newCourt(r)
	l.begin(r)
	defer l.end()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.model.follow(ctx, r.store) })
	select {
	case <-ctx.Done():
	case <-r.model.begun:
		for _, loop := range r.loops() {
			group.Go(func() error { return loop.Run(ctx) })
		}
		group.Go(func() error { return r.court.run(ctx) })
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (r *reign) loops() []*reconcile.Loop {
	rollouts := &rollouts{reign: r, due: map[state.Key]due{}}
	placement := &placement{reign: r}
	bells := r.model.bells
	return []*reconcile.Loop{
		{Name: "deployments", Wake: bells.deployments.C, Resync: time.Minute, Do: rollouts.do, Logger: r.log},
		{Name: "placement", Wake: bells.placement.C, Resync: 10 * time.Second, Do: placement.do, Logger: r.log},
		{Name: "lost nodes", Wake: bells.nodes.C, Resync: 10 * time.Second, Do: r.sweep, Logger: r.log},
		{Name: "garbage", Wake: bells.garbage.C, Resync: time.Minute, Do: r.collect, Logger: r.log},
		{Name: "events", Wake: r.events.bell.C, Resync: time.Minute, Do: r.events.flush, Logger: r.log},
		{Name: "voters", Wake: bells.voters.C, Resync: 10 * time.Second, Do: r.keepVoters, Logger: r.log},
		{Name: "addresses", Wake: bells.blocks.C, Resync: time.Minute, Do: r.giveBlocks, Logger: r.log},
		{Name: "endpoints", Wake: bells.endpoints.C, Resync: time.Minute, Do: r.keepEndpoints, Logger: r.log},
		{Name: "policies", Wake: bells.selections.C, Resync: time.Minute, Do: r.keepSelections, Logger: r.log},
		{Name: "keyring", Resync: time.Minute, Do: r.turnKeys, Logger: r.log},
	}
}

// take waits for the turn of the caller to plan and write. One at a time does
// so, and gives it back once the model knows what was written: so nobody plans
// with room that another has just given away, or makes a Pod that another has
// just made. It is no lock on data: those who only read do not wait for it.
func (r *reign) take(ctx context.Context) (release func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// commit writes one transaction and returns once the model knows of it.
func (r *reign) commit(ctx context.Context, ops []*logv1.Op) (uint64, error) {
	changes, seen := false, false
	for _, op := range ops {
		changes = changes || !op.GetCheck()
		seen = seen || !op.GetCheck() && isFollowed(op.GetKey().GetKind())
	}
	if !changes {
		return 0, nil
	}
	index, err := r.Consensus.Commit(ctx, &logv1.Txn{Ops: ops})
	if err != nil || !seen {
		return index, err
	}
	return index, r.model.reached(ctx, index)
}

// conflict tells whether somebody was faster: read again, think again.
func conflict(err error) bool {
	var c *state.ConflictError
	return errors.As(err, &c)
}

func (l *Leader) begin(r *reign) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = r
	for name := range l.streams {
		r.court.streamOpened(name)
	}
}

func (l *Leader) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = nil
}

// Suspect hears that reporter misses a node's beats, or hears them again. Who
// suspects repeats it to whoever leads, so what comes between two terms is lost
// without harm.
func (l *Leader) Suspect(reporter string, report *skeinv1.SuspectRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now.court.suspect(reporter, report)
	}
}

// StreamOpened hears that a node's agent follows this one.
func (l *Leader) StreamOpened(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams[node]++
	if l.now != nil {
		l.now.court.streamOpened(node)
	}
}

// StreamClosed hears that one stream of a node has ended.
func (l *Leader) StreamClosed(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[node]--; l.streams[node] > 0 {
		return
	}
	delete(l.streams, node)
	if l.now != nil {
		l.now.court.streamClosed(node)
	}
}

// Heard hears that a node has reported.
func (l *Leader) Heard(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now.court.heard(node)
	}
}
