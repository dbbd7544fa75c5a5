package lab

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	bridge = "br0"
	uplink = "eth0" // of a node, to the bridge; the other end has the node's name
)

// gateway is the bridge's own address. It leads nowhere: a default route only
// makes a node's kernel choose a source address as a real machine's does.
var gateway = net.IPv4(10, 213, 0, 254)

func mask() net.IPMask { return net.CIDRMask(24, 32) }

// kernel opens netlink in a pinned namespace.
func kernel(name string) (*netlink.Handle, netns.NsHandle, error) {
	ns, err := netns.GetFromPath(netnsPath(name))
	if err != nil {
		return nil, ns, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, ns, fmt.Errorf("talk to the kernel in namespace %s: %w", name, err)
	}
	return h, ns, nil
}

func within(name string, do func(h *netlink.Handle, ns netns.NsHandle) error) error {
	h, ns, err := kernel(name)
	if err != nil {
		return err
	}
	defer func() { h.Close(); _ = ns.Close() }()
	return do(h, ns)
}

// wire makes everything of a lab's network that is missing: it may be called
// again, and then repairs what a kill has undone.
func (l *Lab) wire() error {
	if err := pinNamespace(l.switchName()); err != nil {
		return err
	}
	if err := within(l.switchName(), setBridge); err != nil {
		return fmt.Errorf("set up the switch: %w", err)
	}
	for _, n := range l.Nodes {
		if err := l.plug(n); err != nil {
			return err
		}
	}
	return nil
}

func setBridge(h *netlink.Handle, _ netns.NsHandle) error {
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
	if err := h.LinkAdd(br); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add bridge: %w", err)
	}
	link, err := h.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: gateway, Mask: mask()}}); err != nil {
		return fmt.Errorf("set the bridge's address: %w", err)
	}
	return raise(h, bridge, "lo")
}

func raise(h *netlink.Handle, names ...string) error {
	for _, name := range names {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set link %s up: %w", name, err)
		}
	}
	return nil
}

// plug gives a node its namespace and its cable, both ends up.
func (l *Lab) plug(n *node) error {
	if err := pinNamespace(l.namespace(n)); err != nil {
		return err
	}
	err := within(l.namespace(n), func(inner *netlink.Handle, ns netns.NsHandle) error {
		err := within(l.switchName(), func(outer *netlink.Handle, _ netns.NsHandle) error {
			return cable(outer, inner, ns, n.Name)
		})
		if err != nil {
			return err
		}
		return address(inner, n)
	})
	if err != nil {
		return fmt.Errorf("plug in node %s: %w", n.Name, err)
	}
	return nil
}

func cable(outer, inner *netlink.Handle, ns netns.NsHandle, name string) error {
	br, err := outer.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	if _, err := inner.LinkByName(uplink); err != nil {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: name, MasterIndex: br.Attrs().Index})
		veth.PeerName, veth.PeerNamespace = uplink, netlink.NsFd(ns)
		if err := outer.LinkAdd(veth); err != nil {
			return fmt.Errorf("add link: %w", err)
		}
	}
	return raise(outer, name)
}

func address(h *netlink.Handle, n *node) error {
	if err := raise(h, "lo", uplink); err != nil {
		return err
	}
	link, err := h.LinkByName(uplink)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: n.addr().AsSlice(), Mask: mask()}}
	if err := h.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("set address: %w", err)
	}
	if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}); err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	return nil
}

// unplug cuts a node's cable, the far end first: nothing that the node sends from
// now on reaches anybody.
func (l *Lab) unplug(n *node) error {
	for _, end := range []struct{ ns, link string }{{l.switchName(), n.Name}, {l.namespace(n), uplink}} {
		err := within(end.ns, func(h *netlink.Handle, _ netns.NsHandle) error {
			link, err := h.LinkByName(end.link)
			if err != nil {
				return fmt.Errorf("find link %s: %w", end.link, err)
			}
			return h.LinkSetDown(link)
		})
		if err != nil {
			return fmt.Errorf("unplug node %s: %w", n.Name, err)
		}
	}
	return nil
}

// plugged tells whether both ends of a node's cable are up.
func (l *Lab) plugged(n *node) bool {
	up := true
	for _, end := range []struct{ ns, link string }{{l.switchName(), n.Name}, {l.namespace(n), uplink}} {
		err := within(end.ns, func(h *netlink.Handle, _ netns.NsHandle) error {
			link, err := h.LinkByName(end.link)
			up = up && err == nil && link.Attrs().Flags&net.FlagUp != 0
			return err
		})
		up = up && err == nil
	}
	return up
}

// setDelay makes both directions of a node's cable slow, or fast again. It fails
// where the kernel has no netem.
func (l *Lab) setDelay(n *node) error {
	for _, end := range []struct{ ns, link string }{{l.switchName(), n.Name}, {l.namespace(n), uplink}} {
		err := within(end.ns, func(h *netlink.Handle, _ netns.NsHandle) error {
			link, err := h.LinkByName(end.link)
			if err != nil {
				return fmt.Errorf("find link %s: %w", end.link, err)
			}
			attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
			if n.Delay == 0 {
				err := h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "netem"})
				if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
					return nil // there is none
				}
				return err
			}
			return h.QdiscReplace(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: uint32(n.Delay.Microseconds())}))
		})
		if err != nil {
			return fmt.Errorf("delay packets of node %s: %w", n.Name, err)
		}
	}
	return nil
}
