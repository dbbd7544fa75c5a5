package identity

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What strangers may cost. Handshakes are the only thing that they can make this
// node do, and joins the only request. Whoever has shown no certificate of a
// node is a stranger to the port, people too: their tokens are read later.
const (
	maxHandshakes     = 512 // in flight, all together
	maxHandshakesHost = 64  // in flight, from one host
	joinsPerSecond    = 2   // from one host
	joinBurst         = 10
	maxJoinHosts      = 4096 // remembered
	maxStrangers      = 4096 // connections that are open, all together
	maxStrangersHost  = 1024 // connections that are open, from one host
)

// A gate counts what is open at once, in all and from each host.
type gate struct {
	most, mostHost int

	mu    sync.Mutex
	total int
	hosts map[string]int
}

func newGate(most, mostHost int) *gate {
	return &gate{most: most, mostHost: mostHost, hosts: map[string]int{}}
}

func (g *gate) enter(host string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.most || g.hosts[host] >= g.mostHost {
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

// A guest is a connection that leaves a gate when it is closed. It lies below
// the TLS, as net/http must see a *tls.Conn to find out about h2.
type guest struct {
	net.Conn
	once  sync.Once
	leave func() // nil until it has entered
}

// Close ends the connection. It may be called more than once.
func (g *guest) Close() error {
	err := g.Conn.Close()
	g.once.Do(func() {
		if g.leave != nil {
			g.leave()
		}
	})
	return err
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
