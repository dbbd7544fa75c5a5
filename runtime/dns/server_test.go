package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

var (
	podRange     = netip.MustParsePrefix("10.64.0.0/12")
	serviceRange = netip.MustParsePrefix("10.96.0.0/16")
)

func entries() map[string]Entry {
	host := func(name, addr string) Host {
		return Host{Name: name, Addr: netip.MustParseAddr(addr), Ports: []Port{{Name: "peer", Protocol: "tcp", Number: 7000}}}
	}
	return map[string]Entry{
		"web": {Name: "web.default.svc", Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}, Ports: []Port{{Name: "http", Protocol: "tcp", Number: 80}}},
		"db": {
			Name: "db.shop.svc", Addrs: []netip.Addr{netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("10.64.0.2")},
			Hosts: []Host{host("db-0", "10.64.0.1"), host("", "10.64.0.2")},
		},
		"out":   {Name: "out.default.svc", Alias: "example.com"},
		"other": {Name: "other.default.svc", Alias: "web.default.svc.cluster.local"},
		"none":  {Name: "none.default.svc"},
	}
}

// start runs a server on the loopback, and returns where.
func start(t testing.TB, cfg Config) (*Server, string) {
	t.Helper()
	probe, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = probe.Close()
	cfg.Domain, cfg.Addr, cfg.Pods, cfg.Services = "cluster.local", addr, podRange, serviceRange
	s := New(cfg)
	s.Set(entries())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	packets, streams, err := s.listen(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- s.serve(ctx, packets, streams) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, addr.String()
}

func ask(t testing.TB, network, addr, name string, kind uint16) *dns.Msg {
	t.Helper()
	req := new(dns.Msg)
	req.SetQuestion(name, kind)
	c := dns.Client{Net: network, Timeout: 3 * time.Second}
	out, _, err := c.Exchange(req, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[kind], err)
	}
	return out
}

// told is an answer in short, its records sorted.
func told(m *dns.Msg) []string {
	var out []string
	for _, rr := range m.Answer {
		out = append(out, strings.Join(strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().Name)), " "))
	}
	slices.Sort(out)
	return append([]string{dns.RcodeToString[m.Rcode]}, out...)
}

func TestNamesOfTheCluster(t *testing.T) {
	_, addr := start(t, Config{})
	tests := map[string]struct {
		name string
		kind uint16
		want []string
	}{
		"a Service":                         {"web.default.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.96.0.7"}},
		"in any case of letters":            {"WeB.default.SVC.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.96.0.7"}},
		"no such type of it":                {"web.default.svc.cluster.local.", dns.TypeAAAA, []string{"NOERROR"}},
		"its ports":                         {"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV, []string{"NOERROR", "5 IN SRV 0 100 80 web.default.svc.cluster.local."}},
		"no such port":                      {"_ftp._tcp.web.default.svc.cluster.local.", dns.TypeSRV, []string{"NXDOMAIN"}},
		"one with no address":               {"none.default.svc.cluster.local.", dns.TypeA, []string{"NOERROR"}},
		"Pods of one without an address":    {"db.shop.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.64.0.1", "5 IN A 10.64.0.2"}},
		"one of them":                       {"db-0.db.shop.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.64.0.1"}},
		"one by its address":                {"10-64-0-2.db.shop.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.64.0.2"}},
		"their ports":                       {"_peer._tcp.db.shop.svc.cluster.local.", dns.TypeSRV, []string{"NOERROR", "5 IN SRV 0 100 7000 10-64-0-2.db.shop.svc.cluster.local.", "5 IN SRV 0 100 7000 db-0.db.shop.svc.cluster.local."}},
		"a Pod by its address":              {"10-64-9-1.shop.pod.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.64.9.1"}},
		"no Pod":                            {"192-0-2-1.shop.pod.cluster.local.", dns.TypeA, []string{"NXDOMAIN"}},
		"nothing":                           {"nope.default.svc.cluster.local.", dns.TypeA, []string{"NXDOMAIN"}},
		"a namespace is there":              {"default.svc.cluster.local.", dns.TypeA, []string{"NOERROR"}},
		"a namespace is not":                {"nowhere.svc.cluster.local.", dns.TypeA, []string{"NXDOMAIN"}},
		"another name of a Service":         {"other.default.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "5 IN A 10.96.0.7", "5 IN CNAME web.default.svc.cluster.local."}},
		"an address of a Service":           {"7.0.96.10.in-addr.arpa.", dns.TypePTR, []string{"NOERROR", "5 IN PTR web.default.svc.cluster.local."}},
		"an address of a Pod":               {"1.0.64.10.in-addr.arpa.", dns.TypePTR, []string{"NOERROR", "5 IN PTR db-0.db.shop.svc.cluster.local."}},
		"an address of nobody":              {"9.9.64.10.in-addr.arpa.", dns.TypePTR, []string{"NXDOMAIN"}},
		"the version of these names":        {"dns-version.cluster.local.", dns.TypeTXT, []string{"NOERROR", `5 IN TXT "1.1.0"`}},
		"a whole zone":                      {"cluster.local.", dns.TypeAXFR, []string{"REFUSED"}},
		"others, where nobody can be asked": {"example.com.", dns.TypeA, []string{"SERVFAIL"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, network := range []string{"udp", "tcp"} {
				if diff := cmp.Diff(tt.want, told(ask(t, network, addr, tt.name, tt.kind))); diff != "" {
					t.Errorf("%s (-want +got):\n%s", network, diff)
				}
			}
		})
	}
}

