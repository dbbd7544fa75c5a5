package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// handshakeTimeout bounds a handshake, and then how long a connection may wait
// to be accepted.
const handshakeTimeout = 5 * time.Second

// A Mux shares one port between the protocols. Nothing of what a client sends
// reaches a listener before TLS 1.3 and one protocol are agreed on, and for the
// protocols of nodes a certificate of this cluster has been checked.
type Mux struct {
	base    net.Listener
	id      *Identity
	verify  Verify
	log     *slog.Logger
	configs map[string]*tls.Config // by ALPN name
	epoch   string                 // what it adds to the protocols of nodes
	gate    *gate                  // handshakes
	guests  *gate                  // connections of those who have shown no certificate
	joins   brake
	noise   *rate.Limiter // of the log: a port scan must not fill a disk

	mu        sync.Mutex
	stopped   bool
	listeners map[string]*listener
	conns     map[*Conn]struct{} // of nodes, as long as they are open
}

// NewMux returns a mux on l, which is closed when Run returns.
func NewMux(l net.Listener, id *Identity, verify Verify, logger *slog.Logger) *Mux {
	m := &Mux{
		base: l, id: id, verify: verify, log: logger.With("component", "port"),
		configs:   map[string]*tls.Config{},
		gate:      newGate(maxHandshakes, maxHandshakesHost),
		guests:    newGate(maxStrangers, maxStrangersHost),
		joins:     brake{hosts: map[string]*rate.Limiter{}},
		noise:     rate.NewLimiter(1, 20),
		listeners: map[string]*listener{},
		conns:     map[*Conn]struct{}{},
	}
	m.epoch = id.Epoch().suffix()
	for _, p := range []string{ProtoRaft, ProtoGossip, ProtoNode} {
		m.configs[p+m.epoch] = id.serverConfig(p, p+m.epoch, verify)
	}
	m.configs[ProtoJoin] = id.serverConfig(ProtoJoin, ProtoJoin, verify)
	for _, p := range []string{alpnH2, alpnHTTP1, ""} {
		m.configs[p] = id.serverConfig(ProtoPeople, p, verify)
	}
	return m
}

// Listener gives the connections of one protocol: *Conn for those of nodes and
// for ProtoJoin, the bare *tls.Conn for ProtoPeople, whose h2 net/http would not
// find otherwise. A protocol whose listener is closed, or was never asked for, is
// refused; asking again opens it again.
func (m *Mux) Listener(proto string) net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l, ok := m.listeners[proto]; ok {
		return l
	}
	l := &listener{mux: m, proto: proto, conns: make(chan net.Conn), done: make(chan struct{})}
	if m.stopped {
		l.closed = true
		close(l.done)
		return l
	}
	m.listeners[proto] = l
	return l
}

// Run accepts until ctx ends, and then closes the port, its listeners and the
// connections of nodes. It fails when the port does.
func (m *Mux) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = m.base.Close() })()
	var handshakes sync.WaitGroup
	defer func() {
		cancel()
		_ = m.base.Close() // may be closed already
		m.stop()
		handshakes.Wait()
	}()
	for wait := time.Duration(0); ; {
		c, err := m.base.Accept()
		switch {
		case err == nil:
			wait = 0
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", m.base.Addr(), err)
		default: // out of descriptors, or a client that is gone already
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			m.log.Warn("cannot accept", "err", err)
			if !sleep(ctx, wait) {
				return nil
			}
			continue
		}
		host := hostOf(c.RemoteAddr())
		if !m.gate.enter(host) {
			m.refused(host, errors.New("too many handshakes at once"))
			_ = c.Close()
			continue
		}
		handshakes.Go(func() {
			defer m.gate.leave(host)
			m.serve(ctx, c, host)
		})
	}
}

// stop closes everything that was handed out and can still be used.
func (m *Mux) stop() {
	m.mu.Lock()
	m.stopped = true
	listeners, conns := m.listeners, m.conns
	m.listeners, m.conns = map[string]*listener{}, map[*Conn]struct{}{}
	m.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
	}
	for c := range conns {
		c.cut()
	}
}

