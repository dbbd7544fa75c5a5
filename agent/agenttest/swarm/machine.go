package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"golang.org/x/sync/errgroup"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

const port = 7373

// A machine is one simulated agent.
type machine struct {
	*swarm
	name string
	addr netip.AddrPort
	turn int // among all

	id     *identity.Identity
	dialer *identity.Dialer
	http   *http.Client
	leader string
	mine   pods

	index   uint64 // all up to here was told
	lineage string // of that index
}

// dialFrom connects from the machine's own address.
func (m *machine) dialFrom(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(m.addr.Addr(), 0))}
	return d.DialContext(ctx, network, addr)
}

// trust takes the CA's word on everybody.
func trust(string, crypto.PublicKey, string) error { return nil }

// enter asks the nodes of the cluster in turn to be let in, until one does.
func (m *machine) enter(ctx context.Context) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	self := identity.Newcomer{Name: m.name, Advertise: m.addr.String(), Key: key, Dial: m.dialFrom}
	for try := m.turn; ; try++ {
		seed := m.seeds[try%len(m.seeds)]
		res, err := self.Join(ctx, seed, m.token)
		if err != nil {
			if try-m.turn > 200 { // 20 s: leadership may move meanwhile
				return fmt.Errorf("join by %s: %w", seed, err)
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
			continue
		}
		material, err := identity.FromJoin(m.name, key, res)
		if err != nil {
			return err
		}
		if m.id, err = identity.New(material); err != nil {
			return err
		}
		for _, p := range material.Peers {
			m.meet(p.Name, p.Addr)
		}
		m.meet(m.name, m.addr)
		m.add(func(c *counts) { c.Joined++ })
		break
	}
	m.dialer = identity.NewDialer(m.id, trust, m.dialFrom)
	m.http = identity.NodeClient(func(ctx context.Context, node string) (net.Conn, error) {
		addr, ok := m.where(node)
		if !ok {
			return nil, fmt.Errorf("dial node %s: its address is not known", node)
		}
		return m.dialer.Dial(ctx, addr.String(), identity.ProtoNode, node)
	})
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (m *machine) client(node string) skeinv1connect.PeerServiceClient {
	return skeinv1connect.NewPeerServiceClient(connect.NewClient(connecthttp.NewTransport(m.http, "http://"+node)))
}

// run does what an agent does all day.
func (m *machine) run(ctx context.Context) error {
	stream, err := identity.ListenTCP(ctx, m.addr.String())
	if err != nil {
		return err
	}
	packets, err := new(net.ListenConfig).ListenPacket(ctx, "udp", m.addr.String())
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	quiet := slog.New(slog.DiscardHandler)
	mux := identity.NewMux(stream, m.id, trust, quiet)
	g, err := m.gossip(mux, packets, quiet)
	if err != nil {
		return errors.Join(err, stream.Close(), packets.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return mux.Run(ctx) })
	group.Go(func() error { return g.Run(ctx) })
	group.Go(func() error {
		if _, err := g.Join(ctx, m.seeds[m.turn%len(m.seeds):][:1]); err != nil {
			return nil //nolint:nilerr // it has ended
		}
		m.enters(m.name, g)
		return nil
	})
	group.Go(func() error { return m.follow(ctx) })
	group.Go(func() error { return m.report(ctx) })
	return group.Wait()
}

func (m *machine) gossip(mux *identity.Mux, packets net.PacketConn, log *slog.Logger) (*gossip.Gossip, error) {
	load := gossip.Load{Cores: 32, MemoryMB: 128 << 10, DiskMB: 1 << 20, CPU: 300, Memory: 400, Disk: 200}
	return gossip.New(gossip.Config{
		Name: m.name, Advertise: m.addr, Epoch: 1,
		Packets: packets, Streams: mux.Listener(identity.ProtoGossip),
		Dial: func(ctx context.Context, name string, addr netip.AddrPort) (net.Conn, error) {
			if name == "" {
				name = m.at(addr)
			}
			return m.dialer.Dial(ctx, addr.String(), identity.ProtoGossip, name)
		},
		DialPacket: func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.addr.Addr(), 0))}
			return d.DialContext(ctx, "udp", addr.String())
		},
		Keys:      m.id.GossipKeys(),
		Meta:      func() gossip.Meta { return gossip.Meta{Format: 1, Epoch: 1, Load: load} },
		Known:     m.knows,
		Report:    func(gossip.Report) {},
		Simulated: &gossip.Simulated{Ring: m.ring.Load, Addr: m.where, Real: m.isReal},
		Sign:      m.id.Claim,
		Verify:    func(string, []byte, []byte) bool { return true },
		Logger:    log,
	})
}

// isReal tells whether a node is none of the swarm.
func (s *swarm) isReal(name string) bool {
	addr, ok := s.where(name)
	return ok && slices.Contains(s.seeds, addr.String())
}

// enters puts a machine on the ring, which real nodes have heard of now.
func (s *swarm) enters(name string, g *gossip.Gossip) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on[name] = g
	s.turned = true
}

// ringEvery is how late the machines may learn that the ring has changed, which in
// a real cluster travels by gossip.
const ringEvery = 200 * time.Millisecond

// runRing makes the ring for all machines, once.
func (s *swarm) runRing(ctx context.Context) {
	for sleep(ctx, ringEvery) {
		s.mu.Lock()
		if !s.turned {
			s.mu.Unlock()
			continue
		}
		s.turned = false
		var names []string
		for name, addr := range s.known {
			if s.on[name] != nil || slices.Contains(s.seeds, addr.String()) {
				names = append(names, name)
			}
		}
		all := slices.Collect(maps.Values(s.on))
		s.mu.Unlock()
		s.ring.Store(gossip.NewRing(names, nil))
		for _, g := range all {
			g.Refresh()
		}
	}
}

// at names the node that is known to have an address.
func (s *swarm) at(addr netip.AddrPort) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, a := range s.known {
		if a == addr {
			return name
		}
	}
	return ""
}
