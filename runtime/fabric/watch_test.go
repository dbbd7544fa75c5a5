package fabric

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// noticed tells whether a change is told of, within a second.
func noticed(t *testing.T, told <-chan struct{}, change func()) bool {
	t.Helper()
	for quiet := false; !quiet; { // of what came before
		select {
		case <-told:
		case <-time.After(3 * gathering):
			quiet = true
		}
	}
	change()
	select {
	case <-told:
		return true
	case <-time.After(time.Second):
		return false
	}
}

func TestWhatOthersChangeIsToldAndMended(t *testing.T) {
	a, b := host(t), host(t)
	cable(a, "eth0", "192.168.0.1/24", b, "eth0", "192.168.0.2/24")
	resolver := netip.MustParseAddr("169.254.53.53")
	cfg := Config{Mode: Tunnel, Network: 7, Resolver: resolver}
	set(t, cfg, []*machine{a, b}, []Peer{peer(1, "192.168.0.1"), peer(2, "192.168.0.2")})
	pa, pb := a.pod("10.64.1.5", 1450), b.pod("10.64.2.5", 1450)
	told := make(chan struct{}, 64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.f.Watch(ctx, func() { told <- struct{}{} }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	again := *a.f.config
	for what, change := range map[string]func(){
		"the tunnel's link": func() { ok(t, a.h.LinkDel(a.link(VXLANLink))) },
		"a route": func() {
			routes, err := a.h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: Protocol, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
			ok(t, err)
			for _, r := range routes {
				r.Scope = netlink.SCOPE_NOWHERE
				ok(t, a.h.RouteDel(&r))
			}
		},
		"the resolver's address": func() {
			ok(t, a.h.AddrDel(a.link("lo"), &netlink.Addr{IPNet: &net.IPNet{IP: resolver.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
		},
	} {
		if !noticed(t, told, change) {
			t.Errorf("%s is gone, and nobody is told", what)
		}
		if wrong, err := a.f.Check(t.Context()); err != nil || len(wrong) == 0 {
			t.Errorf("%s is gone, and Check says %v, %v", what, wrong, err)
		}
		ok(t, a.f.Set(t.Context(), again))
		if wrong, err := a.f.Check(t.Context()); err != nil || len(wrong) > 0 {
			t.Errorf("after Set: %v, %v", wrong, err)
		}
		both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1450)
	}
}
