package consensus

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// TransportConfig says how a node reaches the others. All fields but Allow,
// Timeout and Logger are required.
type TransportConfig struct {
	Name     string // of this node
	Listener net.Listener
	Dial     func(ctx context.Context, name string) (net.Conn, error)
	Allow    func(net.Conn) bool // whether who is at the other end may take part; nil: all may
	Timeout  time.Duration       // of a call, 5 s; installing a snapshot takes as much for each 256 KB
	Logger   *slog.Logger
}

// dialTimeout bounds one attempt to connect, whatever a call may take.
const dialTimeout = 2 * time.Second

// NewTransport returns a transport that calls nodes by name. It serves until it
// is closed, which Node.Run does, and closes the listener and all connections
// then.
func NewTransport(cfg TransportConfig) *raft.NetworkTransport {
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background()) // raft gives none; Close ends it
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  &stream{cfg: cfg, ctx: ctx, cancel: cancel, conns: make(map[*streamConn]struct{})},
		MaxPool:                 3,
		Timeout:                 cfg.Timeout,
		Logger:                  newBridge(cfg.Logger),
		MsgpackUseNewTimeFormat: true,
	})
}

// stream makes connections for raft and remembers them, as raft does not close
// those that it accepted.
type stream struct {
	cfg    TransportConfig
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*streamConn]struct{} // nil once closed
}

var _ raft.StreamLayer = (*stream)(nil)

func (s *stream) Accept() (net.Conn, error) {
	for {
		conn, err := s.cfg.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if s.cfg.Allow == nil || s.cfg.Allow(conn) {
			return s.keep(conn)
		}
		_ = conn.Close() // a stranger's
	}
}

func (s *stream) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, min(timeout, dialTimeout))
	defer cancel()
	conn, err := s.cfg.Dial(ctx, string(target))
	if err != nil {
		return nil, err
	}
	return s.keep(conn)
}

func (s *stream) keep(conn net.Conn) (net.Conn, error) {
	c := &streamConn{Conn: conn, stream: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// Close closes the listener and every connection.
func (s *stream) Close() error {
	s.cancel()
	err := s.cfg.Listener.Close()
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close() // nobody is left to care
	}
	return err
}

// Addr is the name: raft takes it for this node's address.
func (s *stream) Addr() net.Addr { return nameAddr(s.cfg.Name) }

type streamConn struct {
	net.Conn
	stream *stream
}

func (c *streamConn) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.conns, c)
	c.stream.mu.Unlock()
	return c.Conn.Close()
}

type nameAddr string

func (nameAddr) Network() string  { return "skein" }
func (a nameAddr) String() string { return string(a) }
