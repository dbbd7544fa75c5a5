package fabric

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// perform makes one change.
func (f *Fabric) perform(s step) error {
	switch s.verb {
	case rebuild:
		return f.rebuild(s.tunnel)
	case turn:
		return f.writeSwitch(s.sysctl)
	case addRoute, dropRoute:
		return f.performRoute(s)
	}
	name := s.link
	switch s.verb {
	case addAddress, dropAddress:
		name = s.address.link
	case addForward, dropForward, addNeighbor, dropNeighbor:
		name = VXLANLink
	}
	index, err := f.index(name)
	if err != nil {
		return err
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}}
	switch s.verb {
	case resize:
		return errors.Join(f.h.LinkSetHardwareAddr(link, s.tunnel.mac[:]), f.h.LinkSetMTU(link, s.tunnel.mtu))
	case raise:
		return f.h.LinkSetUp(link)
	case dismiss:
		delete(f.indexes, name)
		return f.h.LinkDel(link)
	case addAddress, dropAddress:
		return f.performAddress(s, link)
	case addForward:
		return f.h.NeighSet(forward(s, index))
	case dropForward:
		return gone(f.h.NeighDel(forward(s, index)))
	case addNeighbor:
		return f.h.NeighSet(neighbor(s, index))
	case dropNeighbor:
		return gone(f.h.NeighDel(neighbor(s, index)))
	}
	panic(fmt.Sprintf("step %d is not known", s.verb))
}

// gone forgives the absence of what was to be removed.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

// index answers a link's number. It is remembered for the length of one Set.
func (f *Fabric) index(name string) (int, error) {
	if i, ok := f.indexes[name]; ok {
		return i, nil
	}
	if name == "" {
		return 0, errors.New("no link")
	}
	link, err := f.h.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	f.indexes[name] = link.Attrs().Index
	return f.indexes[name], nil
}

// rebuild makes the tunnel's link, in place of one that may be there.
func (f *Fabric) rebuild(t *tunnel) error {
	delete(f.indexes, VXLANLink)
	switch link, err := f.h.LinkByName(VXLANLink); {
	case missing(err):
	case err != nil:
		return err
	default:
		if err := f.h.LinkDel(link); err != nil && !missing(err) {
			return fmt.Errorf("remove what is there: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = VXLANLink, t.mtu, net.HardwareAddr(t.mac[:])
	return f.h.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(t.network), Port: int(t.port), SrcAddr: t.local.AsSlice(),
	})
}

func (f *Fabric) performAddress(s step, link netlink.Link) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: s.address.addr.AsSlice(), Mask: net.CIDRMask(s.address.addr.BitLen(), s.address.addr.BitLen())}}
	if s.address.link == loopback {
		// Of host scope, or the kernel would take it for the source of packets
		// that leave.
		a.Scope, a.Label = unix.RT_SCOPE_HOST, loopbackLabel
	}
	if s.verb == addAddress {
		return f.h.AddrReplace(link, a)
	}
	return gone(f.h.AddrDel(link, a))
}

// forward says behind which machine a peer's end of the tunnel is.
func forward(s step, link int) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: s.addr.AsSlice(), HardwareAddr: s.mac[:],
	}
}

// neighbor says which Ethernet address a peer's end of the tunnel has.
func neighbor(s step, link int) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: s.addr.AsSlice(), HardwareAddr: s.mac[:],
	}
}

func (f *Fabric) performRoute(s step) error {
	if s.foreign && s.verb == addRoute {
		return errors.New("left alone") // the step's own words say why
	}
	r := &netlink.Route{
		Family: netlink.FAMILY_V4, Table: unix.RT_TABLE_MAIN, Protocol: Protocol,
		Dst: ipNet(s.route.dst), Priority: s.route.metric,
	}
	if s.verb == dropRoute {
		r.Scope = netlink.SCOPE_NOWHERE // whichever it has
	}
	index, err := f.index(s.route.link)
	switch {
	case s.verb == dropRoute && err != nil: // its link is none of those we make
		return gone(f.h.RouteDel(r))
	case s.verb == dropRoute:
		r.LinkIndex, r.Gw = index, s.route.via.AsSlice()
		return gone(f.h.RouteDel(r))
	case s.route.end:
		r.Type = unix.RTN_UNREACHABLE
		return f.h.RouteReplace(r)
	case err != nil:
		return err
	}
	r.Type, r.LinkIndex, r.Gw, r.Src = unix.RTN_UNICAST, index, s.route.via.AsSlice(), s.route.src.AsSlice()
	if !s.route.via.IsValid() {
		r.Scope = unix.RT_SCOPE_LINK
	}
	if s.route.onlink {
		r.Flags = unix.RTNH_F_ONLINK
	}
	return f.h.RouteReplace(r)
}
