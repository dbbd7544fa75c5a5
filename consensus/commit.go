package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

const (
	maxTxn       = 4 << 20   // bytes of one transaction
	maxEntryTxns = 64        // transactions in one entry
	maxEntryData = 256 << 10 // bytes of them, unless one alone is larger
	maxInFlight  = 2         // entries proposed and not answered
)

// Commit proposes txn and returns the index of the entry that holds it once it
// has been applied here. Transactions that wait at the same time share an entry,
// and one whole entry becomes visible at once; each succeeds or is refused by
// itself. txn may be reused as soon as Commit returns.
//
// The error is a *state.ConflictError if an expectation did not hold, wraps
// ErrNotLeader or ErrInvalid if nothing was proposed, and wraps ErrUncertain if
// it was and nobody knows what became of it.
func (n *Node) Commit(ctx context.Context, txn *logv1.Txn) (uint64, error) {
	p, err := newProposal(txn)
	if err != nil {
		return 0, err
	}
	if !n.IsLeader() || !n.queue.add(p) {
		return 0, ErrNotLeader
	}
	select {
	case a := <-p.answer:
		return a.index, a.err
	case <-ctx.Done():
		if n.queue.remove(p) {
			return 0, context.Cause(ctx)
		}
		return 0, fmt.Errorf("%w: %w", ErrUncertain, context.Cause(ctx))
	}
}

// A proposal is a transaction on its way into the log.
type proposal struct {
	data   []byte      // of its Txn
	writes []state.Key // what it puts or deletes
	answer chan answer // takes one
}

type answer struct {
	index uint64
	err   error
}

// newProposal checks txn, because a log entry that replicas cannot read stops
// them all.
func newProposal(txn *logv1.Txn) (*proposal, error) {
	p := &proposal{answer: make(chan answer, 1)}
	for i, op := range txn.GetOps() {
		key := state.KeyOf(op.GetKey())
		if key.Kind == "" || key.Kind == state.AllKinds || key.Name == "" {
			return nil, fmt.Errorf("%w: operation %d has no key", ErrInvalid, i)
		}
		switch {
		case op.GetCheck():
		case op.GetPut() != nil, op.GetDelete():
			p.writes = append(p.writes, key)
		default:
			return nil, fmt.Errorf("%w: operation %d on %s changes nothing", ErrInvalid, i, key)
		}
	}
	data, err := proto.Marshal(txn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(data) > maxTxn {
		return nil, fmt.Errorf("%w: %d bytes, at most %d fit", ErrInvalid, len(data), maxTxn)
	}
	p.data = data
	return p, nil
}

// A queue holds proposals that no entry has taken yet.
type queue struct {
	mu      *sync.Mutex
	waiting []*proposal
	closed  bool
	filled  chan struct{} // signalled when something waits
}

func newQueue() queue {
	return queue{mu: new(sync.Mutex), filled: make(chan struct{}, 1)}
}

func (q *queue) add(p *proposal) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, p)
	select {
	case q.filled <- struct{}{}:
	default:
	}
	return true
}

// remove takes p back unless an entry has it.
func (q *queue) remove(p *proposal) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, p)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// close refuses what waits and whatever comes.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, p := range q.waiting {
		p.answer <- answer{err: ErrNotLeader}
	}
	q.waiting = nil
}

// take returns the proposals of the next entry. None of them writes what another
// of them writes: rows of one entry have the same version, so nobody could tell
// the two apart.
func (q *queue) take() []*proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	written := make(map[state.Key]struct{})
	count, size := 0, 0
	for _, p := range q.waiting {
		size += len(p.data)
		if count == maxEntryTxns || count > 0 && size > maxEntryData {
			break
		}
		if slices.ContainsFunc(p.writes, func(k state.Key) bool { _, is := written[k]; return is }) {
			break
		}
		for _, key := range p.writes {
			written[key] = struct{}{}
		}
		count++
	}
	batch := slices.Clone(q.waiting[:count])
	clear(q.waiting[:count])
	q.waiting = q.waiting[count:]
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
	return batch
}

// propose makes entries of what waits until ctx ends. While maxInFlight entries
// are on their way, more gather, so the busier the disk the fuller the entries.
func (n *Node) propose(ctx context.Context, r *raft.Raft) {
	codec := newCodec()
	slots := make(chan struct{}, maxInFlight)
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.queue.filled:
		}
		for {
			select {
			case <-ctx.Done():
				return
			case slots <- struct{}{}:
			}
			batch := n.queue.take()
			if len(batch) == 0 {
				<-slots
				break
			}
			free := func() { <-slots }
			if !n.proposeBatch(r, batch, codec.encode(txnEntry(batch)), free) {
				free()
			}
		}
	}
}

// proposeBatch reports whether it began, and then calls done at the end.
func (n *Node) proposeBatch(r *raft.Raft, batch []*proposal, data []byte, done func()) bool {
	if !n.beginCall() {
		for _, p := range batch {
			p.answer <- answer{err: ErrNotLeader}
		}
		return false
	}
	future := r.Apply(data, 0)
	go func() {
		defer n.calls.Done()
		defer done()
		deliver(batch, future)
	}()
	return true
}

// deliver gives each proposal its own answer.
func deliver(batch []*proposal, future raft.ApplyFuture) {
	if err := future.Error(); err != nil {
		for _, p := range batch {
			p.answer <- answer{err: commitError(err)}
		}
		return
	}
	errs := future.Response().([]error)
	for i, p := range batch {
		a := answer{index: future.Index(), err: errs[i]}
		if a.err != nil {
			a.index = 0
		}
		p.answer <- a
	}
}

// commitError tells what was never proposed from what nobody knows.
func commitError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	default:
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
}

// txnEntry returns the encoding of a log.v1.Entry of the batch. The transactions
// are encoded already.
func txnEntry(batch []*proposal) []byte {
	size := 0
	for _, p := range batch {
		size += protowire.SizeTag(1) + protowire.SizeBytes(len(p.data))
	}
	data := make([]byte, 0, size)
	for _, p := range batch {
		data = protowire.AppendTag(data, 1, protowire.BytesType)
		data = protowire.AppendBytes(data, p.data)
	}
	return data
}

// epochEntry returns the encoding of an entry that begins an epoch.
func epochEntry(epoch string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), epoch)
}
