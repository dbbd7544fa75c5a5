// Package gossiptest is a network of machines inside one test: datagrams and
// streams between hosts, with loss, delay, cut links, crashed agents and lost
// power. It opens no socket and, but for its clock being the test's, behaves as
// the kernel's: it drops when a queue is full, refuses at closed ports, and
// keeps silent where nobody is. It runs inside a synctest bubble.
package gossiptest

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	queueLen = 256             // datagrams that wait in one socket
	giveUp   = 4 * time.Second // after which a stream over a cut link breaks
)

// A Network joins hosts. It is safe for concurrent use.
type Network struct {
	mu      sync.Mutex
	rng     *rand.Rand
	hosts   map[netip.Addr]*Host
	cut     map[[2]netip.Addr]bool // from, to
	loss    float64
	delay   time.Duration
	lag     map[[2]netip.Addr]time.Duration // of streams; from, to
	streams map[*stream]bool
	sent    int
}

// New makes a network without hosts. The seed decides which datagrams are lost.
func New(seed uint64) *Network {
	return &Network{
		rng: rand.New(rand.NewPCG(seed, seed)), hosts: map[netip.Addr]*Host{},
		cut: map[[2]netip.Addr]bool{}, lag: map[[2]netip.Addr]time.Duration{}, streams: map[*stream]bool{},
	}
}

// A Host is a machine with one address.
type Host struct {
	net     *Network
	addr    netip.Addr
	off     bool // no power
	frozen  bool // its processes stand still; its kernel does not
	packets map[uint16]*packetConn
	listens map[uint16]*listener
	next    uint16
}

// Host returns the host with an address, and makes it the first time.
func (n *Network) Host(addr netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[addr]
	if h == nil {
		h = &Host{net: n, addr: addr, packets: map[uint16]*packetConn{}, listens: map[uint16]*listener{}, next: 32768}
		n.hosts[addr] = h
	}
	return h
}

// SetLoss loses this share of all datagrams, 0 to 1.
func (n *Network) SetLoss(share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = share
}

// SetDelay makes every datagram take this long.
func (n *Network) SetDelay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = d
}

// SetLag makes what one host sends to another on streams take this long.
func (n *Network) SetLag(from, to netip.Addr, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lag[[2]netip.Addr{from, to}] = d
}

// Sent counts the datagrams sent so far.
func (n *Network) Sent() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent
}

// Cut cuts the link between two hosts; Heal joins all that were cut. A stream
// over a link that stays cut for four seconds breaks.
func (n *Network) Cut(a, b netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{a, b}], n.cut[[2]netip.Addr{b, a}] = true, true
	time.AfterFunc(giveUp, n.breakStuck)
}

// CutOneWay loses what one host sends to another, but not the answers. Streams
// between them stand still, as nothing is acknowledged.
func (n *Network) CutOneWay(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{from, to}] = true
	time.AfterFunc(giveUp, n.breakStuck)
}

// Freeze stops the processes of a host: what they send waits, and what comes for
// them waits in their sockets as far as these reach. Thaw lets them go on.
func (n *Network) Freeze(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr].frozen = true
}

// Thaw ends a Freeze.
func (n *Network) Thaw(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[addr]
	h.frozen = false
	for _, c := range h.packets {
		for _, p := range c.held {
			select {
			case c.queue <- p:
			default: // full: dropped
			}
		}
		c.held = nil
	}
	for s := range n.streams {
		if s.local.Addr() == addr {
			s.in.wakeUp()
		}
	}
	n.flush()
}

// Heal joins every cut link, and no stream lags any more. Hosts without power
// stay so.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.lag)
	n.flush()
}

// Mend joins the cut links of one host.
func (n *Network) Mend(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for link := range n.cut {
		if link[0] == addr || link[1] == addr {
			delete(n.cut, link)
		}
	}
	n.flush()
}

// PowerOff takes a host off the network at once: nothing leaves it or answers
// for it any more. What runs on it in the test goes on, unheard.
func (n *Network) PowerOff(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr].off = true
	time.AfterFunc(giveUp, n.breakStuck)
}

// PowerOn brings a host back.
func (n *Network) PowerOn(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr].off = false
	n.flush()
}

