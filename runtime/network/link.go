package network

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Pod's packets go through a pair of virtual Ethernet devices and are routed on
// this machine: no bridge, so what goes between two Pods of one machine passes the
// same rules as all else, and no Pod can speak to another by its hardware address.
// Inside, the Pod has one address and one neighbour, that every Pod has: Gateway.
const (
	// LinkPrefix begins the name of every link to a Pod.
	LinkPrefix = "sk-p"
	inner      = "eth0" // the Pod's end, as it sees it
	// Protocol marks our routes in the kernel, for those who look and clean up.
	Protocol netlink.RouteProtocol = 73
)

// Gateway is where a Pod's route leads. Nobody has the address: the Pod's neighbour
// entry for it is written down for good.
var Gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// gatewayMAC is the hardware address of this machine's end of every pair.
var gatewayMAC = net.HardwareAddr{0x02, 0x73, 0x6b, 0, 0, 1}

// podMAC is that of the Pod's end: locally administered, made of its address.
func podMAC(addr netip.Addr) net.HardwareAddr {
	b := addr.As4()
	return net.HardwareAddr{0x06, 0x73, b[0], b[1], b[2], b[3]}
}

// LinkName is what this machine's end of a Pod's pair is called: at most 15 bytes,
// as the kernel has it.
func LinkName(pod string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(pod)) // never fails
	return LinkPrefix + fmt.Sprintf("%011x", h.Sum64()&(1<<44-1))
}

// wire gives the pinned network its link, address and way out. What is so already
// stays as it is; of a pair that is not whole, both ends are made anew. A link that
// is there ends with its mark, so nobody takes a half made one for whole.
func (p *Pins) wire(s Spec) error {
	if !s.Address.Is4() {
		return fmt.Errorf("no address for a Pod: %s", s.Address)
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talk to the kernel: %w", err)
	}
	defer host.Close()
	name, mark := LinkName(s.Name), mark(s)
	link, err := host.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err != nil:
		return fmt.Errorf("look for link %s: %w", name, err)
	case link.Attrs().Alias == mark && link.Attrs().Flags&net.FlagUp != 0:
		return errors.Join(p.resize(host, link, s), leadTo(host, link, s.Address))
	default:
		if err := host.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove half made link %s: %w", name, err)
		}
	}
	if link, err = p.pair(host, s, name); err != nil {
		return err
	}
	if err := leadTo(host, link, s.Address); err != nil {
		return err
	}
	if err := host.LinkSetAlias(link, mark); err != nil {
		return fmt.Errorf("mark link %s: %w", name, err)
	}
	return nil
}

// mark is what a whole link bears: what it was made for.
func mark(s Spec) string {
	return "skein " + s.Name + " " + s.Address.String()
}

// pair makes both ends and sets up the Pod's.
func (p *Pins) pair(host *netlink.Handle, s Spec, name string) (netlink.Link, error) {
	ns, err := netns.GetFromPath(p.Path(s.Name, Net))
	if err != nil {
		return nil, fmt.Errorf("open the network of %s: %w", s.Name, err)
	}
	defer func() { _ = ns.Close() }() // a descriptor, whose namespace stays
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: name, MTU: s.MTU, HardwareAddr: gatewayMAC})
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr, veth.PeerMTU = inner, netlink.NsFd(ns), podMAC(s.Address), uint32(s.MTU) //nolint:gosec // an MTU is small
	if err := host.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add link %s: %w", name, err)
	}
	if err := guard(name); err != nil {
		return nil, err
	}
	link, err := host.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	if err := p.atEnd(s.Name, func(h *netlink.Handle, end netlink.Link) error { return setEnd(h, end, s.Address) }); err != nil {
		return nil, err
	}
	if err := host.LinkSetARPOff(link); err != nil { // both know each other: nobody is asked, and no flood is heard
		return nil, fmt.Errorf("turn off ARP on %s: %w", name, err)
	}
	if err := host.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set link %s up: %w", name, err)
	}
	return link, p.awaitUp(s.Name)
}

// carrierWait bounds how long the kernel may take to notice that both ends are up. It
// does so by itself, mostly at once; what the Pod sends before is lost.
const carrierWait = 500 * time.Millisecond

func (p *Pins) awaitUp(name string) error {
	return p.atEnd(name, func(h *netlink.Handle, end netlink.Link) error {
		for until := time.Now().Add(carrierWait); time.Now().Before(until); time.Sleep(200 * time.Microsecond) {
			if end.Attrs().OperState == netlink.OperUp {
				return nil
			}
			var err error
			if end, err = h.LinkByName(inner); err != nil {
				return err
			}
		}
		return nil // it will be
	})
}

