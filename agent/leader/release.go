package leader

import (
	"context"
	"time"

	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
)

// releasePatience bounds how long a Pod that is to go waits for the nodes to let go
// of it. Verdicts on silent nodes take less.
const releasePatience = 5 * time.Second

// flight is how long packets may be on their way to a Pod after the last node has
// let go of it.
const flight = 200 * time.Millisecond

// acks are how far each node has taken in what the log says of endpoints.
type acks struct {
	upTo  map[string]uint64
	moved chan struct{} // closed when one moves on
}

// Acked hears that a node sends nothing new any more to endpoints that have gone by
// an index of the log.
func (l *Leader) Acked(node string, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acks.upTo[node] >= index {
		return
	}
	l.acks.upTo[node] = index
	close(l.acks.moved)
	l.acks.moved = make(chan struct{})
}

// Released waits until no node sends a Pod that is to go anything new: until each
// has acknowledged it, or is held lost, or its agent gone. It answers no later than
// after five seconds; late tells who had not answered then.
func (l *Leader) Released(ctx context.Context, key state.Key, uid string) (late []string, err error) {
	l.mu.Lock()
	r := l.now
	l.mu.Unlock()
	if r == nil {
		return nil, consensus.ErrNotLeader
	}
	patience, cancel := context.WithTimeout(ctx, releasePatience)
	defer cancel()
	index, err := r.model.spokenOf(patience, key, uid)
	for err == nil && index > 0 {
		l.mu.Lock()
		moved := l.acks.moved
		late = r.model.behind(index, l.acks.upTo)
		l.mu.Unlock()
		if len(late) == 0 {
			select { // what was on its way when the last one let go still arrives
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(flight):
				return nil, nil
			}
		}
		again := time.NewTimer(50 * time.Millisecond) // a verdict moves nothing here
		select {
		case <-patience.Done():
			err = context.Cause(patience)
		case <-moved:
		case <-again.C:
		}
		again.Stop()
	}
	if ctx.Err() != nil {
		return late, context.Cause(ctx)
	}
	return late, nil
}

// spokenOf returns the index of the log at which the endpoints of a Pod's Services
// say that it goes, 0 if it is in none.
func (m *model) spokenOf(ctx context.Context, key state.Key, uid string) (uint64, error) {
	for {
		m.mu.Lock()
		p, moved, settled := m.pods[key], m.moved, m.web.settled
		if p == nil || p.uid != uid {
			m.mu.Unlock()
			return 0, nil
		}
		served := false
		if p.addr.IsValid() {
			m.web.behind(p, func(state.Key) { served = true })
		}
		released, spoken := m.web.released, m.web.spoken
		m.mu.Unlock()
		if p.deleting && !served {
			return 0, nil
		}
		if p.deleting && released >= p.version {
			return spoken, nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-moved:
		case <-settled:
		}
	}
}

// behind names the nodes that are there and have not acknowledged an index.
func (m *model) behind(index uint64, upTo map[string]uint64) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name, n := range m.nodes {
		if n.known && !n.lost() && !n.gone() && upTo[name] < index {
			out = append(out, name)
		}
	}
	return out
}