// Recheck asks about every open connection of another node again, and cuts those
// that are not welcome any more. Call it when nodes have been removed.
func (m *Mux) Recheck() {
	m.mu.Lock()
	open := slices.Collect(maps.Keys(m.conns))
	m.mu.Unlock()
	for _, c := range open {
		if err := m.verify(c.peer, c.key, c.proto); err != nil {
			m.log.Info("connection cut", "node", c.peer, "addr", c.RemoteAddr(), "proto", c.proto, "err", err)
			c.cut()
		}
	}
}

// serve takes one connection from its first byte to its listener.
func (m *Mux) serve(ctx context.Context, conn net.Conn, host string) {
	c := &guest{Conn: conn}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var proto, alpn string
	config := base()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (conf *tls.Config, err error) {
		if proto, alpn, err = choose(hello.SupportedProtos, m.epoch); err != nil {
			return nil, err
		}
		if !m.serves(proto) {
			return nil, errClosed
		}
		if proto == ProtoJoin && !m.joins.allow(host, time.Now()) {
			return nil, errOften
		}
		return m.configs[alpn], nil
	}
	t := tls.Server(c, config)
	if err := t.HandshakeContext(ctx); err != nil {
		m.refused(host, err)
		answerPlain(err)
		_ = c.Close()
		return
	}
	if got := t.ConnectionState().NegotiatedProtocol; got != alpn || proto == "" {
		m.refused(host, fmt.Errorf("agreed to %q, not %q", got, alpn))
		_ = c.Close()
		return
	}
	tune(conn, nodeProto(proto))
	if !nodeProto(proto) {
		if !m.guests.enter(host) {
			m.refused(host, errFull)
			_ = c.Close()
			return
		}
		c.leave = func() { m.guests.leave(host) }
	}
	if err := m.deliver(ctx, proto, t); err != nil {
		m.refused(host, err)
		_ = c.Close()
	}
}

func (m *Mux) serves(proto string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.listeners[proto]
	return ok
}

// deliver waits until the connection is accepted.
func (m *Mux) deliver(ctx context.Context, proto string, t *tls.Conn) error {
	var c net.Conn = t
	m.mu.Lock()
	l, ok := m.listeners[proto]
	if ok && proto != ProtoPeople {
		own := newConn(t, proto, nil)
		own.closed = func() { m.forget(own) }
		if nodeProto(proto) {
			m.conns[own] = struct{}{}
		}
		c = own
	}
	m.mu.Unlock()
	if !ok {
		return errClosed
	}
	select {
	case l.conns <- c:
		return nil
	case <-l.done:
	case <-ctx.Done():
	}
	if own, ok := c.(*Conn); ok {
		m.forget(own)
	}
	return fmt.Errorf("%s: nobody accepts", proto)
}

func (m *Mux) forget(c *Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
}

func (m *Mux) refused(host string, err error) {
	if m.noise.Allow() {
		m.log.Info("connection refused", "addr", host, "err", err)
	}
}

// answerPlain tells somebody who speaks HTTP without TLS what is wrong.
func answerPlain(err error) {
	var plain tls.RecordHeaderError
	if !errors.As(err, &plain) || plain.Conn == nil {
		return
	}
	for _, method := range []string{"GET /", "POST ", "HEAD ", "PUT /", "PRI *", "OPTIO", "DELET", "PATCH"} {
		if string(plain.RecordHeader[:]) == method {
			_ = plain.Conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nskein: this port speaks TLS only: use https://\n")
			return
		}
	}
}

// A listener is one protocol's share of the port.
type listener struct {
	mux    *Mux
	proto  string
	conns  chan net.Conn
	done   chan struct{}
	closed bool // guarded by mux.mu
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close stops the protocol alone; the port stays.
func (l *listener) Close() error {
	l.mux.mu.Lock()
	defer l.mux.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.mux.listeners[l.proto] == l {
		delete(l.mux.listeners, l.proto)
	}
	close(l.done)
	return nil
}

func (l *listener) Addr() net.Addr { return l.mux.base.Addr() }

// sleep waits, and tells whether ctx has outlived it.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