// Crash closes all sockets of a host, as the kernel does when a process dies:
// streams are reset, and its ports refuse.
func (n *Network) Crash(addr netip.Addr) {
	n.mu.Lock()
	h := n.hosts[addr]
	var ends []func() error
	for _, c := range h.packets {
		ends = append(ends, c.Close)
	}
	for _, l := range h.listens {
		ends = append(ends, l.Close)
	}
	for s := range n.streams {
		if s.local.Addr() == addr {
			ends = append(ends, s.reset)
		}
	}
	n.mu.Unlock()
	for _, f := range ends {
		_ = f()
	}
}

// apart says whether nothing gets from one address to another. With mu held.
func (n *Network) apart(a, b netip.Addr) bool {
	x, y := n.hosts[a], n.hosts[b]
	return x == nil || y == nil || x.off || y.off || a != b && n.cut[[2]netip.Addr{a, b}]
}

// severed says whether a stream between two addresses stands still. With mu held.
func (n *Network) severed(a, b netip.Addr) bool { return n.apart(a, b) || n.apart(b, a) }

// flush brings what waited on streams whose link is whole again. With mu held.
func (n *Network) flush() {
	for s := range n.streams {
		if !n.severed(s.local.Addr(), s.remote.Addr()) && !n.hosts[s.local.Addr()].frozen {
			s.deliver()
		}
	}
}

// breakStuck breaks the streams between hosts that are still apart.
func (n *Network) breakStuck() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.streams {
		if n.severed(s.local.Addr(), s.remote.Addr()) {
			s.in.fail(syscall.ETIMEDOUT)
			delete(n.streams, s)
		}
	}
}

// send carries one datagram. Refused is told if the other end's kernel answers
// that nobody listens; it may be nil.
func (n *Network) send(from, to netip.AddrPort, data []byte, refused func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	if n.hosts[from.Addr()].frozen || n.apart(from.Addr(), to.Addr()) || n.rng.Float64() < n.loss {
		return
	}
	p := packet{data: append([]byte(nil), data...), from: from}
	if n.delay == 0 {
		n.arrive(p, to, refused)
		return
	}
	time.AfterFunc(n.delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.apart(from.Addr(), to.Addr()) {
			n.arrive(p, to, refused)
		}
	})
}

// arrive is called with mu held.
func (n *Network) arrive(p packet, to netip.AddrPort, refused func()) {
	c := n.hosts[to.Addr()].packets[to.Port()]
	switch {
	case c == nil && refused != nil && n.rng.Float64() >= n.loss:
		refused()
	case c != nil && (!c.peer.IsValid() || c.peer == p.from):
		if n.hosts[to.Addr()].frozen {
			if len(c.held) < queueLen {
				c.held = append(c.held, p)
			}
			return
		}
		select {
		case c.queue <- p:
		default: // full: dropped
		}
	}
}

// ListenPacket opens a datagram socket; port 0 picks one.
func (h *Host) ListenPacket(port uint16) (net.PacketConn, error) {
	return h.socket(port, netip.AddrPort{})
}

// DialPacket opens a connected datagram socket, which is told of refusals.
func (h *Host) DialPacket(_ context.Context, to netip.AddrPort) (net.Conn, error) {
	return h.socket(0, to)
}

func (h *Host) socket(port uint16, peer netip.AddrPort) (*packetConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for port == 0 {
		if h.next++; h.next >= 60000 {
			h.next = 32768
		}
		if h.packets[h.next] == nil {
			port = h.next
		}
	}
	if h.packets[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	c := &packetConn{
		host: h, local: netip.AddrPortFrom(h.addr, port), peer: peer,
		queue: make(chan packet, queueLen), refused: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	h.packets[port] = c
	return c, nil
}

// Listen accepts streams at a port.
func (h *Host) Listen(port uint16) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.listens[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{host: h, port: port, queue: make(chan net.Conn, queueLen), closed: make(chan struct{})}
	h.listens[port] = l
	return l, nil
}

// Dial opens a stream. Where nobody answers it waits for ctx to end.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	delay, apart := n.delay, n.severed(h.addr, to.Addr()) || h.frozen
	n.mu.Unlock()
	if apart {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	if delay > 0 {
		select {
		case <-time.After(2 * delay):
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.hosts[to.Addr()].listens[to.Port()]
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	h.next++
	here, there := pair(n, netip.AddrPortFrom(h.addr, h.next), to)
	select {
	case l.queue <- there:
	default:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	n.streams[here], n.streams[there] = true, true
	return here, nil
}
