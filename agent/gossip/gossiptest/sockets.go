package gossiptest

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

type packet struct {
	data []byte
	from netip.AddrPort
}

// packetConn is a datagram socket, connected if peer is set.
type packetConn struct {
	host        *Host
	local, peer netip.AddrPort
	queue       chan packet
	refused     chan struct{}
	closed      chan struct{}
	once        sync.Once
	readBy      deadline
	held        []packet // came while the host was frozen; guarded by net.mu
}

// ReadFromUDPAddrPort takes the next datagram, cut to the length of b.
func (c *packetConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case <-c.closed:
		return 0, netip.AddrPort{}, c.fail("read", net.ErrClosed)
	case <-c.refused:
		return 0, netip.AddrPort{}, c.fail("read", syscall.ECONNREFUSED)
	case p := <-c.queue:
		return copy(b, p.data), p.from, nil
	default:
	}
	select {
	case <-c.closed:
		return 0, netip.AddrPort{}, c.fail("read", net.ErrClosed)
	case <-c.readBy.passed():
		return 0, netip.AddrPort{}, c.fail("read", os.ErrDeadlineExceeded)
	case <-c.refused:
		return 0, netip.AddrPort{}, c.fail("read", syscall.ECONNREFUSED)
	case p := <-c.queue:
		return copy(b, p.data), p.from, nil
	}
}

// WriteToUDPAddrPort sends a datagram.
func (c *packetConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.closed:
		return 0, c.fail("write", net.ErrClosed)
	case <-c.refused:
		return 0, c.fail("write", syscall.ECONNREFUSED)
	default:
	}
	var refused func()
	if c.peer.IsValid() {
		refused = func() {
			select {
			case c.refused <- struct{}{}:
			default:
			}
		}
	}
	c.host.net.send(c.local, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), b, refused)
	return len(b), nil
}

func (c *packetConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Err: err}
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	addr, err := netip.ParseAddrPort(to.String())
	if err != nil {
		return 0, c.fail("write", err)
	}
	return c.WriteToUDPAddrPort(b, addr)
}

func (c *packetConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

func (c *packetConn) Write(b []byte) (int, error) { return c.WriteToUDPAddrPort(b, c.peer) }

func (c *packetConn) Close() error {
	c.once.Do(func() {
		c.readBy.set(time.Time{})
		n := c.host.net
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(c.host.packets, c.local.Port())
		close(c.closed)
	})
	return nil
}

func (c *packetConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.local) }
func (c *packetConn) RemoteAddr() net.Addr             { return net.UDPAddrFromAddrPort(c.peer) }
func (c *packetConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil } // writes never wait
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

// listener accepts streams.
type listener struct {
	host   *Host
	port   uint16
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		n := l.host.net
		n.mu.Lock()
		delete(l.host.listens, l.port)
		close(l.closed)
		n.mu.Unlock()
		for {
			select {
			case c := <-l.queue:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.host.addr, l.port))
}

// stream is one end of a connection.
type stream struct {
	net           *Network
	local, remote netip.AddrPort
	in            *inbox // what this end reads
	peer          *stream
	held          []byte // sent, but the link is cut; guarded by net.mu
	flight        []part // on its way to the other end; guarded by net.mu
	readBy        deadline
}

// A part of a stream arrives at a time of its own.
type part struct {
	due  time.Time
	data []byte // nil: the stream ends
}

func pair(n *Network, a, b netip.AddrPort) (*stream, *stream) {
	x := &stream{net: n, local: a, remote: b, in: newInbox()}
	y := &stream{net: n, local: b, remote: a, in: newInbox()}
	x.peer, y.peer = y, x
	return x, y
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.in.read(b, &s.readBy, s.frozen)
	if err != nil && !isEOF(err) {
		err = &net.OpError{Op: "read", Net: "tcp", Err: err}
	}
	return n, err
}

// frozen tells whether the process that would read stands still.
func (s *stream) frozen() bool {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.net.hosts[s.local.Addr()].frozen
}

func (s *stream) Write(b []byte) (int, error) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if err := s.in.broken(); err != nil {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: err}
	}
	s.held = append(s.held, b...)
	switch {
	case s.net.severed(s.local.Addr(), s.remote.Addr()):
		time.AfterFunc(giveUp, s.net.breakStuck)
		return len(b), nil
	case s.net.hosts[s.local.Addr()].frozen:
		return len(b), nil
	}
	s.deliver()
	return len(b), nil
}

// deliver brings what was sent to the other end. With net.mu held.
func (s *stream) deliver() {
	if len(s.held) > 0 {
		s.carry(s.held)
		s.held = nil
	}
}

// carry brings data to the other end, or for nil the end of the stream, after
// all that is on its way already. With net.mu held.
func (s *stream) carry(data []byte) {
	due := time.Now().Add(s.net.lag[[2]netip.Addr{s.local.Addr(), s.remote.Addr()}])
	if n := len(s.flight); n > 0 && due.Before(s.flight[n-1].due) {
		due = s.flight[n-1].due
	}
	s.flight = append(s.flight, part{due, data})
	if due.After(time.Now()) {
		time.AfterFunc(time.Until(due), s.arrive)
		return
	}
	s.land()
}

func (s *stream) arrive() {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.land()
}

// land is called with net.mu held.
func (s *stream) land() {
	for len(s.flight) > 0 && !s.flight[0].due.After(time.Now()) {
		if data := s.flight[0].data; data != nil {
			s.peer.in.put(data)
		} else {
			s.peer.in.end()
		}
		s.flight = s.flight[1:]
	}
}

func (s *stream) Close() error {
	s.readBy.set(time.Time{})
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.in.fail(net.ErrClosed)
	if !s.net.severed(s.local.Addr(), s.remote.Addr()) {
		s.carry(nil)
	}
	delete(s.net.streams, s)
	return nil
}

func (s *stream) reset() error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.in.fail(net.ErrClosed)
	if !s.net.severed(s.local.Addr(), s.remote.Addr()) {
		s.peer.in.fail(syscall.ECONNRESET)
	}
	delete(s.net.streams, s)
	return nil
}

func (s *stream) LocalAddr() net.Addr              { return net.TCPAddrFromAddrPort(s.local) }
func (s *stream) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(s.remote) }
func (s *stream) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(time.Time) error { return nil } // writes never wait
func (s *stream) SetReadDeadline(t time.Time) error {
	s.readBy.set(t)
	return nil
}
