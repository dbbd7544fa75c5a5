// Package fabric makes the ways between the machines of a cluster, for the packets
// of their Pods: plain routes where another machine is on the same link, VXLAN with
// written-down entries where it is not. It owns the links named here, the routes
// that bear its Protocol, one address on lo and a few switches of the kernel; it
// leaves everything else in the namespace as it finds it. What joins a Pod to its
// machine is made elsewhere, and it knows of no objects: peers are names, addresses
// and keys.
package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// Protocol marks our routes in the kernel, so that we find them again and leave
	// those of others alone. That of the Pods' own routes is another.
	Protocol netlink.RouteProtocol = 74
	// VXLANLink is the link of the tunnel to peers that are not on-link.
	VXLANLink = "sk-vxlan"
	// LinkPrefix begins the name of every link of ours, Pods' included.
	linkPrefix = "sk-"
	// loopback holds the resolver's address, under a label that tells it is ours.
	loopback      = "lo"
	loopbackLabel = "lo:skein"

	// What a packet grows by: outer IPv4, UDP and VXLAN headers and the inner
	// Ethernet header; WireGuard's is that of IPv6 outside, as is customary.
	vxlanOverhead     = 50
	wireguardOverhead = 80
)

// Mode says how packets reach peers.
type Mode string

const (
	// Auto takes a direct route where a peer is on-link and VXLAN elsewhere, peer
	// by peer.
	Auto Mode = "auto"
	// Tunnel takes VXLAN to every peer.
	Tunnel Mode = "tunnel"
	// Direct takes plain routes to every peer: through the gateway that leads to
	// it where it is not on-link, which then must know the peer's Blocks.
	Direct Mode = "direct"
)

// A Peer is a machine of the cluster.
type Peer struct {
	Name string
	// Addr is its address on the network that joins the machines.
	Addr netip.Addr
	// Blocks are its Pods' addresses, no other machine's. The first address of the
	// first block names the machine within tunnels, so no Pod has it, and all
	// machines must be told the same block first.
	Blocks []netip.Prefix
	// Key is its WireGuard public key; zero is none.
	Key [32]byte
}

// A Config is all that Set makes so.
type Config struct {
	Mode Mode // empty is Auto
	Self Peer
	// Pods holds every block. Addresses in it that no peer has are unreachable, so
	// nothing for a Pod ever leaves by the default route.
	Pods netip.Prefix
	// Services are given a route if nothing leads there, because a local process's
	// packet needs one before its destination is translated. Invalid: none.
	Services netip.Prefix
	// Network keeps clusters that share a link apart: the VXLAN network
	// identifier, of which the low 24 bits count.
	Network uint32
	Port    uint16 // of VXLAN, over UDP; 0 is 4789
	Peers   []Peer
	// Encrypt sends all packets to peers through WireGuard, and none to those
	// without a Key.
	Encrypt       bool
	PrivateKey    [32]byte
	WireGuardPort uint16 // over UDP, the same on all machines; 0 is 51820
	// Resolver is an address put on lo, seen by this machine alone. Invalid: none.
	Resolver netip.Addr
}

// A Fabric is the cluster's network in one network namespace. Its methods may be
// called from several goroutines.
type Fabric struct {
	ns  netns.NsHandle
	h   *netlink.Handle
	log *slog.Logger

	mu     sync.Mutex
	config *Config // of the last Set; nil before it
	last   plan    // what the last Set wanted
	// indexes are links' numbers by name, as this Set has found them.
	indexes map[string]int
}

// Open prepares to work in the calling thread's network namespace.
func Open(log *slog.Logger) (*Fabric, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("find this network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // a descriptor, whose namespace stays
	return OpenAt(ns, log)
}

// OpenAt is Open for another network namespace; the handle stays the caller's.
func OpenAt(ns netns.NsHandle, log *slog.Logger) (*Fabric, error) {
	own, err := unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor is small and not negative
	if err != nil {
		return nil, fmt.Errorf("keep the network namespace: %w", err)
	}
	f := &Fabric{ns: netns.NsHandle(own), log: log}
	if f.h, err = netlink.NewHandleAt(f.ns, unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("talk to the kernel: %w", err), f.ns.Close())
	}
	return f, nil
}

// Close lets go of the kernel and leaves there what Set made.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.h.Close()
	return f.ns.Close()
}

// Set makes the kernel so as c says. It changes nothing that is right and nothing
// that is not ours, and may be called again at any time. What cannot be done for
// one peer does not hold up the others: the error joins all that went wrong.
func (f *Fabric) Set(ctx context.Context, c Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	want, have, err := f.compare(&c)
	if err != nil {
		return err
	}
	f.config, f.last, f.indexes = &c, want, map[string]int{}
	errs := want.errs
	for _, s := range difference(want, have) {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := f.perform(s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s, err))
		}
	}
	return errors.Join(errs...)
}

// compare works out what c wants on this machine as it is, and reads what is there.
func (f *Fabric) compare(c *Config) (plan, kernel, error) {
	c, err := c.complete()
	if err != nil {
		return plan{}, kernel{}, err
	}
	var want plan
	var have kernel
	var under underlay
	// A dump that others' changes ran into is not whole, and is begun again.
	for range 5 {
		if under, err = f.survey(c); err == nil {
			want = lay(c, under)
			have, err = f.read(want)
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return want, have, err
}

// MTU is what Pods' links may carry in bytes: what the machines' network does, less
// what the last Set's tunnels add. 0 before the first Set.
func (f *Fabric) MTU() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last.mtu
}

// Path tells how packets to a peer go since the last Set: by which kind of way
// ("direct", "vxlan" or "wireguard"), and through what. Both are empty if none do.
func (f *Fabric) Path(peer string) (kind, via string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.last.ways[peer]
	return string(w.kind), w.String()
}

// Check reads the kernel and says in words what differs from what the last Set
// wanted, and which peers it could not serve. Nothing is nil.
func (f *Fabric) Check(ctx context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.config == nil {
		return []string{"the network has not been set up"}, nil
	}
	want, have, err := f.compare(f.config)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, err := range want.errs {
		found = append(found, err.Error())
	}
	for _, s := range difference(want, have) {
		found = append(found, s.String())
	}
	return found, nil
}
