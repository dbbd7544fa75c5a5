package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// The version of memberlist's sealing that we speak. Version 0 is padded,
	// and a wrong padding makes memberlist panic: dropped here.
	sealedVersion = 1
	minSealed     = 1 + 12 + 16 + 1
	maxPacket     = 1472
	maxWaiting    = 256 // packets that memberlist has not taken; more are dropped
	maxStreams    = 32  // open at a time; more are closed at once
)

// transport is memberlist's network: our one packet socket, shared with our
// own datagrams, and certified streams.
type transport struct {
	g        *Gossip
	ctx      context.Context // ends dials
	packets  chan *memberlist.Packet
	accepted chan net.Conn
	stopped  chan struct{}
	open     atomic.Int32 // accepted streams
	streams  sync.Map     // *guard: every open stream
	read     func(b []byte) (int, netip.AddrPort, error)
	write    func(b []byte, addr netip.AddrPort) (int, error)
}

func newTransport(ctx context.Context, g *Gossip) *transport {
	t := &transport{
		g: g, ctx: ctx, packets: make(chan *memberlist.Packet, maxWaiting),
		accepted: make(chan net.Conn), stopped: make(chan struct{}),
	}
	t.read, t.write = packetIO(g.cfg.Packets)
	return t
}

// packetIO finds the calls that do not allocate an address for every packet.
func packetIO(c net.PacketConn) (
	read func([]byte) (int, netip.AddrPort, error), write func([]byte, netip.AddrPort) (int, error),
) {
	type lean interface {
		ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
		WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	}
	if l, ok := c.(lean); ok {
		return l.ReadFromUDPAddrPort, l.WriteToUDPAddrPort
	}
	read = func(b []byte) (int, netip.AddrPort, error) {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return n, netip.AddrPort{}, err
		}
		addr, err := netip.ParseAddrPort(from.String())
		return n, addr, err
	}
	write = func(b []byte, addr netip.AddrPort) (int, error) {
		return c.WriteTo(b, net.UDPAddrFromAddrPort(addr))
	}
	return read, write
}

// receive reads the packet socket until it is closed.
func (t *transport) receive() {
	buf := make([]byte, maxPacket+1)
	var hands hands
	for {
		n, from, err := t.read(buf)
		if errors.Is(err, net.ErrClosed) || err != nil && t.isStopped() {
			return
		}
		if err != nil {
			t.g.log.Warn("packet not read", "err", err)
			t.pause()
			continue
		}
		if n == 0 || n > maxPacket {
			continue
		}
		switch buf[0] {
		case magic:
			t.g.heard(&hands, buf[:n], from)
		case sealedVersion:
			if n >= minSealed {
				t.pass(buf[:n], from)
			}
		}
	}
}

// pass hands a packet to memberlist, or drops it as a network would.
func (t *transport) pass(b []byte, from netip.AddrPort) {
	p := &memberlist.Packet{
		Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now(),
	}
	select {
	case t.packets <- p:
	default:
	}
}

// accept takes in streams until the listener is closed.
func (t *transport) accept() {
	for {
		conn, err := t.g.cfg.Streams.Accept()
		if errors.Is(err, net.ErrClosed) || err != nil && t.isStopped() {
			return
		}
		if err != nil {
			t.g.log.Warn("stream not accepted", "err", err)
			t.pause()
			continue
		}
		if t.open.Add(1) > maxStreams {
			t.open.Add(-1)
			_ = conn.Close()
			continue
		}
		guarded := t.guard(conn, func() { t.open.Add(-1) })
		select {
		case t.accepted <- guarded:
		case <-t.stopped:
			_ = guarded.Close()
		}
	}
}

// pause keeps an error that comes again at once from burning a core.
func (t *transport) pause() {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-t.stopped:
	}
}

func (t *transport) isStopped() bool {
	select {
	case <-t.stopped:
		return true
	default:
		return false
	}
}

// FinalAdvertiseAddr is where the others reach us.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := t.g.cfg.Advertise
	return a.Addr().Unmap().AsSlice(), int(a.Port()), nil
}

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send packet: %w", err)
	}
	now := time.Now()
	_, err = t.write(b, to)
	return now, err
}

// WriteToAddress sends a packet.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout opens a stream to whoever is there.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream to a member.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.g.cfg.Dial(ctx, a.Name, addr)
	if err != nil {
		return nil, err
	}
	return t.guard(conn, func() {}), nil
}

// guard wraps a stream and keeps it until it is closed.
func (t *transport) guard(conn net.Conn, closed func()) net.Conn {
	g := &guard{Conn: conn, g: t.g}
	g.closed = func() { t.streams.Delete(g); closed() }
	t.streams.Store(g, true)
	if t.isStopped() {
		_ = g.Close()
	}
	return g
}

// PacketCh is where memberlist takes packets from.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where memberlist takes streams from.
func (t *transport) StreamCh() <-chan net.Conn { return t.accepted }

// Shutdown closes both sockets and every stream.
func (t *transport) Shutdown() error {
	close(t.stopped)
	t.streams.Range(func(g, _ any) bool {
		_ = g.(*guard).Close()
		return true
	})
	return errors.Join(t.g.cfg.Packets.Close(), t.g.cfg.Streams.Close())
}
