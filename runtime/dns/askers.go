package dns

import (
	"net/netip"
	"sync"
	"time"
)

// An asker has so much at hand; what it has not, is not answered. So one Pod that
// floods takes nothing from another.
const (
	askEvery   = 20_000 // questions in a second, on average
	askBurst   = 20_000
	askAhead   = 64 // forwarded at the same time
	maxAskers  = 4096
	forgetters = time.Minute
)

type asker struct {
	left    float64
	at      time.Time
	ahead   int
	streams int
}

type askers struct {
	mu      sync.Mutex
	of      map[netip.Addr]*asker
	streams int
}

func newAskers() *askers { return &askers{of: map[netip.Addr]*asker{}} }

// get is called with mu held.
func (a *askers) get(addr netip.Addr, now time.Time) *asker {
	one := a.of[addr]
	if one != nil {
		return one
	}
	if len(a.of) >= maxAskers {
		for other, had := range a.of {
			if had.streams+had.ahead == 0 && now.Sub(had.at) > forgetters {
				delete(a.of, other)
			}
		}
	}
	one = &asker{left: askBurst, at: now}
	if len(a.of) < maxAskers {
		a.of[addr] = one
	}
	return one
}

// may takes one question from what an asker has.
func (a *askers) may(addr netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.get(addr, now)
	one.left = min(askBurst, one.left+now.Sub(one.at).Seconds()*askEvery)
	one.at = now
	if one.left < 1 {
		return false
	}
	one.left--
	return true
}

func (a *askers) open(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.get(addr, time.Now())
	if a.streams >= maxStreams || one.streams >= maxStreamsOne {
		return false
	}
	a.streams++
	one.streams++
	return true
}

func (a *askers) close(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams--
	if one := a.of[addr]; one != nil {
		one.streams--
	}
}
