package fabric

import (
	"errors"
	"fmt"
	"net/netip"
)

// A kind is how packets reach a peer.
type kind string

const (
	direct    kind = "direct"
	vxlan     kind = "vxlan"
	wireguard kind = "wireguard"
)

// Metrics of our routes. None of them is 0, which is what routes written by hand
// have, so that ours never take the place of one.
const (
	wayMetric = 74
	endMetric = 65535 // of what leads nowhere: any other route is better
)

// A way is how packets reach one peer.
type way struct {
	kind kind
	via  netip.Addr // next machine, or the peer's address for tunnels
	link string
}

func (w way) String() string {
	if w.kind == "" {
		return ""
	}
	return w.via.String() + " dev " + w.link
}

// A routeKey tells one IPv4 route from another within the kernel's main table.
type routeKey struct {
	dst    netip.Prefix
	metric int
}

// A route is one of ours, by the name of its link and not by its number, so it can
// be compared before the link is there.
type route struct {
	routeKey
	end    bool       // unreachable: via, link and src are empty
	via    netip.Addr // invalid: straight out of the link
	link   string
	src    netip.Addr // what a local process's packets bear; invalid: the kernel's choice
	onlink bool       // via needs no route of its own
}

func (r route) String() string {
	s := "route " + r.dst.String()
	if r.end {
		return s + " unreachable"
	}
	if r.via.IsValid() {
		s += " via " + r.via.String()
	}
	s += " dev " + r.link
	if r.src.IsValid() {
		s += " src " + r.src.String()
	}
	return s
}

// A mac is an Ethernet address.
type mac [6]byte

// vtep is the Ethernet address of a machine within the tunnel, made of its IP
// address there, so that nobody needs to be told.
func vtep(a netip.Addr) mac {
	b := a.As4()
	return mac{0x02, 0x73, b[0], b[1], b[2], b[3]}
}

// A tunnel is the link for VXLAN. Its peers are written down: nothing is learned.
type tunnel struct {
	network uint32
	port    uint16
	local   netip.Addr
	mac     mac
	mtu     int
}

// An address is one of ours on a link.
type address struct {
	link string
	addr netip.Addr
}

// A plan is what is wanted in the kernel, and what became of each peer.
type plan struct {
	tunnel    *tunnel // nil: no such link
	switches  []sysctl
	addresses map[address]bool
	routes    map[routeKey]route
	neighbors map[netip.Addr]mac // on the tunnel
	forwards  map[mac]netip.Addr // on the tunnel: where a machine really is
	ways      map[string]way
	mtu       int
	errs      []error // what cannot be done, by peer
}

// An underlay is what lay must know of the machine: where packets for each peer's
// address would go, and the link that bears our own.
type underlay struct {
	link  string
	mtu   int
	hops  []hop // by the order of Peers
	leads bool  // some route of others covers the Services
}

// A hop is where packets for a peer's own address go next.
type hop struct {
	link    string
	gateway netip.Addr // invalid: none
	onlink  bool       // the peer is on a network of that link
	err     error      // nothing leads there
}

// lay plans the network of c over the underlay. It depends on its arguments alone.
func lay(c *Config, u underlay) plan {
	p := plan{
		switches:  []sysctl{{"ipv4/ip_forward", "1"}},
		addresses: map[address]bool{},
		routes:    make(map[routeKey]route, len(c.Peers)+4),
		neighbors: map[netip.Addr]mac{},
		forwards:  map[mac]netip.Addr{},
		ways:      make(map[string]way, len(c.Peers)),
		mtu:       u.mtu,
	}
	if c.Resolver.IsValid() {
		p.addresses[address{loopback, c.Resolver}] = true
	}
	p.end(c.Pods)
	for _, b := range c.Self.Blocks {
		p.end(b.Masked())
	}
	if c.Services.IsValid() && !u.leads {
		p.add(route{routeKey: routeKey{c.Services, wayMetric}, link: u.link, src: c.Self.Addr})
	}
	tunneled := c.layTunnel(&p, u)
	blocks, errs := settle(c)
	p.errs = append(p.errs, errs...)
	for i, peer := range c.Peers {
		if err := p.reach(c, peer, blocks[i], u.hops[i]); err != nil {
			p.errs = append(p.errs, fmt.Errorf("peer %s: %w", peer.Name, err))
		}
		tunneled = tunneled || p.ways[peer.Name].kind == vxlan
	}
	if tunneled {
		p.mtu -= vxlanOverhead
	}
	return p
}

