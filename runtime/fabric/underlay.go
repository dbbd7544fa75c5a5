package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// survey finds out how this machine stands among its peers.
func (f *Fabric) survey(c *Config) (underlay, error) {
	addrs, err := f.h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return underlay{}, fmt.Errorf("list addresses: %w", err)
	}
	names := map[int]string{}
	nets := map[int][]netip.Prefix{}
	u := underlay{hops: make([]hop, len(c.Peers))}
	for _, a := range addrs {
		p := prefix(a.IPNet)
		link, err := f.name(names, a.LinkIndex)
		if err != nil || link == loopback || strings.HasPrefix(link, linkPrefix) {
			continue // a link that just went has no addresses
		}
		nets[a.LinkIndex] = append(nets[a.LinkIndex], p)
		if p.Addr() == c.Self.Addr {
			u.link = link
		}
	}
	if u.link == "" {
		return u, fmt.Errorf("no link of this machine has its address %s", c.Self.Addr)
	}
	link, err := f.h.LinkByName(u.link)
	if err != nil {
		return u, fmt.Errorf("find link %s: %w", u.link, err)
	}
	u.mtu = link.Attrs().MTU
	if c.Services.IsValid() {
		if u.leads, err = f.leads(c.Services); err != nil {
			return u, err
		}
	}
	for i, p := range c.Peers {
		if p.Addr.Is4() && (c.Mode == Direct || c.Mode == Auto && onNet(nets, p.Addr)) {
			u.hops[i] = f.hop(names, nets, p.Addr)
		}
	}
	return u, nil
}

// onNet tells whether any link has a network with addr: the quick look, which
// spares the kernel's for the rest.
func onNet(nets map[int][]netip.Prefix, addr netip.Addr) bool {
	for _, of := range nets {
		if has(of, addr) {
			return true
		}
	}
	return false
}

func has(nets []netip.Prefix, addr netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(addr) && n.Addr() != addr {
			return true
		}
	}
	return false
}

// hop asks the kernel where packets for addr go.
func (f *Fabric) hop(names map[int]string, nets map[int][]netip.Prefix, addr netip.Addr) hop {
	routes, err := f.h.RouteGet(addr.AsSlice())
	if err != nil {
		return hop{err: fmt.Errorf("look for a route to %s: %w", addr, err)}
	}
	if len(routes) != 1 || routes[0].Type != unix.RTN_UNICAST {
		return hop{err: fmt.Errorf("no route leads to %s on another machine", addr)}
	}
	r := routes[0]
	link, err := f.name(names, r.LinkIndex)
	if err != nil {
		return hop{err: fmt.Errorf("find the link to %s: %w", addr, err)}
	}
	gateway, _ := netip.AddrFromSlice(r.Gw)
	return hop{link: link, gateway: gateway.Unmap(), onlink: r.Gw == nil && has(nets[r.LinkIndex], addr)}
}

// name looks up a link's name by its number, and remembers.
func (f *Fabric) name(names map[int]string, index int) (string, error) {
	if n, ok := names[index]; ok {
		return n, nil
	}
	link, err := f.h.LinkByIndex(index)
	if err != nil {
		return "", err
	}
	names[index] = link.Attrs().Name
	return names[index], nil
}

// prefix keeps the address's own bits. nil is the default route.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// missing tells whether err says that a link is not there.
func missing(err error) bool {
	var no netlink.LinkNotFoundError
	return errors.As(err, &no) || errors.Is(err, unix.ENODEV)
}
