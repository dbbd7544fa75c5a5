package consensus

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A Duty is what only the leader does. It is called once for each term that this
// node leads, after everything committed in earlier terms has been applied here.
// ctx ends when leadership does; no duty of a later term begins before it has
// returned. nil before that means that there is nothing more to do this term; an
// error while ctx lasts ends Node.Run.
type Duty func(ctx context.Context, term uint64) error

// Lead registers a duty. Call it before Run. The duties of one term run side by
// side.
func (n *Node) Lead(duty Duty) { n.duties = append(n.duties, duty) }

// A reign is one stretch of leadership without a gap. Leadership that is lost
// and won again, however quickly, is two.
type reign struct {
	term uint64
	lost chan struct{}
	once sync.Once

	mu    sync.Mutex
	ready bool // what came before this term has been applied here
}

func (r *reign) end() { r.once.Do(func() { close(r.lost) }) }

func (r *reign) over() bool {
	select {
	case <-r.lost:
		return true
	default:
		return false
	}
}

func (r *reign) isReady() bool {
	if r == nil || r.over() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// followLeadership turns raft's notices into reigns. Raft's main loop waits for
// each notice to be taken, so nothing here may wait for raft.
func (n *Node) followLeadership(ctx context.Context, r *raft.Raft, led <-chan bool) {
	seen := make(chan raft.Observation, 1)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	})
	r.RegisterObserver(observer)
	defer r.DeregisterObserver(observer)
	n.updateLeader(r)
	for {
		select {
		case <-ctx.Done():
			n.endReign()
			return
		case won := <-led:
			n.endReign()
			n.pace(r, won)
			if won {
				// The notice of loss comes through this loop too, so the term
				// read here is below that of the next reign.
				n.beginReign(&reign{term: r.CurrentTerm(), lost: make(chan struct{})})
			} else {
				n.gate.open() // whoever stepped down may be heard again
			}
		case <-seen:
		}
		n.updateLeader(r)
	}
}

// beatSlower is by how much a leader beats slower than raft would have it. Raft
// takes a tenth of its own timeout, 30-60 ms of 300, and each beat wakes
// processes that have nothing else to do: most of what an idle cluster costs. At
// 75-150 ms a follower still hears two in its shortest timeout.
const beatSlower = 2.5

// pace sets how often this node beats while it leads, and how soon it misses
// the beats of another when it does not.
func (n *Node) pace(r *raft.Raft, leading bool) {
	c := r.ReloadableConfig()
	c.HeartbeatTimeout, c.ElectionTimeout = n.cfg.HeartbeatTimeout, n.cfg.ElectionTimeout
	if leading {
		c.HeartbeatTimeout = time.Duration(beatSlower * float64(c.HeartbeatTimeout))
		c.ElectionTimeout = max(c.ElectionTimeout, c.HeartbeatTimeout)
	}
	if err := r.ReloadConfig(c); err != nil {
		n.log.Error("cannot set the pace of heartbeats", "err", err)
	}
}

func (n *Node) beginReign(r *reign) {
	n.reign.Store(r)
	select {
	case <-n.reigns: // an older one, lost before anybody saw it
	default:
	}
	n.reigns <- r
}

func (n *Node) endReign() {
	if r := n.reign.Swap(nil); r != nil {
		r.end()
	}
}

// rule runs the duties of one reign after the other until ctx ends or one fails.
func (n *Node) rule(ctx context.Context, r *raft.Raft) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-n.reigns:
			if err := n.ruleTerm(ctx, r, now); err != nil {
				return err
			}
		}
	}
}

func (n *Node) ruleTerm(ctx context.Context, r *raft.Raft, now *reign) error {
	term, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() {
		select {
		case <-now.lost:
			stop(ErrNotLeader)
		case <-term.Done():
		}
	})
	defer stop(nil)

	if !n.ascend(term, r, now) {
		return nil
	}
	n.log.InfoContext(ctx, "leading", "term", now.term)
	var duties sync.WaitGroup
	for _, duty := range n.duties {
		duties.Go(func() {
			if err := duty(term, now.term); err != nil && term.Err() == nil {
				stop(fmt.Errorf("lead term %d: %w", now.term, err))
			}
		})
	}
	<-term.Done()
	duties.Wait()
	if ctx.Err() != nil || now.over() {
		n.log.InfoContext(ctx, "no longer leading", "term", now.term)
		return nil
	}
	return context.Cause(term)
}

