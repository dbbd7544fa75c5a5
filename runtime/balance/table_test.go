package balance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A machine is a network of its own, with Pods that are networks of their own.
type machine struct {
	t    *testing.T
	ns   netns.NsHandle
	pods map[string]netns.NsHandle
}

// newNS makes a network namespace that lasts as long as the test.
func newBenchNS(b *testing.B) int { return int(newNS(b)) }

func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle, 1)
	go func() {
		runtime.LockOSThread() // and ends with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			close(made)
			return
		}
		ns, err := netns.Get()
		if err != nil {
			t.Error(err)
			close(made)
			return
		}
		made <- ns
	}()
	ns, ok := <-made
	if !ok {
		t.FailNow()
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// in runs f on a thread that is in a network.
func in[T any](t *testing.T, ns netns.NsHandle, f func() (T, error)) (T, error) {
	t.Helper()
	var out T
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and ends with it
		if err = netns.Set(ns); err == nil {
			out, err = f()
		}
	}()
	<-done
	return out, err
}

func must(t *testing.T, ns netns.NsHandle, f func() error) {
	t.Helper()
	if _, err := in(t, ns, func() (int, error) { return 0, f() }); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, ns netns.NsHandle, line string) string {
	t.Helper()
	out, err := in(t, ns, func() (string, error) {
		b, err := exec.Command("sh", "-c", line).CombinedOutput()
		return string(b), err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, ns: newNS(t), pods: map[string]netns.NsHandle{}}
	run(t, m.ns, "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; ip route add 10.96.0.0/16 dev lo")
	return m
}

// pod joins a network with an address, by a link as Pods have it.
func (m *machine) pod(addr string) netns.NsHandle {
	m.t.Helper()
	ns := newNS(m.t)
	link := linkOf(addr)
	must(m.t, m.ns, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: link})
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(ns)
		return netlink.LinkAdd(veth)
	})
	run(m.t, m.ns, "ip link set "+link+" up; ip addr add 169.254.1.1/32 dev "+link+"; ip route add "+addr+" dev "+link)
	run(m.t, ns, "ip link set lo up; ip link set eth0 up; ip addr add "+addr+"/32 dev eth0; ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1")
	m.pods[addr] = ns
	return ns
}

func linkOf(addr string) string { return "sk-p" + strings.ReplaceAll(addr[3:], ".", "") }

