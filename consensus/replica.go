package consensus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/consensus/state"
)

// A Source streams rows. A *state.Store is one; what asks another node is one.
type Source interface {
	Follow(ctx context.Context, since uint64, epoch string, selectors []state.Selector) iter.Seq2[state.Batch, error]
}

var _ Source = (*state.Store)(nil)

// ReplicaConfig says what a Replica copies and from where. Selectors and Source
// are required.
type ReplicaConfig struct {
	Path      string // of the file that keeps the copy; "": it is not kept
	Selectors []state.Selector
	// Source finds somebody to follow. It is asked again whenever a stream ends,
	// at first after 50-100 ms, then after up to 5 s.
	Source func(ctx context.Context) (Source, error)

	Logger *slog.Logger // nil: silent
	Store  *state.Store // empty; nil: a new one
	// Writes is called before each write of the file, and what it returns with
	// the outcome; nil: nobody wants to know.
	Writes func() (ended func(error))
}

const (
	minRetry = 100 * time.Millisecond
	maxRetry = 5 * time.Second
)

// A Replica is a copy of some of the agreed objects on a node that need not hold
// the log. It lags behind its source, never ahead of what was agreed; its rows
// have the versions that they have in the log. It remembers across restarts.
type Replica struct {
	cfg   ReplicaConfig
	log   *slog.Logger
	store *state.Store
	file  *replicaFile // nil: not kept

	resume bool // the copy was made with these selectors

	mu       sync.Mutex
	live     bool          // a stream is open and has told everything
	contact  time.Time     // when live ended
	synced   chan struct{} // closed when first live
	switched chan struct{} // closed by the next Reconnect
}

// NewReplica returns a replica that holds what its file remembers. A damaged
// file is as good as none: it says so in the log.
func NewReplica(cfg ReplicaConfig) *Replica {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Store == nil {
		cfg.Store = state.New()
	}
	r := &Replica{
		cfg:      cfg,
		log:      cfg.Logger.With("component", "replica"),
		store:    cfg.Store,
		switched: make(chan struct{}),
		synced:   make(chan struct{}),
	}
	if cfg.Path != "" {
		r.file = newReplicaFile(cfg.Path, cfg.Selectors)
		r.file.began = cfg.Writes
		same, err := r.file.load(r.store)
		if err != nil {
			r.log.Warn("kept copy is not readable, beginning without", "path", cfg.Path, "err", err)
		}
		r.resume = same
	}
	return r
}

// Store returns the copy, to read and to watch. It is empty until Synced if no
// file remembered it, so absence means nothing until then.
func (r *Replica) Store() *state.Store { return r.store }

// Synced reports whether the copy has been up to date with a source at least
// once since NewReplica.
func (r *Replica) Synced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

// SyncedC returns a channel that is closed once Synced.
func (r *Replica) SyncedC() <-chan struct{} { return r.synced }

// Contact returns how fresh the copy is: now while a source feeds it, else when
// one last did, the zero time if none has since NewReplica.
func (r *Replica) Contact() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live {
		return time.Now()
	}
	return r.contact
}

// Reconnect makes the replica ask for a source again at once. For the owner, when
// the leader has changed.
func (r *Replica) Reconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.switched)
	r.switched = make(chan struct{})
}

func (r *Replica) nextSwitch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.switched
}

// Run follows sources and keeps the copy until ctx ends, then returns nil.
func (r *Replica) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	if r.file != nil {
		parts.Go(func() { r.file.keep(ctx, r.store, r.log) })
	}
	retry := minRetry
	for ctx.Err() == nil {
		switched := r.nextSwitch() // taken before a source is asked for
		begun, err := r.follow(ctx, switched)
		if begun {
			retry = minRetry
		}
		pause := retry/2 + rand.N(retry/2) //nolint:gosec // spreads load, keeps no secret
		r.log.DebugContext(ctx, "source lost", "err", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-switched:
			retry = minRetry
		case <-time.After(pause):
			retry = min(2*retry, maxRetry)
		}
	}
	return nil
}

var errSwitched = errors.New("another source is wanted")

// follow follows one source until it ends or switched is closed, and reports
// whether it told anything.
func (r *Replica) follow(ctx context.Context, switched <-chan struct{}) (begun bool, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop(nil)
	parts.Go(func() {
		select {
		case <-switched:
			stop(errSwitched)
		case <-ctx.Done():
		}
	})

	source, err := r.cfg.Source(ctx)
	if err != nil {
		return false, fmt.Errorf("find a source: %w", err)
	}
	since := r.store.Index()
	if !r.resume {
		since = 0
	}
	defer r.setLive(false)
	for b, err := range state.Whole(source.Follow(ctx, since, r.store.Epoch(), slices.Clone(r.cfg.Selectors))) {
		if err != nil {
			return begun, fmt.Errorf("follow: %w", err)
		}
		if r.store.ApplyBatch(b) && r.file != nil {
			r.file.changed()
		}
		r.resume = true
		begun = true
		r.setLive(true)
	}
	return begun, errors.New("follow: stream ended")
}

func (r *Replica) setLive(live bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live && !live {
		r.contact = time.Now()
	}
	r.live = live
	if live && !r.Synced() {
		close(r.synced)
	}
}