// ascend makes the store current and reports whether the reign still lasts. The
// first leader of a cluster also names the lineage of its indexes.
func (n *Node) ascend(ctx context.Context, r *raft.Raft, now *reign) bool {
	if !n.insist(ctx, r, now, func() error { return r.Barrier(0).Error() }) {
		return false
	}
	if r.CurrentTerm() != now.term {
		return false
	}
	if n.store.Epoch() == "" {
		data := newCodec().encode(epochEntry(rand.Text()))
		if !n.insist(ctx, r, now, func() error { return r.Apply(data, 0).Error() }) {
			return false
		}
	}
	now.mu.Lock()
	now.ready = true
	now.mu.Unlock()
	n.updateLeader(r)
	return !now.over()
}

// insistEvery is the pause between two attempts at what raft refuses.
const insistEvery = 20 * time.Millisecond

// insist does what a reign cannot begin without, and reports whether the reign
// still lasts. Raft refuses for a moment what a new leader asks while its own
// hand-over of an earlier term is being wound up; to give up then would leave
// the cluster with a leader that never leads.
func (n *Node) insist(ctx context.Context, r *raft.Raft, now *reign, do func() error) bool {
	for {
		err := n.call(ctx, do)
		if err == nil {
			return true
		}
		if ctx.Err() != nil || now.over() || r.State() != raft.Leader {
			return false
		}
		n.log.DebugContext(ctx, "raft refuses its leader", "term", now.term, "err", err)
		pause := time.NewTimer(insistEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return false
		}
	}
}

// stalled is called when a log write takes too long, or is refused. Heartbeats would go on
// without the disk and keep others from electing, so a leader among several
// voters leaves the network until it has stepped down.
func (n *Node) stalled() {
	if len(n.otherVoters()) == 0 {
		n.log.Error("the disk does not take what the log has to keep")
		return
	}
	n.log.Error("the disk does not take what the log has to keep, leaving the network")
	n.gate.close()
	if r := n.reign.Load(); r != nil {
		r.end()
	}
	n.updateLeader(n.raft.Load())
}

// recovered is called by raft's main loop when such a write has returned.
func (n *Node) recovered() {
	r := n.raft.Load()
	n.log.Info("log write returned")
	if r == nil || r.State() != raft.Leader {
		n.gate.open()
		n.updateLeader(r)
	} // else its lease ends while nobody hears it, and it steps down
}

// leaderCell holds who leads, and a channel closed when that changes.
type leaderCell struct {
	mu      sync.Mutex
	name    string
	changed chan struct{}
}

// Leader returns the name of the leader, "" while none is known. It names this
// node only once it is ready to lead, so that Leader() == name is IsLeader().
func (n *Node) Leader() string {
	n.leader.mu.Lock()
	defer n.leader.mu.Unlock()
	return n.leader.name
}

// LeaderChanged returns a channel that is closed when Leader will answer
// differently. Take it before asking.
func (n *Node) LeaderChanged() <-chan struct{} {
	n.leader.mu.Lock()
	defer n.leader.mu.Unlock()
	return n.leader.changed
}

// IsLeader reports whether this node leads and its store holds all that earlier
// leaders committed. Another may have been elected already: see Confirm.
func (n *Node) IsLeader() bool { return n.reign.Load().isReady() }

// updateLeader looks who leads; a nil r means nobody, and who is off the network
// does not know.
func (n *Node) updateLeader(r *raft.Raft) {
	n.leader.mu.Lock()
	defer n.leader.mu.Unlock()
	name := ""
	if r != nil && !n.gate.closed() {
		_, id := r.LeaderWithID()
		if name = string(id); name != "" {
			n.heard.CompareAndSwap(0, r.CurrentTerm())
		}
	}
	if n.IsLeader() {
		name = n.cfg.Name
	} else if name == n.cfg.Name {
		name = ""
	}
	if name != n.leader.name {
		n.leader.name = name
		close(n.leader.changed)
		n.leader.changed = make(chan struct{})
	}
}
