package gossip

import (
	"sync"
	"time"
)

// A bucket lets so many things a second pass, and as many at once.
type bucket struct {
	perSecond float64

	mu   sync.Mutex
	have float64
	last time.Time
}

func newBucket(perSecond float64) *bucket {
	return &bucket{perSecond: perSecond, have: perSecond}
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() && now.After(b.last) {
		b.have = min(b.have+now.Sub(b.last).Seconds()*b.perSecond, b.perSecond)
	}
	b.last = now
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}
