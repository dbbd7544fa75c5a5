package identity

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What strangers may cost. Handshakes are the only thing that they can make this
// node do, and joins the only request.
const (
	maxHandshakes     = 512 // in flight, all together
	maxHandshakesHost = 64  // in flight, from one host
	joinsPerSecond    = 2   // from one host
	joinBurst         = 10
	maxJoinHosts      = 4096 // remembered
)

// A gate counts handshakes in flight.
type gate struct {
	mu    sync.Mutex
	total int
	hosts map[string]int
}

func (g *gate) enter(host string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= maxHandshakes || g.hosts[host] >= maxHandshakesHost {
		return false
	}
	g.total++
	g.hosts[host]++
	return true
}

func (g *gate) leave(host string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.hosts[host]--; g.hosts[host] == 0 {
		delete(g.hosts, host)
	}
}

// A brake limits how often each host may ask to join.
type brake struct {
	mu    sync.Mutex
	hosts map[string]*rate.Limiter
}

func (b *brake) allow(host string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.hosts[host]
	if !ok {
		if len(b.hosts) >= maxJoinHosts {
			b.forget(now)
		}
		l = rate.NewLimiter(joinsPerSecond, joinBurst)
		b.hosts[host] = l
	}
	return l.AllowN(now, 1)
}

// forget makes room: for hosts that have been quiet, else for all. Memory is
// bounded either way; the worst is that a flood from thousands of hosts is
// slowed less.
func (b *brake) forget(now time.Time) {
	for host, l := range b.hosts {
		if l.TokensAt(now) >= joinBurst {
			delete(b.hosts, host)
		}
	}
	if len(b.hosts) >= maxJoinHosts {
		clear(b.hosts)
	}
}
