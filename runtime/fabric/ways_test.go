package fabric

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

type way2 struct{ Kind, Via string }

func path(m *machine, peer string) way2 {
	kind, via := m.f.Path(peer)
	return way2{kind, via}
}

func TestPodsOnOneLinkMeetDirectly(t *testing.T) {
	a, b := host(t), host(t)
	bridge(t, map[*machine]string{a: "192.168.0.1/24", b: "192.168.0.2/24"})
	set(t, Config{}, []*machine{a, b}, []Peer{peer(1, "192.168.0.1"), peer(2, "192.168.0.2")})
	sound(t, a, b)
	if diff := cmp.Diff(way2{"direct", "192.168.0.2 dev eth0"}, path(a, "m2")); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	if got := a.f.MTU(); got != 1500 {
		t.Errorf("MTU is %d, want that of the link, 1500", got)
	}
	pa, pb := a.pod("10.64.1.5", 1500), b.pod("10.64.2.5", 1500)
	both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1500)
	// Machines' own processes reach Pods too.
	if err := a.reach("10.64.2.5", pb.echo(), 1500); err != nil {
		t.Errorf("machine to a Pod of another: %v", err)
	}
}

func TestPodsBehindARouterMeetInATunnel(t *testing.T) {
	a, b, r := host(t), host(t), router(t)
	r.serve(a, "west", "192.168.1.254/24", "192.168.1.1/24")
	r.serve(b, "east", "192.168.2.254/24", "192.168.2.1/24")
	set(t, Config{Network: 0xfedcba98}, []*machine{a, b}, []Peer{peer(1, "192.168.1.1"), peer(2, "192.168.2.1")})
	sound(t, a, b)
	if diff := cmp.Diff(way2{"vxlan", "192.168.2.1 dev sk-vxlan"}, path(a, "m2")); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	if got := a.f.MTU(); got != 1450 {
		t.Errorf("MTU is %d, want 1450", got)
	}
	pa, pb := a.pod("10.64.1.5", 1450), b.pod("10.64.2.5", 1450)
	both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1450)
	if err := a.reach("10.64.2.5", pb.echo(), 1450); err != nil {
		t.Errorf("machine to a Pod of another: %v", err)
	}
}

func TestEachPairTakesItsOwnWay(t *testing.T) {
	a, b, c, r := host(t), host(t), host(t), router(t)
	sw := bridge(t, map[*machine]string{a: "192.168.1.1/24", b: "192.168.1.2/24"})
	cable(r, "west", "192.168.1.254/24", sw, "up", "")
	ok(t, sw.h.LinkSetMaster(sw.link("up"), sw.link("br0")))
	a.defaultVia(addr("192.168.1.254"))
	b.defaultVia(addr("192.168.1.254"))
	r.serve(c, "east", "192.168.2.254/24", "192.168.2.1/24")
	machines := []*machine{a, b, c}
	peers := []Peer{peer(1, "192.168.1.1"), peer(2, "192.168.1.2"), peer(3, "192.168.2.1")}
	set(t, Config{}, machines, peers)
	sound(t, machines...)
	got := []way2{path(a, "m2"), path(a, "m3"), path(b, "m1"), path(c, "m1")}
	want := []way2{
		{"direct", "192.168.1.2 dev eth0"},
		{"vxlan", "192.168.2.1 dev sk-vxlan"},
		{"direct", "192.168.1.1 dev eth0"},
		{"vxlan", "192.168.1.1 dev sk-vxlan"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	pa, pb, pc := a.pod("10.64.1.5", 1450), b.pod("10.64.2.5", 1450), c.pod("10.64.3.5", 1450)
	both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1450)
	both(t, pa, "10.64.1.5", pc, "10.64.3.5", 1450)
	both(t, pb, "10.64.2.5", pc, "10.64.3.5", 1450)
}

func TestAPeerThatMovesBehindARouterIsFollowed(t *testing.T) {
	a, b, r := host(t), host(t), router(t)
	sw := bridge(t, map[*machine]string{a: "192.168.1.1/24", b: "192.168.1.2/24"})
	cable(r, "west", "192.168.1.254/24", sw, "up", "")
	ok(t, sw.h.LinkSetMaster(sw.link("up"), sw.link("br0")))
	a.defaultVia(addr("192.168.1.254"))
	machines := []*machine{a, b}
	set(t, Config{}, machines, []Peer{peer(1, "192.168.1.1"), peer(2, "192.168.1.2")})
	pa, pb := a.pod("10.64.1.5", 1450), b.pod("10.64.2.5", 1450)
	both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1450)

	ok(t, b.h.LinkDel(b.link("eth0")))
	r.serve(b, "east", "192.168.2.254/24", "192.168.2.1/24")
	set(t, Config{}, machines, []Peer{peer(1, "192.168.1.1"), peer(2, "192.168.2.1")})
	sound(t, machines...)
	if diff := cmp.Diff(way2{"vxlan", "192.168.2.1 dev sk-vxlan"}, path(a, "m2")); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1450)
}

func TestClustersOnOneLinkDoNotHearEachOther(t *testing.T) {
	a, b, c := host(t), host(t), host(t)
	bridge(t, map[*machine]string{a: "192.168.0.1/24", b: "192.168.0.2/24", c: "192.168.0.3/24"})
	peers := []Peer{peer(1, "192.168.0.1"), peer(2, "192.168.0.2")}
	set(t, Config{Mode: Tunnel, Network: 7}, []*machine{a, b}, peers)
	// The other cluster's machine holds the same block, and claims a is its peer.
	other := peer(2, "192.168.0.3")
	set(t, Config{Mode: Tunnel, Network: 8}, []*machine{c}, []Peer{other, peer(1, "192.168.0.1")})
	pa, pb, pc := a.pod("10.64.1.5", 1450), b.pod("10.64.2.5", 1450), c.pod("10.64.2.5", 1450)
	both(t, pa, "10.64.1.5", pb, "10.64.2.5", 1450)
	if err := pc.reach("10.64.1.5", pa.echo(), 100); err == nil {
		t.Error("a Pod of one cluster reached one of another over the tunnel")
	}
}

// both checks that packets of full size pass in both directions.
func both(t *testing.T, a *machine, addrA string, b *machine, addrB string, size int) {
	t.Helper()
	if err := a.reach(addrB, b.echo(), size); err != nil {
		t.Errorf("%s to %s: %v", addrA, addrB, err)
	}
	if err := b.reach(addrA, a.echo(), size); err != nil {
		t.Errorf("%s to %s: %v", addrB, addrA, err)
	}
}
