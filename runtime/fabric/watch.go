package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// gathering is how long changes may gather before they are told.
const gathering = 50 * time.Millisecond

// Watch calls changed when links, addresses or routes are not what they were and Set
// may have something to mend or to decide anew, until ctx ends. Links of Pods come
// and go without it.
func (f *Fabric) Watch(ctx context.Context, changed func()) error {
	links, addrs, routes := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64)
	failed := make(chan error, 8)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	done := ctx.Done()
	for _, err := range []error{
		netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &f.ns, ErrorCallback: fail}),
		netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &f.ns, ErrorCallback: fail}),
		netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &f.ns, ErrorCallback: fail}),
	} {
		if err != nil {
			return fmt.Errorf("listen to the kernel: %w", err)
		}
	}
	for {
		var news bool
		select {
		case <-done:
			return nil
		case err := <-failed:
			if !errors.Is(err, unix.ENOBUFS) && ctx.Err() == nil {
				return fmt.Errorf("listen to the kernel: %w", err)
			}
			news = true
		case u, ok := <-links:
			news = ok && !strings.HasPrefix(u.Attrs().Name, podLinks) && (u.Attrs().Name != "" || u.Header.Type == unix.RTM_DELLINK)
			links = open(links, ok)
		case u, ok := <-addrs:
			news = ok && u.LinkAddress.IP.To4() != nil
			addrs = open(addrs, ok)
		case u, ok := <-routes:
			news = ok && f.matters(u.Dst)
			routes = open(routes, ok)
		}
		if !news {
			continue
		}
		if !quiet(ctx, links, addrs, routes) {
			return nil
		}
		changed()
	}
}

// podLinks begins the names of links to Pods, which are nobody's business here.
const podLinks = "sk-p"

// open is the channel, or one that delivers nothing once it is closed.
func open[T any](c chan T, ok bool) chan T {
	if ok {
		return c
	}
	return nil
}

// quiet waits a little, and drops what comes meanwhile: one look sees it all.
func quiet(ctx context.Context, links chan netlink.LinkUpdate, addrs chan netlink.AddrUpdate, routes chan netlink.RouteUpdate) bool {
	timer := time.NewTimer(gathering)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-links:
		case <-addrs:
		case <-routes:
		}
	}
}

// matters tells whether a change of a route may concern the ways to peers. Those to
// this machine's own Pods do not.
func (f *Fabric) matters(dst *net.IPNet) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if dst == nil || f.config == nil {
		return true
	}
	addr, ok := netip.AddrFromSlice(dst.IP)
	ones, bits := dst.Mask.Size()
	return !(ok && ones == bits && f.config.Pods.Contains(addr.Unmap()))
}

// Remove takes away all that Set has made.
func (f *Fabric) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var have kernel
	var err error
	for range 5 {
		if have, err = f.read(plan{}); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return err
	}
	errs := []error{nil}
	for _, s := range difference(plan{}, have) {
		errs = append(errs, f.perform(s))
	}
	f.config, f.last = nil, plan{}
	return errors.Join(errs...)
}