// layTunnel plans the tunnel's link, even if no peer is found to need it yet: a
// peer that cannot see us on-link, though we see it, sends through it. It tells
// whether every packet will go by it.
func (c *Config) layTunnel(p *plan, u underlay) bool {
	if c.Mode == Direct || len(c.Self.Blocks) == 0 {
		return false
	}
	self := c.Self.Blocks[0].Masked().Addr()
	p.tunnel = &tunnel{network: c.Network, port: c.Port, local: c.Self.Addr, mac: vtep(self), mtu: u.mtu - vxlanOverhead}
	p.addresses[address{VXLANLink, self}] = true
	p.guard(VXLANLink)
	return c.Mode == Tunnel
}

// guard plans the kernel's own checks on a tunnel's link. What comes out of it may
// be on its way while our own route back has not moved into the tunnel yet, so the
// source must be reachable, but not by this link.
func (p *plan) guard(link string) {
	p.switches = append(p.switches,
		sysctl{"ipv4/conf/" + link + "/rp_filter", "2"},
		sysctl{"ipv4/conf/" + link + "/accept_redirects", "0"},
		sysctl{"ipv4/conf/" + link + "/send_redirects", "0"},
		sysctl{"ipv6/conf/" + link + "/disable_ipv6", "1"},
	)
}

func (p *plan) add(r route) { p.routes[r.routeKey] = r }

// end makes packets to what is not there fail at once, where they would go round in
// circles or out by the default route.
func (p *plan) end(dst netip.Prefix) {
	p.add(route{routeKey: routeKey{dst, endMetric}, end: true})
}

// reach plans the way to one peer.
func (p *plan) reach(c *Config, peer Peer, blocks []netip.Prefix, h hop) error {
	switch _, twice := p.ways[peer.Name]; {
	case twice:
		return errors.New("named twice")
	case !peer.Addr.Is4():
		return fmt.Errorf("no IPv4 address: %s", peer.Addr)
	case peer.Addr == c.Self.Addr:
		return fmt.Errorf("has our own address %s", peer.Addr)
	case c.Pods.Contains(peer.Addr):
		return fmt.Errorf("its address %s is among those of Pods", peer.Addr)
	case len(blocks) == 0:
		return nil // no Pods, no ways
	}
	if c.Mode == Direct || c.Mode == Auto && h.onlink {
		return p.reachDirect(c, peer, blocks, h)
	}
	return p.reachTunnel(c, peer, blocks)
}

func (p *plan) reachDirect(c *Config, peer Peer, blocks []netip.Prefix, h hop) error {
	if h.err != nil {
		return h.err
	}
	w := way{direct, h.gateway, h.link}
	if !w.via.IsValid() {
		w.via = peer.Addr
	}
	p.ways[peer.Name] = w
	for _, b := range blocks {
		p.add(route{
			routeKey: routeKey{b, wayMetric},
			via:      w.via, link: w.link, src: c.Self.Addr, onlink: !h.gateway.IsValid() && !h.onlink,
		})
	}
	return nil
}

func (p *plan) reachTunnel(c *Config, peer Peer, blocks []netip.Prefix) error {
	if p.tunnel == nil {
		return errors.New("not on-link, and without a block of our own we have no end of a tunnel")
	}
	if first := peer.Blocks[0].Masked(); first != blocks[0] {
		return fmt.Errorf("its first block %s, which names it in the tunnel, is not its own", first)
	}
	far := blocks[0].Addr()
	p.ways[peer.Name] = way{vxlan, peer.Addr, VXLANLink}
	p.neighbors[far] = vtep(far)
	p.forwards[vtep(far)] = peer.Addr
	for _, b := range blocks {
		p.add(route{
			routeKey: routeKey{b, wayMetric},
			via:      far, link: VXLANLink, src: c.Self.Blocks[0].Masked().Addr(), onlink: true,
		})
	}
	return nil
}