// serve answers each connection in a network with its client's address and its own
// name.
func serve(t *testing.T, ns netns.NsHandle, addr, name string) {
	t.Helper()
	ln, err := in(t, ns, func() (net.Listener, error) { return net.Listen("tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				_, _ = fmt.Fprintf(c, "%s to %s\n", host, name)
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	pc, err := in(t, ns, func() (net.PacketConn, error) { return net.ListenPacket("udp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = pc.WriteTo([]byte(host+" to "+name+"\n"), from)
		}
	}()
}

// ask connects from a network and returns what comes first.
func ask(t *testing.T, ns netns.NsHandle, network, addr string) (string, error) {
	t.Helper()
	conn, err := in(t, ns, func() (net.Conn, error) { return net.DialTimeout(network, addr, 2*time.Second) })
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

func wants(t *testing.T, ns netns.NsHandle, network, addr, want string) {
	t.Helper()
	if got, err := ask(t, ns, network, addr); err != nil || got != want {
		t.Errorf("%s %s: got %q, %v; want %q", network, addr, got, err, want)
	}
}

func (m *machine) table() *Table {
	m.t.Helper()
	table, err := OpenAt(int(m.ns))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = table.Close() })
	return table
}

func ports(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range list {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

func vip(text string, p Protocol) Frontend {
	at := netip.MustParseAddrPort(text)
	return Frontend{Addr: at.Addr(), Protocol: p, Port: at.Port()}
}

func (m *machine) config(fronts map[Frontend]Service) Config {
	cfg := Config{
		Pods: netip.MustParsePrefix("10.64.0.0/12"), Services: netip.MustParsePrefix("10.96.0.0/16"),
		Resolver: netip.MustParseAddr("169.254.53.53"), Tunnel: 4789, Frontends: fronts,
	}
	for addr := range m.pods {
		cfg.Here = append(cfg.Here, Pod{netip.MustParseAddr(addr), linkOf(addr)})
	}
	return cfg
}

func (m *machine) set(table *Table, cfg Config) {
	m.t.Helper()
	if err := table.Set(m.t.Context(), cfg); err != nil {
		m.t.Fatal(err)
	}
	wrong, err := table.Check(m.t.Context())
	if err != nil || len(wrong) > 0 {
		m.t.Errorf("after Set: %v, %v", wrong, err)
	}
}

func TestAServiceLeadsToItsEndpoints(t *testing.T) {
	m := newMachine(t)
	client := m.pod("10.64.0.1")
	for i := 2; i < 5; i++ {
		addr := fmt.Sprint("10.64.0.", i)
		serve(t, m.pod(addr), ":8080", addr)
	}
	table := m.table()
	all := Service{Endpoints: ports("10.64.0.2:8080", "10.64.0.3:8080", "10.64.0.4:8080")}
	m.set(table, m.config(map[Frontend]Service{vip("10.96.0.7:80", TCP): all, vip("10.96.0.7:80", UDP): all, {Protocol: TCP, Port: 30080}: all}))

	for name, from := range map[string]netns.NsHandle{"the machine": m.ns, "a Pod": client} {
		for _, network := range []string{"tcp", "udp"} {
			seen := map[string]int{}
			for range 90 {
				got, err := ask(t, from, network, "10.96.0.7:80")
				if err != nil {
					t.Fatalf("%s from %s: %v", network, name, err)
				}
				who, to, _ := strings.Cut(got, " to ")
				if name == "a Pod" && who != "10.64.0.1" {
					t.Fatalf("an endpoint sees %s, and the client is 10.64.0.1", who)
				}
				seen[to]++
			}
			for _, n := range seen {
				if len(seen) != 3 || n < 10 {
					t.Errorf("%s from %s: spread as %v", network, name, seen)
				}
			}
		}
	}
	// An endpoint reaches itself by its Service, too.
	m.set(table, m.config(map[Frontend]Service{vip("10.96.0.7:80", TCP): {Endpoints: ports("10.64.0.2:8080")}}))
	if got, err := ask(t, m.pods["10.64.0.2"], "tcp", "10.96.0.7:80"); err != nil || !strings.HasSuffix(got, "to 10.64.0.2") {
		t.Errorf("to itself: %q, %v", got, err)
	}
}

func TestNobodyBehindAServiceIsToldAtOnce(t *testing.T) {
	m := newMachine(t)
	client := m.pod("10.64.0.1")
	table := m.table()
	m.set(table, m.config(map[Frontend]Service{vip("10.96.0.7:80", TCP): {}, vip("10.96.0.7:53", UDP): {}}))
	for name, from := range map[string]netns.NsHandle{"the machine": m.ns, "a Pod": client} {
		for _, to := range []string{"10.96.0.7:80", "10.96.0.7:81", "10.96.9.9:80"} {
			if _, err := ask(t, from, "tcp", to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("tcp %s from %s: %v, want refused", to, name, err)
			}
		}
		if _, err := ask(t, from, "udp", "10.96.0.7:53"); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) { // of its own sockets
			t.Errorf("udp from %s: %v, want refused", name, err)
		}
	}
}

// outside is a machine beside this one.
func (m *machine) outside() netns.NsHandle {
	m.t.Helper()
	ns := newNS(m.t)
	must(m.t, m.ns, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "eth0"})
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(ns)
		return netlink.LinkAdd(veth)
	})
	run(m.t, m.ns, "ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up")
	run(m.t, ns, "ip link set lo up; ip addr add 192.0.2.9/24 dev eth0; ip link set eth0 up")
	return ns
}

func TestANodePortIsReachedFromOutside(t *testing.T) {
	m := newMachine(t)
	client, far := m.pod("10.64.0.1"), m.outside()
	serve(t, m.pod("10.64.0.2"), ":8080", "web")
	table := m.table()
	fronts := map[Frontend]Service{
		{Protocol: TCP, Port: 30080}: {Endpoints: ports("10.64.0.2:8080")},
		{Protocol: TCP, Port: 30081}: {Endpoints: ports("10.64.0.2:8080"), Keep: true},
		{Protocol: TCP, Port: 30082}: {Keep: true, Silent: true},
		{Protocol: UDP, Port: 30080}: {Endpoints: ports("10.64.0.2:8080")},
	}
	m.set(table, m.config(fronts))
	wants(t, far, "tcp", "192.0.2.1:30081", "192.0.2.9 to web")
	if got, err := ask(t, far, "tcp", "192.0.2.1:30080"); err != nil || got == "192.0.2.9 to web" {
		t.Errorf("got %q, %v; want a machine's own address", got, err)
	}
	for _, from := range []netns.NsHandle{far, client, m.ns} {
		for _, network := range []string{"tcp", "udp"} {
			if got, err := ask(t, from, network, "192.0.2.1:30080"); err != nil || !strings.HasSuffix(got, " to web") {
				t.Errorf("%s: %q, %v", network, got, err)
			}
		}
	}
	if _, err := ask(t, far, "tcp", "192.0.2.1:30082"); err == nil || errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a silent port answers: %v", err)
	}
}

