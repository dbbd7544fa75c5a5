package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// ErrNoCluster says that this node has not been added to a cluster.
var ErrNoCluster = errors.New("not in a cluster yet")

// A Member takes part in raft: a voter, or one that only holds the log.
type Member struct {
	Name  string
	Voter bool
}

// Members returns who takes part, sorted by name, as far as this node knows, and
// the index of the entry that says so, for the calls that change it. The last
// change may not be committed yet.
func (n *Node) Members() ([]Member, uint64, error) {
	latest := n.logs.latest()
	if latest.index == 0 {
		return nil, 0, ErrNoCluster
	}
	members := make([]Member, len(latest.servers))
	for i, s := range latest.servers {
		members[i] = Member{Name: string(s.ID), Voter: s.Suffrage == raft.Voter}
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members, latest.index, nil
}

func (n *Node) otherVoters() []string {
	var names []string
	for _, s := range n.logs.latest().servers {
		if s.Suffrage == raft.Voter && string(s.ID) != n.cfg.Name {
			names = append(names, string(s.ID))
		}
	}
	return names
}

// heirs returns the other voters that answered lately, the furthest first.
func (n *Node) heirs() []string {
	names := slices.DeleteFunc(n.otherVoters(), func(name string) bool {
		p, ok := n.gate.peer(raft.ServerID(name))
		return !ok || time.Since(p.heard) > n.cfg.HeartbeatTimeout
	})
	slices.SortFunc(names, func(a, b string) int {
		pa, _ := n.gate.peer(raft.ServerID(a))
		pb, _ := n.gate.peer(raft.ServerID(b))
		return cmp.Compare(pb.lastIndex, pa.lastIndex)
	})
	return names
}

// Progress is how far a member was when it last answered this leader.
type Progress struct {
	LastIndex   uint64 // of its log
	Behind      uint64 // entries that this node has beyond that
	LastContact time.Time
}

// Progress returns how far a member is. It is known only on a leader, and only
// of members that answered it.
func (n *Node) Progress(name string) (Progress, bool) {
	r := n.raft.Load()
	p, ok := n.gate.peer(raft.ServerID(name))
	if r == nil || !ok || !n.IsLeader() {
		return Progress{}, false
	}
	progress := Progress{LastIndex: p.lastIndex, LastContact: p.heard}
	if own := r.LastIndex(); own > p.lastIndex {
		progress.Behind = own - p.lastIndex
	}
	return progress, true
}

// Contact returns a time up to which this node has applied all that was
// acknowledged, as far as it can tell: now on a leader that is ready, the zero time
// if no leader was heard since Run. A follower learns of a commit up to twice
// Config.CommitTimeout late.
func (n *Node) Contact() time.Time {
	r := n.raft.Load()
	switch {
	case r == nil:
		return time.Time{}
	case n.IsLeader():
		return time.Now()
	}
	heard := r.LastContact()
	if heard.IsZero() {
		return heard
	}
	return heard.Add(-2 * n.cfg.CommitTimeout)
}

// Stalled reports whether a write to the log has been taking too long, or is
// refused by the disk, and has not ended yet.
func (n *Node) Stalled() bool { return n.writes.hangs() }

// Away tells that this node takes no part for now: its log does not take what it
// has to keep, and it has left the network, so it hears of no leader.
func (n *Node) Away() bool { return n.gate.closed() }

// Term returns the term that this node knows of, 0 outside of Run.
func (n *Node) Term() uint64 {
	if r := n.raft.Load(); r != nil {
		return r.CurrentTerm()
	}
	return 0
}

// AddNonvoter makes a node a member without a vote. A prevIndex other than 0 is
// the index that Members gave: if they have changed since, the answer is
// ErrMembersChanged. All of these calls are for the leader and return once the
// change is committed and the voters that answer know of it.
func (n *Node) AddNonvoter(ctx context.Context, name string, prevIndex uint64) error {
	return n.reconfigure(ctx, "add member "+name, func(r *raft.Raft, patience time.Duration) raft.Future {
		return r.AddNonvoter(raft.ServerID(name), raft.ServerAddress(name), prevIndex, patience)
	})
}

// AddVoter gives a node a vote, whether it was a member or not. See AddNonvoter.
func (n *Node) AddVoter(ctx context.Context, name string, prevIndex uint64) error {
	return n.reconfigure(ctx, "add voter "+name, func(r *raft.Raft, patience time.Duration) raft.Future {
		return r.AddVoter(raft.ServerID(name), raft.ServerAddress(name), prevIndex, patience)
	})
}

// Demote takes a member's vote. A leader that demotes itself steps down, so hand
// leadership over first. See AddNonvoter.
func (n *Node) Demote(ctx context.Context, name string, prevIndex uint64) error {
	return n.reconfigure(ctx, "demote "+name, func(r *raft.Raft, patience time.Duration) raft.Future {
		return r.DemoteVoter(raft.ServerID(name), prevIndex, patience)
	})
}

// Remove ends a node's membership. See AddNonvoter.
func (n *Node) Remove(ctx context.Context, name string, prevIndex uint64) error {
	return n.reconfigure(ctx, "remove member "+name, func(r *raft.Raft, patience time.Duration) raft.Future {
		return r.RemoveServer(raft.ServerID(name), prevIndex, patience)
	})
}

// TransferLeadership makes another voter the leader and returns when this node
// has stepped down for it.
func (n *Node) TransferLeadership(ctx context.Context, name string) error {
	return n.change(ctx, "hand leadership to "+name, func(r *raft.Raft, _ time.Duration) raft.Future {
		return r.LeadershipTransferToServer(raft.ServerID(name), raft.ServerAddress(name))
	})
}

// Confirm returns nil if a quorum, asked after it was called, still took this
// node for its leader.
func (n *Node) Confirm(ctx context.Context) error {
	now := n.reign.Load()
	if !now.isReady() {
		return ErrNotLeader
	}
	if len(n.otherVoters()) == 0 {
		return nil // nobody else could lead; and raft itself may wait for a disk
	}
	// Raft counts answers to heartbeats that it sent before it was asked, which
	// after a pause of the whole process may be old. So the gate counts too.
	round := n.gate.mark()
	for {
		err := n.change(ctx, "confirm leadership", func(r *raft.Raft, _ time.Duration) raft.Future {
			return r.VerifyLeader()
		})
		if err != nil {
			return err
		}
		others := n.otherVoters()
		agreed, more := n.gate.agreed(round, others)
		if 1+agreed > (1+len(others))/2 {
			return nil
		}
		select {
		case <-more:
		case <-now.lost:
			return fmt.Errorf("confirm leadership: %w", ErrNotLeader)
		case <-ctx.Done():
			return fmt.Errorf("confirm leadership: %w", context.Cause(ctx))
		}
	}
}

// ReadIndex returns an index such that a store which has reached it holds every
// write acknowledged before the call. It is for the leader and asks a quorum.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	if !n.IsLeader() { // ready: what earlier leaders acknowledged is here
		return 0, ErrNotLeader
	}
	index := n.store.Index() // what this one acknowledged is here too
	if err := n.Confirm(ctx); err != nil {
		return 0, err
	}
	return index, nil
}