func TestWhatHasChangedIsAnsweredAtOnce(t *testing.T) {
	s, addr := start(t, Config{})
	s.Apply(map[string]Entry{"web": {Name: "web.default.svc", Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.9")}}}, []string{"db"})
	for name, want := range map[string][]string{
		"web.default.svc.cluster.local.":            {"NOERROR", "5 IN A 10.96.0.9"},
		"_http._tcp.web.default.svc.cluster.local.": {"NXDOMAIN"},
		"db-0.db.shop.svc.cluster.local.":           {"NXDOMAIN"},
		"shop.svc.cluster.local.":                   {"NXDOMAIN"},
	} {
		if diff := cmp.Diff(want, told(ask(t, "udp", addr, name, dns.TypeA))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := told(ask(t, "udp", addr, "7.0.96.10.in-addr.arpa.", dns.TypePTR)); got[0] != "NXDOMAIN" {
		t.Errorf("an address that was given back: %v", got)
	}
}

func TestALongAnswerIsCutByUDPAndWholeByTCP(t *testing.T) {
	s, addr := start(t, Config{})
	e := Entry{Name: "many.default.svc"}
	for i := range 200 {
		e.Addrs = append(e.Addrs, netip.AddrFrom4([4]byte{10, 64, 1, byte(i)}))
	}
	s.Apply(map[string]Entry{"many": e}, nil)
	cut := ask(t, "udp", addr, "many.default.svc.cluster.local.", dns.TypeA)
	cut.Compress = true
	if !cut.Truncated || cut.Len() > dns.MinMsgSize {
		t.Errorf("by UDP: %d bytes, truncated %v", cut.Len(), cut.Truncated)
	}
	req := new(dns.Msg)
	req.SetQuestion("many.default.svc.cluster.local.", dns.TypeA)
	req.SetEdns0(4096, false)
	more, _, err := (&dns.Client{UDPSize: 4096}).Exchange(req, addr)
	if err != nil || !more.Truncated || len(more.Answer) <= len(cut.Answer) || more.IsEdns0() == nil {
		t.Errorf("with room for more: %d answers after %d, %v", len(more.Answer), len(cut.Answer), err)
	}
	if whole := ask(t, "tcp", addr, "many.default.svc.cluster.local.", dns.TypeA); len(whole.Answer) != 200 {
		t.Errorf("by TCP: %d answers", len(whole.Answer))
	}
}

// upstream answers all that it is asked, when it may, and counts.
func upstream(t *testing.T, ttl uint32, may <-chan struct{}) (string, *atomic.Int64) {
	t.Helper()
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	srv := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		asked.Add(1)
		<-may
		out := new(dns.Msg)
		out.SetReply(req)
		out.Answer = []dns.RR{&dns.A{Hdr: head(req.Question[0].Name, dns.TypeA, ttl), A: net.IPv4(192, 0, 2, 1)}}
		_ = w.WriteMsg(out)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = p.Close() })
	return p.LocalAddr().String(), &asked
}

func TestOtherNamesAreAskedOnceAndRemembered(t *testing.T) {
	may := make(chan struct{})
	up, asked := upstream(t, 60, may)
	s := New(Config{Domain: "cluster.local", Upstreams: func() []string { return []string{up} }})
	now := time.Now()
	s.ahead.now = func() time.Time { return now }
	req := new(dns.Msg)
	req.SetQuestion("Example.com.", dns.TypeA)
	got := make(chan *dns.Msg, 10)
	for range 10 {
		go func() { got <- s.answer(netip.MustParseAddr("10.64.0.1"), req) }()
	}
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(may)
	for range 10 {
		if m := <-got; len(m.Answer) != 1 || m.Answer[0].Header().Name != "Example.com." {
			t.Errorf("got %v", m)
		}
	}
	now = now.Add(20 * time.Second)
	if m := s.answer(netip.MustParseAddr("10.64.0.2"), req); m.Answer[0].Header().Ttl != 40 {
		t.Errorf("later it is good for %d s, want 40", m.Answer[0].Header().Ttl)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	before := asked.Load()
	now = now.Add(maxKept)
	s.answer(netip.MustParseAddr("10.64.0.2"), req)
	if asked.Load() != before+1 {
		t.Error("an old answer is given for ever")
	}
}

func TestAnUpstreamThatIsSilentIsPassedOver(t *testing.T) {
	may := make(chan struct{})
	close(may)
	up, _ := upstream(t, 60, may)
	dead, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close() // refuses
	s := New(Config{Domain: "cluster.local", Upstreams: func() []string { return []string{dead.LocalAddr().String(), up} }})
	req := new(dns.Msg)
	req.SetQuestion("example.com.", dns.TypeA)
	if m := s.answer(netip.Addr{}, req); len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
}

func TestAFloodTakesNothingFromOthers(t *testing.T) {
	a, now := newAskers(), time.Now()
	loud, quiet := netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("10.64.0.2")
	passed := 0
	for range 10 * askBurst {
		if a.may(loud, now) {
			passed++
		}
	}
	if passed != askBurst {
		t.Errorf("of a flood %d pass, want %d", passed, askBurst)
	}
	if !a.may(quiet, now) {
		t.Error("another is not answered")
	}
	if !a.may(loud, now.Add(time.Second)) {
		t.Error("a second later it is still not answered")
	}
}

func FuzzAnswer(f *testing.F) {
	s := New(Config{Domain: "cluster.local", Pods: podRange, Services: serviceRange})
	s.Set(entries())
	for _, name := range []string{"web.default.svc.cluster.local.", "1.0.64.10.in-addr.arpa.", ".", "10-64-0-1.x.pod.cluster.local."} {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		m.SetEdns0(1232, true)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(dns.Msg)
		if req.Unpack(b) != nil {
			return
		}
		if out := s.answer(netip.MustParseAddr("10.64.0.1"), req); out != nil {
			out.Truncate(512)
			if _, err := out.Pack(); err != nil && len(req.Question) == 1 {
				if _, again := req.Pack(); again == nil {
					t.Errorf("an answer that cannot be sent: %v\n%v", err, req)
				}
			}
		}
	})
}

func BenchmarkQuestions(b *testing.B) {
	_, addr := start(b, Config{})
	req := new(dns.Msg)
	req.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	wire, err := req.Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(8)
	var askers atomic.Int32
	b.RunParallel(func(pb *testing.PB) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(askers.Add(1)))}} // each may ask so much
		c, err := d.Dial("udp4", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 512)
		for pb.Next() {
			if _, err := c.Write(wire); err != nil {
				b.Error(err)
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := c.Read(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "questions/s")
}
