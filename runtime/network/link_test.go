package network

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onMachine runs f on a thread with a network of its own, as a machine has one.
func onMachine(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and ends with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func wired(t *testing.T, p *Pins, name, addr string) {
	t.Helper()
	if err := p.Set(Spec{Name: name, Hostname: name, Address: netip.MustParseAddr(addr), MTU: 1450}); err != nil {
		t.Error(err)
	}
}

// speak sends a line from one Pod to another and gives back what came.
func speak(t *testing.T, p *Pins, from, to, addr string) string {
	t.Helper()
	var ln net.PacketConn
	inside(t, p, to, []Kind{Net}, func() (err error) {
		ln, err = net.ListenPacket("udp4", addr+":7")
		return err
	})
	if ln == nil {
		return ""
	}
	defer ln.Close()
	conn, err := p.Dial(t.Context(), from, "udp", addr+":7")
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Error(err)
		return ""
	}
	buf := make([]byte, 16)
	for range 20 {
		_ = ln.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, peer, err := ln.ReadFrom(buf); err == nil {
			host, _, _ := net.SplitHostPort(peer.String())
			return string(buf[:n]) + " from " + host
		}
		_, _ = conn.Write([]byte("hello")) // a datagram may get lost
	}
	return "nothing"
}

func TestPodsOfOneMachineReachEachOtherByTheirOwnAddresses(t *testing.T) {
	p := open(t)
	onMachine(t, func() {
		wired(t, p, "a", "10.64.0.1")
		wired(t, p, "b", "10.64.0.2")
		if got, want := speak(t, p, "a", "b", "10.64.0.2"), "hello from 10.64.0.1"; got != want {
			t.Errorf("a to b: %q, want %q", got, want)
		}
	})
}

func link(t *testing.T, pod string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(LinkName(pod))
	if err != nil {
		t.Error(err)
	}
	return l
}

func TestWiringAgainLeavesTheLinkAsItIs(t *testing.T) {
	p := open(t)
	onMachine(t, func() {
		wired(t, p, "a", "10.64.0.1")
		before := link(t, "a").Attrs().Index
		wired(t, p, "a", "10.64.0.1")
		if after := link(t, "a").Attrs().Index; after != before {
			t.Errorf("link %d has become %d", before, after)
		}
	})
}

func TestAnotherMTUKeepsTheLink(t *testing.T) {
	p := open(t)
	onMachine(t, func() {
		wired(t, p, "a", "10.64.0.1")
		before := link(t, "a").Attrs().Index
		if err := p.Set(Spec{Name: "a", Hostname: "a", Address: netip.MustParseAddr("10.64.0.1"), MTU: 1400}); err != nil {
			t.Error(err)
		}
		after := link(t, "a").Attrs()
		if after.Index != before || after.MTU != 1400 {
			t.Errorf("link %d with MTU %d, want %d with 1400", after.Index, after.MTU, before)
		}
		_ = p.atEnd("a", func(_ *netlink.Handle, end netlink.Link) error {
			if end.Attrs().MTU != 1400 {
				t.Errorf("the Pod's end has MTU %d", end.Attrs().MTU)
			}
			return nil
		})
	})
}

func TestWhatSomebodyRemovedIsMadeAgain(t *testing.T) {
	breaks := map[string]func(t *testing.T){
		"the link": func(t *testing.T) {
			if err := netlink.LinkDel(link(t, "b")); err != nil {
				t.Error(err)
			}
		},
		"the route": func(t *testing.T) {
			if err := netlink.RouteDel(routeTo(netip.MustParseAddr("10.64.0.2"), link(t, "b").Attrs().Index)); err != nil {
				t.Error(err)
			}
		},
		"the mark, as if it was left half made": func(t *testing.T) {
			if err := netlink.LinkSetAlias(link(t, "b"), "half"); err != nil {
				t.Error(err)
			}
		},
		"its being up": func(t *testing.T) {
			if err := netlink.LinkSetDown(link(t, "b")); err != nil {
				t.Error(err)
			}
		},
	}
	for name, ruin := range breaks {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			onMachine(t, func() {
				wired(t, p, "a", "10.64.0.1")
				wired(t, p, "b", "10.64.0.2")
				ruin(t)
				wired(t, p, "b", "10.64.0.2")
				if got, want := speak(t, p, "a", "b", "10.64.0.2"), "hello from 10.64.0.1"; got != want {
					t.Errorf("a to b: %q, want %q", got, want)
				}
			})
		})
	}
}

func TestAPodThatTakesAnotherAddressIsNotHeard(t *testing.T) {
	p := open(t)
	onMachine(t, func() {
		wired(t, p, "a", "10.64.0.1")
		wired(t, p, "b", "10.64.0.2")
		err := p.atEnd("a", func(h *netlink.Handle, end netlink.Link) error {
			for _, err := range []error{
				h.AddrAdd(end, &netlink.Addr{IPNet: host32(netip.MustParseAddr("10.64.0.9"))}),
				h.RouteReplace(&netlink.Route{LinkIndex: end.Attrs().Index, Gw: Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: net.IPv4(10, 64, 0, 9)}),
			} {
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if got := speak(t, p, "a", "b", "10.64.0.2"); !strings.HasPrefix(got, "nothing") {
			t.Errorf("b heard %q", got)
		}
	})
}

func TestSweepRemovesLinksOfPodsThatAreGone(t *testing.T) {
	p := open(t)
	onMachine(t, func() {
		wired(t, p, "a", "10.64.0.1")
		wired(t, p, "b", "10.64.0.2")
		held, err := os.Open(p.Path("b", Net)) // its namespace lives on
		if err != nil {
			t.Error(err)
			return
		}
		defer held.Close()
		if err := p.Remove("b"); err != nil {
			t.Error(err)
		}
		if routes, _ := netlink.RouteGet(net.IPv4(10, 64, 0, 2)); len(routes) > 0 {
			t.Errorf("the address of a Pod that is gone still leads to %v", routes)
		}
		if err := p.Sweep(); err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName(LinkName("b")); err == nil {
			t.Error("the link of b is still there")
		}
		link(t, "a")
	})
}

func BenchmarkWiringAPod(b *testing.B) {
	dir := b.TempDir() + "/ns"
	p, err := Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			b.Error(err)
			return
		}
		for i := 0; b.Loop(); i++ {
			name := "p" + time.Now().Format("150405.000000000")
			addr := netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)})
			if err := p.Set(Spec{Name: name, Hostname: "a", Address: addr, MTU: 1500}); err != nil {
				b.Error(err)
			}
			b.StopTimer()
			if err := p.Remove(name); err != nil {
				b.Error(err)
			}
			b.StartTimer()
		}
	}()
	<-done
	if err := p.Close(); err != nil {
		b.Error(err)
	}
}