// settleTime bounds how long a change of members waits for voters to know of it.
const settleTime = time.Second

// reconfigure changes the members. A quorum is enough to commit the change, but
// the library's voters refuse their vote to a candidate that their own list does
// not have, so if the leader died before the rest had heard, those left might
// never elect. Hence the wait.
func (n *Node) reconfigure(ctx context.Context, what string, ask func(*raft.Raft, time.Duration) raft.Future) error {
	now := n.reign.Load()
	if err := n.change(ctx, what, ask); err != nil {
		return err
	}
	if now == nil {
		return nil // raft took it before this node noticed that it leads
	}
	enough := time.NewTimer(settleTime)
	defer enough.Stop()
	index := n.logs.latest().index
	for {
		lagging, more := n.lagging(index)
		if !lagging {
			return nil
		}
		select {
		case <-more:
		case <-enough.C:
			return nil
		case <-now.lost:
			return nil
		case <-ctx.Done():
			return nil // it is committed all the same
		}
	}
}

// lagging reports whether a voter that answers, or has never been asked, has not
// got the entry at index, and returns a channel closed when that may change.
func (n *Node) lagging(index uint64) (bool, <-chan struct{}) {
	_, more := n.gate.agreed(0, nil)
	for _, name := range n.otherVoters() {
		p, ok := n.gate.peer(raft.ServerID(name))
		if !ok || time.Since(p.heard) <= n.cfg.HeartbeatTimeout && p.lastIndex < index {
			return true, more
		}
	}
	return false, more
}

