package balance

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Forget ends what the kernel knows of connections to endpoints that are gone, or
// with a protocol of that alone: the next packet of such a client finds another, or
// is refused, and is not sent on for minutes to where nobody is. It returns how many
// they were. Whoever has few such addresses asks for all at once: each call looks
// through the whole table of the kernel.
func (t *Table) Forget(gone []netip.Addr, only ...Protocol) (uint, error) {
	if len(gone) == 0 {
		return 0, nil
	}
	h, err := t.handle()
	if err != nil {
		return 0, err
	}
	defer h.Close()
	f := flows{gone: map[netip.Addr]bool{}}
	for _, a := range gone {
		f.gone[a] = true
	}
	for _, p := range only {
		f.only = append(f.only, uint8(p))
	}
	n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	if err != nil {
		return n, fmt.Errorf("end connections to endpoints that are gone: %w", err)
	}
	return n, nil
}

func (t *Table) handle() (*netlink.Handle, error) {
	var h *netlink.Handle
	var err error
	if t.ns > 0 {
		h, err = netlink.NewHandleAt(netns.NsHandle(t.ns), unix.NETLINK_NETFILTER)
	} else {
		h, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
	}
	if err != nil {
		return nil, fmt.Errorf("talk to conntrack: %w", err)
	}
	return h, nil
}

// flows matches connections by who answers them.
type flows struct {
	gone map[netip.Addr]bool
	only []uint8
}

// MatchConntrackFlow tells whether a connection is one of them.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if len(f.only) > 0 {
		match := false
		for _, p := range f.only {
			match = match || p == flow.Forward.Protocol
		}
		if !match {
			return false
		}
	}
	addr, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && f.gone[addr.Unmap()]
}
