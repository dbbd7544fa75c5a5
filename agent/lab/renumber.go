package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// movedBy is how far apart the two addresses of a node are, and so how many
// nodes a lab may have that is to be renumbered.
const movedBy = 100

// Renumber takes the power from every node at once and gives it back with
// another address for each: what a power cut does where addresses are leased.
// All a node is told is the new address of one other, as an operator would.
func (l *Lab) Renumber(ctx context.Context) error {
	if len(l.Nodes) < 2 || len(l.Nodes) > movedBy {
		return misuse("", "lab %q has %d nodes: 2 to %d can be renumbered", l.Name, len(l.Nodes), movedBy)
	}
	for _, n := range l.Nodes {
		if n.Killed {
			continue
		}
		if err := l.Kill(ctx, n.Name); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		if !until(ctx, killWait, func() bool { return l.keeperGone(n) }) {
			return fault("", "the keeper of node %s does not end", n.Name)
		}
		if err := l.unaddress(n); err != nil {
			return err
		}
		n.Moved = !n.Moved
		if err := l.plug(n); err != nil {
			return err
		}
		n.Killed = false
	}
	if err := l.apply(); err != nil {
		return err
	}
	var g errgroup.Group
	for i, n := range l.Nodes {
		if !n.Joined || l.removed(n) {
			continue // it has nothing to start with; `up` lets it join
		}
		other := l.Nodes[0]
		if i == 0 {
			other = l.Nodes[1]
		}
		w, err := l.start(n, "--join", other.advertise())
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		g.Go(func() error { return l.awaitAPI(ctx, w) })
	}
	return g.Wait()
}

// keeperGone tells whether the lock of a node's keeper is free: a killed process
// of many threads looks dead a moment before the last of them lets go.
func (l *Lab) keeperGone(n *node) bool {
	f, err := os.Open(filepath.Join(l.keeperDir(n), "lock"))
	if err != nil {
		return true // it never ran
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// unaddress takes a node's address away.
func (l *Lab) unaddress(n *node) error {
	err := within(l.namespace(n), func(h *netlink.Handle, _ netns.NsHandle) error {
		link, err := h.LinkByName(uplink)
		if err != nil {
			return err
		}
		err = h.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: n.addr().AsSlice(), Mask: mask()}})
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("take the address of node %s: %w", n.Name, err)
	}
	return nil
}
