package image

import (
	"context"
	"sync"
)

// keyed lets one caller at a time through for each key. It is for work that a
// second caller will find done: whoever waited looks again.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for its turn, or returns ctx's error.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		before, busy := k.held[key]
		if !busy {
			mine := make(chan struct{})
			if k.held == nil {
				k.held = make(map[string]chan struct{})
			}
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
