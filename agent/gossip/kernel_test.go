package gossip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestProbesAgainstARealKernel checks what the in-memory network only claims:
// which sockets are told of a refusal, and when. It needs root, for a network
// namespace of its own.
func TestProbesAgainstARealKernel(t *testing.T) {
	done := make(chan struct{})
	go func() { // on a thread that ends with its namespace
		defer close(done)
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Errorf("new network namespace (needs root): %v", err)
			return
		}
		probeInNamespace(t)
	}()
	<-done
}

func probeInNamespace(t *testing.T) {
	p := &prober{
		seal: mustSeal(t, "n1", testKey), known: everybody,
		dial: func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
			return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a))
		},
	}
	check := func(what string, addr netip.AddrPort, want Outcome) {
		t.Helper()
		if got := p.probe(t.Context(), "n2", addr, probeWindow).Outcome; got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	there := netip.MustParseAddrPort("127.0.0.1:7373")
	check("without any network", there, Unknown)

	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Errorf("raise loopback: %v", err)
		return
	}
	check("a closed port", there, AgentGone)
	// What is routed to the loopback and nobody's address is dropped there.
	_, nobody, _ := net.ParseCIDR("192.0.2.0/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: nobody, Scope: netlink.SCOPE_LINK}); err != nil {
		t.Errorf("add route: %v", err)
		return
	}
	check("a machine that is not there", netip.MustParseAddrPort("192.0.2.9:7373"), Silent)

	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(there))
	if err != nil {
		t.Errorf("listen: %v", err)
		return
	}
	defer func() { _ = socket.Close() }()
	check("an agent that is stopped", there, AgentGone)

	checkKnocks(t, p.seal, there)

	answered := make(chan struct{})
	go func() {
		defer close(answered)
		answerPings(socket, mustSeal(t, "n2", testKey))
	}()
	check("a living agent", there, Alive)
	_ = socket.Close()
	<-answered
}

func answerPings(socket *net.UDPConn, s *seal) {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		_, body, err := s.open(b[:n], nil, everybody)
		if err != nil || body[0] != kindPing {
			continue
		}
		if m, err := parsePing(body[1:]); err == nil {
			_, _ = socket.WriteToUDPAddrPort(s.close(nil, appendPong(nil, pong{challenge: m.challenge})), from)
		}
	}
}

// checkKnocks probes where datagrams vanish, as they do once a kernel has refused
// as many as it is willing to.
func checkKnocks(t *testing.T, s *seal, there netip.AddrPort) {
	knocked := make(chan error, 1)
	p := &prober{
		seal: s, known: everybody,
		dial: func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
			if a != there {
				return nil, errors.New("closed ports do not answer")
			}
			return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a))
		},
		knock: func(ctx context.Context, a netip.AddrPort) bool {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.String())
			if err == nil {
				_ = conn.Close()
			}
			knocked <- err
			return errors.Is(err, syscall.ECONNREFUSED)
		},
	}
	if got := p.probe(t.Context(), "n2", there, probeWindow).Outcome; got != AgentGone {
		t.Errorf("a machine that refuses connections alone (%v): %v, want %v", <-knocked, got, AgentGone)
	}
	p.knock = func(ctx context.Context, _ netip.AddrPort) bool { <-ctx.Done(); return false }
	if got := p.probe(t.Context(), "n2", there, probeWindow).Outcome; got != Silent {
		t.Errorf("a machine that answers nothing: %v, want %v", got, Silent)
	}
}