func TestPodsLeaveTheClusterWithTheirMachinesAddress(t *testing.T) {
	m := newMachine(t)
	client, far := m.pod("10.64.0.1"), m.outside()
	serve(t, far, ":80", "far")
	table := m.table()
	cfg := m.config(nil)
	m.set(table, cfg)
	wants(t, client, "tcp", "192.0.2.9:80", "192.0.2.1 to far")
	cfg.Nodes = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	m.set(table, cfg)
	run(t, far, "ip route add 10.64.0.0/24 via 192.0.2.1")
	wants(t, client, "tcp", "192.0.2.9:80", "10.64.0.1 to far")
}

func TestAClientStaysWithItsEndpoint(t *testing.T) {
	m := newMachine(t)
	client := m.pod("10.64.0.1")
	var all []netip.AddrPort
	for i := 2; i < 7; i++ {
		addr := fmt.Sprint("10.64.0.", i)
		serve(t, m.pod(addr), ":8080", addr)
		all = append(all, netip.MustParseAddrPort(addr+":8080"))
	}
	table := m.table()
	f := vip("10.96.0.7:80", TCP)
	m.set(table, m.config(map[Frontend]Service{f: {Endpoints: all, Affinity: true}}))
	first, err := ask(t, client, "tcp", "10.96.0.7:80")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		wants(t, client, "tcp", "10.96.0.7:80", first)
	}
	for i, e := range all { // others go, one after the other
		if strings.HasSuffix(first, e.Addr().String()) {
			continue
		}
		rest := append(append([]netip.AddrPort{}, all[:i]...), all[i+1:]...)
		if err := table.Apply(t.Context(), Change{Put: map[Frontend]Service{f: {Endpoints: rest, Affinity: true}}}); err != nil {
			t.Fatal(err)
		}
		wants(t, client, "tcp", "10.96.0.7:80", first)
	}
}

