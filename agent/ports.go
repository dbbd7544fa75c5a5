package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-dev/skein/agent/identity"
)

// ports are where this agent is reached: one number, TCP and UDP.
type ports struct {
	mux     *identity.Mux
	stream  net.Listener
	packets net.PacketConn
}

func listen(ctx context.Context, network Network, addr netip.AddrPort, id *identity.Identity, verify func(string, crypto.PublicKey, string) error, log *slog.Logger) (*ports, error) {
	stream, err := network.Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	packets, err := network.ListenPacket(ctx, addr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), stream.Close())
	}
	return &ports{mux: identity.NewMux(stream, id, verify, log), stream: stream, packets: packets}, nil
}

func (p *ports) close() error {
	var errs []error
	for _, err := range []error{p.stream.Close(), p.packets.Close()} {
		if !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// verify tells whether a node certificate still stands for a node of the
// cluster. Raft is for its members alone, and for those whom a voter has named as
// voters: a member that was away would else refuse for ever a leader that became
// one meanwhile. A node whose copy of the cluster is empty, a newcomer that is
// just being let in, has only the word of the CA.
func (a *Agent) verify(name string, key crypto.PublicKey, proto string) error {
	if a.api == nil {
		return errors.New("this agent is still starting")
	}
	if proto == identity.ProtoRaft {
		if members, _, err := a.raft.Members(); err == nil && len(members) > 0 {
			for _, m := range members {
				if m.Name == name {
					return a.enrolled(name, key)
				}
			}
			if a.raft.Leader() == "" && a.compass.votes(name) {
				return a.enrolled(name, key)
			}
			return errors.New("not a member of raft")
		}
	}
	return a.enrolled(name, key)
}

// dial connects to a node by its name.
func (a *Agent) dial(ctx context.Context, proto, name string) (net.Conn, error) {
	addr, ok := a.peers.Addr(name)
	if !ok {
		return nil, fmt.Errorf("dial node %s: its address is not known", name)
	}
	return a.dialer.Dial(ctx, addr.String(), proto, name)
}

// Limits of the HTTP servers. Streams have no end of their own, so only what
// begins a request is timed.
const (
	headerPatience = 10 * time.Second
	idlePatience   = 2 * time.Minute
	pingPatience   = 15 * time.Second // with whom nothing is heard of, before it is asked, and again before it is given up
	maxHeader      = 64 << 10
	maxStreams     = 256 // calls at once on one HTTP/2 connection
)

func (a *Agent) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerPatience, IdleTimeout: idlePatience, MaxHeaderBytes: maxHeader,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: pingPatience, PingTimeout: pingPatience},
		ErrorLog: slog.NewLogLogger(a.log.With("component", "http").Handler(), slog.LevelDebug),
	}
}

// stopPatience is how long calls in flight may go on when the agent stops.
const stopPatience = 500 * time.Millisecond

// serve runs a server until ctx ends.
func serve(ctx context.Context, server *http.Server, l net.Listener) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server.BaseContext = func(net.Listener) context.Context { return base }
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancelStop := context.WithTimeout(base, stopPatience)
	defer cancelStop()
	if server.Shutdown(stop) != nil { // streams go on as long as they are let
		cancel()
		_ = server.Close() // it stops all the same
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// serveNodes answers other agents, and machines that want to join.
func (a *Agent) serveNodes(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return serve(ctx, identity.NodeServer(a.api.Node(), a.log), a.ports.mux.Listener(identity.ProtoNode))
	})
	group.Go(func() error {
		return serve(ctx, identity.JoinServer(a.api.Join(), a.log), a.ports.mux.Listener(identity.ProtoJoin))
	})
	return group.Wait()
}

// servePeople answers people, by the port and by the local socket.
func (a *Agent) servePeople(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		server := a.server(a.api.People())
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetHTTP2(true)
		return serve(ctx, server, a.ports.mux.Listener(identity.ProtoPeople))
	})
	if a.cfg.Socket != "" {
		group.Go(func() error {
			l, err := a.cfg.World.Network.ListenLocal(ctx, a.cfg.Socket)
			if err != nil {
				return err
			}
			server := a.server(a.api.Socket())
			server.Protocols = new(http.Protocols)
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
			return serve(ctx, server, l)
		})
	}
	return group.Wait()
}

// socket listens on a path that only root can open.
func socket(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the socket to others: %w", err), l.Close())
	}
	return l, nil
}