// change calls raft and translates its answer.
func (n *Node) change(ctx context.Context, what string, ask func(*raft.Raft, time.Duration) raft.Future) error {
	r := n.raft.Load()
	if r == nil {
		return fmt.Errorf("%s: %w", what, ErrNotLeader)
	}
	patience := 5 * time.Second // until raft takes the request
	if deadline, ok := ctx.Deadline(); ok {
		patience = max(time.Millisecond, time.Until(deadline))
	}
	err := n.call(ctx, func() error { return ask(r, patience).Error() })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%s: %w", what, ErrNotLeader)
	case errors.Is(err, raft.ErrLeadershipLost):
		return fmt.Errorf("%s: %w: %w", what, ErrUncertain, err)
	case strings.HasPrefix(err.Error(), "configuration changed since"):
		return fmt.Errorf("%s: %w", what, ErrMembersChanged)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// call runs ask, a call into raft, but waits no longer than ctx lasts. Raft
// answers every call while it runs and none after, so Run shuts it down only
// when all have been answered.
func (n *Node) call(ctx context.Context, ask func() error) error {
	if !n.beginCall() {
		return ErrNotLeader
	}
	result := make(chan error, 1)
	go func() {
		defer n.calls.Done()
		result <- ask()
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUncertain, context.Cause(ctx))
	}
}

func (n *Node) beginCall() bool {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	if n.stopped {
		return false
	}
	n.calls.Add(1)
	return true
}

// refuseCalls returns once no call is unanswered and none will come.
func (n *Node) refuseCalls() {
	n.callsMu.Lock()
	n.stopped = true
	n.callsMu.Unlock()
	n.calls.Wait()
}

// CaughtUp reports whether Store holds all that was committed before this node
// first heard a leader since Run. It is false until then: a log that was read
// back from disk says nothing of what in it was agreed on, so the store of a
// node that has just started is empty or old, and absence means nothing. To hear
// a leader is not enough, as heartbeats do not tell either: an entry of a leader's
// own term that is committed has everything of earlier terms before it. It is
// false too while the node is Away: others go on without it.
func (n *Node) CaughtUp() bool {
	r, heard := n.raft.Load(), n.heard.Load()
	if r == nil || heard == 0 || n.Away() {
		return false
	}
	if n.IsLeader() {
		return true
	}
	commit := r.CommitIndex()
	return commit > 0 && r.AppliedIndex() >= commit && n.termAt(r, commit) >= heard
}

// termAt returns the term of an entry that is committed, 0 if it is not known.
func (n *Node) termAt(r *raft.Raft, index uint64) uint64 {
	var log raft.Log
	if err := n.logs.LogStore.GetLog(index, &log); err == nil {
		return log.Term
	}
	stats := r.Stats() // a snapshot took its place
	if last, err := strconv.ParseUint(stats["last_snapshot_index"], 10, 64); err != nil || last < index {
		return 0
	}
	term, _ := strconv.ParseUint(stats["last_snapshot_term"], 10, 64)
	return term
}
