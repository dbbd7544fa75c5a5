package consensustest

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// resend is what a lost segment of a stream costs.
const resend = 200 * time.Millisecond

// A Network joins hosts by streams. What is sent over a cut link arrives once it
// is whole again, as by TCP; nobody is told of a cut, nor of a lost machine.
type Network struct {
	mu      sync.Mutex
	random  *rand.Rand
	hosts   map[string]*Host
	cut     map[[2]string]bool // from, to
	delay   time.Duration
	loss    float64
	changed chan struct{} // closed when links change
}

// NewNetwork returns one without hosts. The seed decides what is lost and how
// long things take.
func NewNetwork(seed uint64) *Network {
	return &Network{
		random: rand.New(rand.NewPCG(seed, 0x7e7)), //nolint:gosec // must repeat
		hosts:  map[string]*Host{}, cut: map[[2]string]bool{}, changed: make(chan struct{}),
	}
}

// A Host is a machine for as long as one process runs on it. It is that
// process's net.Listener.
type Host struct {
	net    *Network
	name   string
	accept chan *conn
	off    chan struct{} // closed when the process or the machine has ended
	once   sync.Once
	conns  map[*conn]struct{} // guarded by net.mu
	dark   bool               // without power: nobody is refused
}

// Boot makes a new process the one that is reached by this name. Connections of
// the last one are reset.
func (n *Network) Boot(name string) *Host {
	h := &Host{net: n, name: name, accept: make(chan *conn, 64), off: make(chan struct{}), conns: map[*conn]struct{}{}}
	n.mu.Lock()
	old := n.hosts[name]
	n.hosts[name] = h
	n.mu.Unlock()
	if old != nil {
		old.Kill()
	}
	return h
}

// Cut loses all that one host sends to another, for now.
func (n *Network) Cut(from, to string) { n.change(func() { n.cut[[2]string{from, to}] = true }) }

// Isolate cuts a host off from all others.
func (n *Network) Isolate(name string) {
	n.change(func() {
		for other := range maps.Keys(n.hosts) {
			if other != name {
				n.cut[[2]string{name, other}], n.cut[[2]string{other, name}] = true, true
			}
		}
	})
}

// Delay makes everything take up to so much longer, one way, and loses a share of
// the segments.
func (n *Network) Delay(most time.Duration, loss float64) {
	n.change(func() { n.delay, n.loss = most, loss })
}

// Heal ends Cut, Isolate and Delay.
func (n *Network) Heal() {
	n.change(func() { clear(n.cut); n.delay, n.loss = 0, 0 })
}

func (n *Network) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	close(n.changed)
	n.changed = make(chan struct{})
}

// passes tells whether a link is whole, and returns a channel closed when that
// may be otherwise.
func (n *Network) passes(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cut[[2]string{from, to}], n.changed
}

// takes is how long one segment travels.
func (n *Network) takes() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := 100*time.Microsecond + time.Duration(n.random.Int64N(int64(n.delay)+int64(400*time.Microsecond)))
	for wait := resend; n.random.Float64() < n.loss && wait < 10*resend; wait *= 2 {
		d += wait
	}
	return d
}

// Kill ends the process: the kernel resets its connections.
func (h *Host) Kill() {
	h.once.Do(func() { close(h.off) })
	h.net.mu.Lock()
	conns := h.conns
	h.conns = map[*conn]struct{}{}
	h.net.mu.Unlock()
	for c := range conns {
		c.in.fail(syscall.ECONNRESET)
		c.out.fail(syscall.ECONNRESET)
	}
}

// PowerOff ends the machine: nobody is told. Its own end is over all the same.
func (h *Host) PowerOff() {
	h.once.Do(func() { close(h.off) })
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.dark = true
	for c := range h.conns {
		c.in.fail(net.ErrClosed)
		c.out.silence()
	}
}

func (h *Host) ended() bool {
	select {
	case <-h.off:
		return true
	default:
		return false
	}
}

// Accept is of net.Listener.
func (h *Host) Accept() (net.Conn, error) {
	select {
	case <-h.off:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-h.accept:
		return c, nil
	case <-h.off:
		return nil, net.ErrClosed
	}
}

// Close is of net.Listener: it ends the process's part in the network.
func (h *Host) Close() error {
	h.Kill()
	return nil
}

// Addr is of net.Listener.
func (h *Host) Addr() net.Addr { return address(h.name) }

// Dial connects to another host. Without an answer it waits until ctx ends.
func (h *Host) Dial(ctx context.Context, name string) (net.Conn, error) {
	for _, leg := range [][2]string{{h.name, name}, {name, h.name}} {
		if err := h.travel(ctx, leg[0], leg[1]); err != nil {
			return nil, err
		}
	}
	h.net.mu.Lock()
	to := h.net.hosts[name]
	silent := to == nil || to.dark
	h.net.mu.Unlock()
	switch {
	case silent:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case h.ended():
		return nil, net.ErrClosed
	case to.ended():
		return nil, syscall.ECONNREFUSED
	}
	there, back := newHalf(h.net, h.name, name), newHalf(h.net, name, h.name)
	mine, its := &conn{host: h, peer: name, in: back, out: there}, &conn{host: to, peer: h.name, in: there, out: back}
	h.net.mu.Lock()
	h.conns[mine], to.conns[its] = struct{}{}, struct{}{}
	h.net.mu.Unlock()
	select {
	case to.accept <- its:
		return mine, nil
	default:
		_ = mine.Close() // nobody took it
		return nil, syscall.ECONNREFUSED
	}
}

// travel is one packet on its way.
func (h *Host) travel(ctx context.Context, from, to string) error {
	timer := time.NewTimer(h.net.takes())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-h.off:
		return net.ErrClosed
	}
	for {
		whole, changed := h.net.passes(from, to)
		if whole {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-h.off:
			return net.ErrClosed
		}
	}
}

type address string

func (address) Network() string  { return "model" }
func (a address) String() string { return string(a) }