func TestWhatOthersDoToTheTableIsNoticedAndMended(t *testing.T) {
	m := newMachine(t)
	client := m.pod("10.64.0.1")
	serve(t, m.pod("10.64.0.2"), ":8080", "web")
	table := m.table()
	m.set(table, m.config(map[Frontend]Service{vip("10.96.0.7:80", TCP): {Endpoints: ports("10.64.0.2:8080")}}))
	conn, err := in(t, client, func() (net.Conn, error) { return net.Dial("tcp", "10.96.0.7:80") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told := make(chan struct{}, 16)
	go func() { _ = table.Watch(t.Context(), func() { told <- struct{}{} }) }()
	for name, line := range map[string]string{
		"the table is deleted": "nft delete table ip skein", "the table is flushed": "nft flush table ip skein",
		"all is flushed": "nft flush ruleset", "an element is deleted": "nft flush map ip skein svc",
	} {
		t.Run(name, func(t *testing.T) {
			noticed := func() {
				for {
					run(t, m.ns, "nft add counter ip skein x 2>/dev/null; true") // until Watch listens
					select {
					case <-told:
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
			}
			run(t, m.ns, line)
			noticed()
			if repaired, err := table.Repair(t.Context()); err != nil || !repaired {
				t.Fatalf("repair: %v, %v", repaired, err)
			}
			wants(t, client, "tcp", "10.96.0.7:80", "10.64.0.1 to web")
			if wrong, err := table.Check(t.Context()); err != nil || len(wrong) > 0 {
				t.Errorf("after the repair: %v, %v", wrong, err)
			}
		})
	}
	if _, err := conn.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	all := ""
	buf := make([]byte, 64)
	for !strings.Contains(all, "still here") {
		n, err := conn.Read(buf)
		if all += string(buf[:n]); err != nil {
			t.Fatalf("a connection that was there: %q, %v", all, err)
		}
	}
}

func TestASpoofedSourceIsDropped(t *testing.T) {
	m := newMachine(t)
	liar := m.pod("10.64.0.1")
	serve(t, m.pod("10.64.0.2"), ":8080", "web")
	table := m.table()
	m.set(table, m.config(nil))
	wants(t, liar, "udp", "10.64.0.2:8080", "10.64.0.1 to web")
	run(t, liar, "ip addr add 10.64.0.9/32 dev eth0; ip route replace default via 169.254.1.1 src 10.64.0.9")
	run(t, m.ns, "ip route add 10.64.0.9 dev "+linkOf("10.64.0.1")) // though it would find back
	if got, err := ask(t, liar, "udp", "10.64.0.2:8080"); err == nil {
		t.Errorf("it was answered: %q", got)
	}
}

func TestPoliciesLetThroughWhatTheySay(t *testing.T) {
	m := newMachine(t)
	friend, stranger := m.pod("10.64.0.1"), m.pod("10.64.0.3")
	serve(t, m.pod("10.64.0.2"), ":8080", "web")
	serve(t, m.pods["10.64.0.2"], ":9000", "admin")
	serve(t, m.pods["10.64.0.3"], ":8080", "other")
	web := netip.MustParseAddr("10.64.0.2")
	fronts := map[Frontend]Service{vip("10.96.0.7:80", TCP): {Endpoints: ports("10.64.0.2:8080")}}
	tcp := func(first, last uint16) []PortRange { return []PortRange{{TCP, first, last}} }
	tests := map[string]struct {
		in, out *Class
		from    netns.NsHandle
		to      string
		network string
		passes  bool
	}{
		"none":                       {from: stranger, to: "10.64.0.2:8080", passes: true},
		"nothing comes in":           {in: &Class{}, from: friend, to: "10.64.0.2:8080"},
		"a peer does":                {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}}}}, from: friend, to: "10.64.0.2:8080", passes: true},
		"by its Service, too":        {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}}}}, from: friend, to: "10.96.0.7:80", passes: true},
		"no peer does not":           {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}}}}, from: stranger, to: "10.64.0.2:8080"},
		"a peer at its port":         {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}, Ports: tcp(8080, 8080)}}}, from: friend, to: "10.64.0.2:8080", passes: true},
		"not at another":             {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}, Ports: tcp(8080, 8080)}}}, from: friend, to: "10.64.0.2:9000"},
		"nor by another protocol":    {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}, Ports: tcp(8080, 8080)}}}, from: friend, to: "10.64.0.2:8080", network: "udp"},
		"a peer in a range of ports": {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}, Ports: tcp(8000, 8999)}}}, from: friend, to: "10.64.0.2:8080", passes: true},
		"beside the range":           {in: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.1")}, Ports: tcp(8000, 8999)}}}, from: friend, to: "10.64.0.2:9000"},
		"a block":                    {in: &Class{Rules: []Rule{{Nets: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/31")}}}}, from: friend, to: "10.64.0.2:8080", passes: true},
		"out of the block":           {in: &Class{Rules: []Rule{{Nets: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/31")}}}}, from: stranger, to: "10.64.0.2:8080"},
		"a block at its ports":       {in: &Class{Rules: []Rule{{Nets: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Ports: tcp(9000, 9000)}}}, from: stranger, to: "10.64.0.2:9000", passes: true},
		"a block not at others":      {in: &Class{Rules: []Rule{{Nets: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Ports: tcp(9000, 9000)}}}, from: stranger, to: "10.64.0.2:8080"},
		"blocks within blocks": {in: &Class{Rules: []Rule{
			{Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.64.0.0/24")}, Ports: append(tcp(8000, 8100), tcp(8050, 8200)...)},
			{Nets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.0.0/16")}},
			{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.3")}, Ports: tcp(8090, 9100)},
		}}, from: stranger, to: "10.64.0.2:9000", passes: true},
		"nothing goes out":             {out: &Class{}, from: m.pods["10.64.0.2"], to: "10.64.0.3:8080"},
		"something does":               {out: &Class{Rules: []Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.3")}}}}, from: m.pods["10.64.0.2"], to: "10.64.0.3:8080", passes: true},
		"what comes in is answered":    {out: &Class{}, from: friend, to: "10.64.0.2:8080", passes: true},
		"the machine asks its own Pod": {in: &Class{}, from: m.ns, to: "10.64.0.2:8080", passes: true},
	}
	table := m.table()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := m.config(fronts)
			if tt.in != nil {
				tt.in.Name = name
				cfg.Policy.Ingress = map[netip.Addr]Class{web: *tt.in}
			}
			if tt.out != nil {
				tt.out.Name = name
				cfg.Policy.Egress = map[netip.Addr]Class{web: *tt.out}
			}
			m.set(table, cfg)
			network := tt.network
			if network == "" {
				network = "tcp"
			}
			got, err := ask(t, tt.from, network, tt.to)
			if (err == nil) != tt.passes {
				t.Errorf("got %q, %v; want it to pass: %v", got, err, tt.passes)
			}
			if out := run(t, m.ns, "nft list table ip skein"); !strings.Contains(out, "chain enter") {
				t.Errorf("nft prints no such table:\n%s", out)
			}
		})
	}
}

var update = os.Getenv("SKEIN_UPDATE") != ""

func TestTheTableAsNftPrintsIt(t *testing.T) {
	m := newMachine(t)
	m.pod("10.64.0.1")
	m.pod("10.64.0.2")
	table := m.table()
	web := vip("10.96.0.7:80", TCP)
	check := func(name string) {
		t.Helper()
		got := run(t, m.ns, "nft list table ip skein")
		path := filepath.Join("testdata", name+".nft")
		if update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is not as it was (SKEIN_UPDATE=1 writes it):\n%s", name, got)
		}
	}
	apply := func(c Change) {
		t.Helper()
		if err := table.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	cfg := m.config(nil)
	cfg.Nodes = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	m.set(table, cfg)
	check("empty")
	apply(Change{Put: map[Frontend]Service{web: {Endpoints: ports("10.64.0.1:8080", "10.64.0.2:8080")}, {Protocol: TCP, Port: 30080}: {Endpoints: ports("10.64.0.1:8080")}}})
	check("service")
	apply(Change{Put: map[Frontend]Service{web: {Endpoints: ports("10.64.0.2:8080")}}})
	check("endpoint-gone")
	apply(Change{Put: map[Frontend]Service{web: {}}, Delete: []Frontend{{Protocol: TCP, Port: 30080}}})
	check("nobody")
	cfg.Policy.Ingress = map[netip.Addr]Class{netip.MustParseAddr("10.64.0.1"): {Name: "a", Rules: []Rule{
		{Peers: []netip.Addr{netip.MustParseAddr("10.64.0.2")}, Ports: []PortRange{{TCP, 80, 80}}},
		{Nets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Ports: []PortRange{{UDP, 53, 60}}},
		{Nets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
	}}}
	cfg.Frontends = map[Frontend]Service{web: {}}
	m.set(table, cfg)
	check("policy")
}
