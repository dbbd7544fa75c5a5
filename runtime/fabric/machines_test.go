package fabric

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A machine is a network namespace that stands for one: a machine, a Pod, a switch
// or a router. All that is in it goes with it.
type machine struct {
	tb testing.TB
	ns netns.NsHandle
	h  *netlink.Handle
	f  *Fabric // of machines alone
}

// empty makes a namespace with nothing but lo, which is up.
func empty(tb testing.TB) *machine {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("network namespaces need root")
	}
	m := &machine{tb: tb}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the new namespace
		var err error
		m.ns, err = netns.New()
		made <- err
	}()
	ok(tb, <-made)
	var err error
	m.h, err = netlink.NewHandleAt(m.ns, unix.NETLINK_ROUTE)
	ok(tb, err)
	tb.Cleanup(func() {
		m.h.Close()
		_ = m.ns.Close()
	})
	ok(tb, m.h.LinkSetUp(m.link("lo")))
	return m
}

// host makes a machine with a fabric.
func host(tb testing.TB) *machine {
	tb.Helper()
	m := empty(tb)
	var err error
	m.f, err = OpenAt(m.ns, slog.New(slog.DiscardHandler))
	ok(tb, err)
	tb.Cleanup(func() { _ = m.f.Close() })
	return m
}

func ok(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func (m *machine) link(name string) netlink.Link {
	m.tb.Helper()
	l, err := m.h.LinkByName(name)
	ok(m.tb, err)
	return l
}

func (m *machine) write(path, value string) {
	m.tb.Helper()
	ok(m.tb, inside(m.ns, func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) }))
}

// cable joins two namespaces; addresses may be empty.
func cable(a *machine, nameA, addrA string, b *machine, nameB, addrB string) {
	a.tb.Helper()
	v := netlink.NewVeth(netlink.LinkAttrs{Name: nameA, MTU: 1500})
	v.PeerName, v.PeerNamespace, v.PeerMTU = nameB, netlink.NsFd(b.ns), 1500
	ok(a.tb, a.h.LinkAdd(v))
	a.address(nameA, addrA)
	b.address(nameB, addrB)
}

func (m *machine) address(link, addr string) {
	m.tb.Helper()
	if addr != "" {
		p := netip.MustParsePrefix(addr)
		ok(m.tb, m.h.AddrAdd(m.link(link), &netlink.Addr{IPNet: ipNet(p)}))
	}
	ok(m.tb, m.h.LinkSetUp(m.link(link)))
}

// bridge joins machines on one link, each by its eth0 with the address given.
func bridge(tb testing.TB, of map[*machine]string) *machine {
	tb.Helper()
	sw := empty(tb)
	ok(tb, sw.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	ok(tb, sw.h.LinkSetUp(sw.link("br0")))
	for m, addr := range of {
		sw.plug(m, addr)
	}
	return sw
}

func (m *machine) plug(other *machine, addr string) {
	m.tb.Helper()
	links, err := m.h.LinkList()
	ok(m.tb, err)
	port := fmt.Sprintf("p%d", len(links))
	cable(other, "eth0", addr, m, port, "")
	ok(m.tb, m.h.LinkSetMaster(m.link(port), m.link("br0")))
}

// router joins networks, each a machine's eth0 and the router's address there. The
// router knows of no Pods.
func router(tb testing.TB) *machine {
	tb.Helper()
	r := empty(tb)
	r.write("ipv4/ip_forward", "1")
	return r
}

func (m *machine) serve(other *machine, port, mine, theirs string) {
	m.tb.Helper()
	cable(other, "eth0", theirs, m, port, mine)
	other.defaultVia(netip.MustParsePrefix(mine).Addr())
}

func (m *machine) defaultVia(gateway netip.Addr) {
	m.tb.Helper()
	ok(m.tb, m.h.RouteReplace(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: gateway.AsSlice()}))
}

