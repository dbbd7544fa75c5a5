package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A kernel is what is there of ours, in the words of a plan.
type kernel struct {
	tunnel    *tunnel // nil: no such link
	down      map[string]bool
	switches  map[string]string
	addresses map[address]bool
	routes    map[routeKey]route
	neighbors map[netip.Addr]mac
	forwards  map[mac]netip.Addr
	// foreign are routes of others where a plan may want one, by key.
	foreign map[routeKey]bool
	// extra are routes of ours beside the first with their key.
	extra []route
}

// read reads what is there of ours, and of others where it matters to want.
func (f *Fabric) read(want plan) (kernel, error) {
	have := kernel{
		down:      map[string]bool{},
		addresses: map[address]bool{},
		routes:    make(map[routeKey]route, len(want.routes)),
		neighbors: make(map[netip.Addr]mac, len(want.neighbors)),
		forwards:  make(map[mac]netip.Addr, len(want.forwards)),
		foreign:   map[routeKey]bool{},
	}
	var err error
	if have.switches, err = f.readSwitches(want.switches); err != nil {
		return have, err
	}
	names := map[int]string{}
	for _, name := range []string{loopback, VXLANLink} {
		link, err := f.h.LinkByName(name)
		switch {
		case missing(err):
			continue
		case err != nil:
			return have, fmt.Errorf("look for link %s: %w", name, err)
		}
		names[link.Attrs().Index] = name
		have.down[name] = link.Attrs().Flags&net.FlagUp == 0
		if err := f.readLink(&have, want, link); err != nil {
			return have, err
		}
	}
	return have, f.readRoutes(&have, names)
}

// readLink reads a link of ours, or lo: its addresses and what is written down for it.
func (f *Fabric) readLink(have *kernel, want plan, link netlink.Link) error {
	name := link.Attrs().Name
	addrs, err := f.h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		addr := address{name, prefix(a.IPNet).Addr()}
		if name != loopback || a.Label == loopbackLabel || want.addresses[addr] {
			have.addresses[addr] = true
		}
	}
	if name != VXLANLink {
		return nil
	}
	have.tunnel = tunnelOf(link)
	index := link.Attrs().Index
	neighbors, err := f.h.NeighList(index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list neighbours on %s: %w", name, err)
	}
	for _, n := range neighbors {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && n.State&unix.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
			have.neighbors[addr.Unmap()] = mac(n.HardwareAddr)
		}
	}
	forwards, err := f.h.NeighList(index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list forwarding entries of %s: %w", name, err)
	}
	for _, n := range forwards {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && n.State&unix.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
			have.forwards[mac(n.HardwareAddr)] = addr.Unmap()
		}
	}
	return nil
}

// tunnelOf answers an empty tunnel, equal to none wanted, for a link of another type.
func tunnelOf(link netlink.Link) *tunnel {
	v, ok := link.(*netlink.Vxlan)
	if !ok || v.Learning || v.FlowBased || v.VtepDevIndex != 0 || v.Group != nil || len(v.HardwareAddr) != 6 {
		return &tunnel{}
	}
	local, _ := netip.AddrFromSlice(v.SrcAddr)
	return &tunnel{
		network: uint32(v.VxlanId), port: uint16(v.Port), //nolint:gosec // 24 and 16 bits in the kernel
		local: local.Unmap(), mac: mac(v.HardwareAddr), mtu: v.MTU,
	}
}

// readRoutes reads the main table: routes of ours whole, and of others where they are.
func (f *Fabric) readRoutes(have *kernel, names map[int]string) error {
	all, err := f.table()
	if err != nil {
		return err
	}
	for _, r := range all {
		key := routeKey{prefix(r.Dst), r.Priority}
		if r.Protocol != Protocol {
			have.foreign[key] = key.metric != 0
			continue
		}
		got := f.routeOf(r, names)
		if _, twice := have.routes[key]; twice {
			have.extra = append(have.extra, got)
		} else {
			have.routes[key] = got
		}
	}
	return nil
}

// table reads the main table whole before it answers: while a dump is under way the
// kernel can be asked nothing else.
func (f *Fabric) table() ([]netlink.Route, error) {
	all, err := f.h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return all, nil
}

// routeOf puts a route of the kernel into our words. What we would never write
// makes it unlike any route of a plan.
func (f *Fabric) routeOf(r netlink.Route, names map[int]string) route {
	out := route{routeKey: routeKey{prefix(r.Dst), r.Priority}, end: r.Type == unix.RTN_UNREACHABLE}
	if out.end {
		return out
	}
	link, err := f.name(names, r.LinkIndex)
	if err != nil {
		link = "#" + strconv.Itoa(r.LinkIndex)
	}
	out.link, out.onlink = link, r.Flags&unix.RTNH_F_ONLINK != 0
	if via, ok := netip.AddrFromSlice(r.Gw); ok {
		out.via = via.Unmap()
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		out.src = src.Unmap()
	}
	if r.Type != unix.RTN_UNICAST || len(r.MultiPath) > 0 {
		out.link = "?"
	}
	return out
}

// leads tells whether a route of others has all of dst.
func (f *Fabric) leads(dst netip.Prefix) (bool, error) {
	all, err := f.table()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(r netlink.Route) bool {
		return r.Protocol != Protocol && r.Type == unix.RTN_UNICAST && within(dst, prefix(r.Dst))
	}), nil
}