// guard sets the kernel's own checks of what comes from a Pod: its source must be
// the Pod's, and it speaks IPv4 alone.
func guard(link string) error {
	for path, value := range map[string]string{
		"ipv4/conf/" + link + "/rp_filter":        "1",
		"ipv4/conf/" + link + "/accept_redirects": "0",
		"ipv4/conf/" + link + "/send_redirects":   "0",
		"ipv6/conf/" + link + "/disable_ipv6":     "1",
	} {
		err := os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			return fmt.Errorf("set %s: %w", path, err)
		}
	}
	return nil
}

// atEnd does something at the Pod's end.
func (p *Pins) atEnd(name string, do func(*netlink.Handle, netlink.Link) error) error {
	ns, err := netns.GetFromPath(p.Path(name, Net))
	if err != nil {
		return fmt.Errorf("open the network of %s: %w", name, err)
	}
	defer func() { _ = ns.Close() }() // a descriptor, whose namespace stays
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talk to the kernel: %w", err)
	}
	defer h.Close()
	end, err := h.LinkByName(inner)
	if err == nil {
		err = do(h, end)
	}
	if err != nil {
		return fmt.Errorf("set up %s of %s: %w", inner, name, err)
	}
	return nil
}

func setEnd(h *netlink.Handle, link netlink.Link, addr netip.Addr) error {
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: host32(addr)}); err != nil {
		return fmt.Errorf("set address %s: %w", addr, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	err := h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: Gateway.AsSlice(), HardwareAddr: gatewayMAC})
	if err != nil {
		return fmt.Errorf("name the gateway: %w", err)
	}
	err = h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: addr.AsSlice()})
	if err != nil {
		return fmt.Errorf("set the route out: %w", err)
	}
	return nil
}

// resize gives both ends another MTU, if it is another.
func (p *Pins) resize(host *netlink.Handle, link netlink.Link, s Spec) error {
	if s.MTU == 0 || link.Attrs().MTU == s.MTU {
		return nil
	}
	if err := host.LinkSetMTU(link, s.MTU); err != nil {
		return fmt.Errorf("set the MTU of %s: %w", link.Attrs().Name, err)
	}
	return p.atEnd(s.Name, func(h *netlink.Handle, end netlink.Link) error { return h.LinkSetMTU(end, s.MTU) })
}

// leadTo routes the address to the link.
func leadTo(host *netlink.Handle, link netlink.Link, addr netip.Addr) error {
	index := link.Attrs().Index
	err := host.NeighSet(&netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: podMAC(addr)})
	if err != nil {
		return fmt.Errorf("name the Pod's end of %s: %w", link.Attrs().Name, err)
	}
	if err := host.RouteReplace(routeTo(addr, index)); err != nil {
		return fmt.Errorf("route %s to %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}

func routeTo(addr netip.Addr, link int) *netlink.Route {
	return &netlink.Route{LinkIndex: link, Dst: host32(addr), Scope: netlink.SCOPE_LINK, Protocol: Protocol}
}

func host32(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// unwire takes the routes to a Pod away at once. Its links go with its namespace,
// which the kernel ends in its own time: to wait for that would take 36 ms each.
func (p *Pins) unwire(name string) error {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talk to the kernel: %w", err)
	}
	defer host.Close()
	link, err := host.LinkByName(LinkName(name))
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the link of %s: %w", name, err)
	}
	filter := &netlink.Route{LinkIndex: link.Attrs().Index}
	routes, err := host.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", link.Attrs().Name, err)
	}
	for _, r := range routes {
		if err := host.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove a route of %s: %w", link.Attrs().Name, err)
		}
	}
	// Whoever is still in the namespace is not to go on with an address that
	// somebody else may have next.
	if err := host.LinkSetAlias(link, "skein gone"); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("unmark %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// Sweep removes the links of Pods that have no pinned network: what a machine's
// end of a pair is left with where a namespace lives on that nobody knows.
func (p *Pins) Sweep() error {
	names, err := p.List()
	if err != nil {
		return err
	}
	return RemoveLinks(names...)
}

// RemoveLinks removes the links of all Pods but some.
func RemoveLinks(but ...string) error {
	keep := map[string]bool{}
	for _, name := range but {
		keep[LinkName(name)] = true
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talk to the kernel: %w", err)
	}
	defer host.Close()
	links, err := host.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		if l.Type() != "veth" || len(l.Attrs().Name) != len(LinkPrefix)+11 || l.Attrs().Name[:len(LinkPrefix)] != LinkPrefix || keep[l.Attrs().Name] {
			continue
		}
		if err := host.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove link %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}