// pod makes a Pod of m, joined as Pods are: one address, one way out.
func (m *machine) pod(addr string, mtu int) *machine {
	m.tb.Helper()
	p := empty(m.tb)
	a := netip.MustParseAddr(addr)
	name := fmt.Sprintf("sk-p%d", a.As4()[3])
	near, far := net.HardwareAddr{2, 0x73, 0x6b, 0, 0, 1}, net.HardwareAddr{6, 0x73, 0, 0, 0, 1}
	v := netlink.NewVeth(netlink.LinkAttrs{Name: name, MTU: mtu, HardwareAddr: near})
	v.PeerName, v.PeerNamespace, v.PeerHardwareAddr, v.PeerMTU = "eth0", netlink.NsFd(p.ns), far, uint32(mtu)
	ok(m.tb, m.h.LinkAdd(v))
	ok(m.tb, m.h.LinkSetARPOff(m.link(name)))
	ok(m.tb, m.h.LinkSetUp(m.link(name)))
	p.address("eth0", addr+"/32")
	gateway := net.IPv4(169, 254, 1, 1)
	ok(m.tb, p.h.NeighSet(&netlink.Neigh{LinkIndex: p.link("eth0").Attrs().Index, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: near}))
	ok(m.tb, p.h.RouteAdd(&netlink.Route{Gw: gateway, LinkIndex: p.link("eth0").Attrs().Index, Flags: unix.RTNH_F_ONLINK, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}))
	index := m.link(name).Attrs().Index
	ok(m.tb, m.h.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: far}))
	ok(m.tb, m.h.RouteAdd(&netlink.Route{Dst: ipNet(netip.PrefixFrom(a, 32)), LinkIndex: index, Scope: unix.RT_SCOPE_LINK, Protocol: 73}))
	return p
}

const patience = 2 * time.Second

func (m *machine) listen() net.Listener {
	m.tb.Helper()
	var l net.Listener
	ok(m.tb, inside(m.ns, func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	}))
	m.tb.Cleanup(func() { _ = l.Close() })
	return l
}

// dial connects from m.
func (m *machine) dial(network, addr string, limit time.Duration) (net.Conn, error) {
	var c net.Conn
	err := inside(m.ns, func() (err error) {
		c, err = (&net.Dialer{Timeout: limit}).Dial(network, addr)
		return err
	})
	return c, err
}

// echo answers what comes, over TCP and UDP, on one port of m.
func (m *machine) echo() int {
	m.tb.Helper()
	l := m.listen()
	port := l.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	var pc net.PacketConn
	ok(m.tb, inside(m.ns, func() (err error) {
		pc, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	}))
	m.tb.Cleanup(func() { _ = pc.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	return port
}

// reach sends a packet of size bytes, IP header and all, from m to an echo and
// back, and then 256 KiB as a stream.
func (m *machine) reach(addr string, port, size int) error {
	to := fmt.Sprintf("%s:%d", addr, port)
	u, err := m.dial("udp4", to, patience)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer u.Close()
	_ = u.SetDeadline(time.Now().Add(patience))
	payload := make([]byte, size-28)
	if _, err := u.Write(payload); err != nil {
		return fmt.Errorf("send a packet of %d bytes: %w", size, err)
	}
	if n, err := u.Read(payload); err != nil || n != size-28 {
		return fmt.Errorf("a packet of %d bytes came back as %d: %w", size, n, err)
	}
	c, err := m.dial("tcp4", to, patience)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	return pass(c, 256<<10)
}

// pass sends n bytes over an echoing connection and waits for all of them.
func pass(c net.Conn, n int) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, n))
		sent <- err
	}()
	_, err := io.ReadFull(c, make([]byte, n))
	return errors.Join(err, <-sent)
}

var (
	pods     = netip.MustParsePrefix("10.64.0.0/12")
	services = netip.MustParsePrefix("10.96.0.0/16")
)

// peer is machine n: 10.64.n.0/24 are its Pods'.
func peer(n int, addr string) Peer {
	return Peer{
		Name: fmt.Sprintf("m%d", n), Addr: netip.MustParseAddr(addr),
		Blocks: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.64.%d.0/24", n))},
	}
}

// set tells each machine of all the others, in the order of peers.
func set(tb testing.TB, c Config, machines []*machine, peers []Peer) {
	tb.Helper()
	for i, m := range machines {
		mine := c
		mine.Self = peers[i]
		mine.Peers = append(append([]Peer{}, peers[:i]...), peers[i+1:]...)
		if mine.Pods = pods; !mine.Services.IsValid() {
			mine.Services = services
		}
		if err := m.f.Set(tb.Context(), mine); err != nil {
			tb.Fatalf("set %s: %v", peers[i].Name, err)
		}
	}
}

// sound fails the test if Check finds anything.
func sound(tb testing.TB, machines ...*machine) {
	tb.Helper()
	for i, m := range machines {
		found, err := m.f.Check(tb.Context())
		if err != nil || len(found) > 0 {
			tb.Errorf("machine %d is not as it was set: %q %v", i, found, err)
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
