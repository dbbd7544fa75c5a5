package traffic

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// acks tells the leader, of all that was taken in, the last.
type acks struct {
	tell func(ctx context.Context, index uint64) error
	log  *slog.Logger
	news chan struct{}

	mu    sync.Mutex
	index uint64
}

func newAcks(tell func(ctx context.Context, index uint64) error, log *slog.Logger) *acks {
	return &acks{tell: tell, log: log, news: make(chan struct{}, 1)}
}

// reached says that all up to an index is in force, and that somebody waits for it.
func (a *acks) reached(index uint64) {
	a.mu.Lock()
	a.index = index
	a.mu.Unlock()
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// passed says so where nobody waits. The next who asks is told.
func (a *acks) passed(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index = index
}

const ackPatience = 2 * time.Second

func (a *acks) run(ctx context.Context, leaderChanged func() <-chan struct{}) error {
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		changed := leaderChanged()
		select {
		case <-ctx.Done():
			return nil
		case <-a.news:
		case <-changed: // the next one has heard nothing yet
		case <-again.C:
		}
		a.mu.Lock()
		index := a.index
		a.mu.Unlock()
		call, cancel := context.WithTimeout(ctx, ackPatience)
		err := a.tell(call, index)
		cancel()
		if err != nil {
			a.log.Debug("the leader has not heard an acknowledgement", "err", err)
			again.Reset(100 * time.Millisecond)
			continue
		}
		again.Reset(time.Hour)
	}
}
