package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Config is what a Server needs.
type Config struct {
	Domain string         // that it answers for: "cluster.local"
	Addr   netip.AddrPort // where it listens, UDP and TCP
	// Pods and Services are where the cluster's addresses are from: nobody else is
	// asked for their names.
	Pods, Services netip.Prefix
	// Upstreams lists whom to ask for other names, as host:port; none: they are
	// refused. It may be asked for each such question.
	Upstreams func() []string
	// Dial reaches them; nil: by this machine's network.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	TTL    uint32 // of the cluster's own names, in seconds; 0: 5
	Logger *slog.Logger
}

const (
	// maxUDP is how long an answer by UDP may be, in bytes, whatever more the asker
	// would take: longer ones are cut into fragments that get lost.
	maxUDP = 1232
	// sockets share the port, so that cores need not wait for each other.
	sockets = 2
	// maxStreams bounds the TCP connections, of all and of one asker.
	maxStreams    = 256
	maxStreamsOne = 32
	streamIdle    = 8 * time.Second
)

// A Server answers for names. Until the first Set it knows none.
type Server struct {
	cfg    Config
	log    *slog.Logger
	zone   *zone
	ahead  *forwarder
	askers *askers
}

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	cfg.TTL = cmp.Or(cfg.TTL, 5)
	if cfg.Upstreams == nil {
		cfg.Upstreams = func() []string { return nil }
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger.With("component", "dns"), zone: newZone(cfg.Domain), ahead: newForwarder(cfg), askers: newAskers()}
}

// Set says what names there are, by owner. Apply changes those of some owners, and
// costs the same whatever others there are.
func (s *Server) Set(all map[string]Entry) { s.zone.set(all) }

// Apply takes the names of the owners that are gone away, and puts others' in place.
func (s *Server) Apply(put map[string]Entry, gone []string) { s.zone.apply(put, gone) }

// Lookup lists what the server would answer for a name of the cluster: addresses,
// or names. It is for those who check.
func (s *Server) Lookup(name string, kind uint16) (found []string, exists bool) {
	a := s.zone.lookup(dns.Question{Name: dns.CanonicalName(name), Qtype: kind, Qclass: dns.ClassINET}, s.cfg.TTL, s.cfg.Pods)
	for _, rr := range a.rrs {
		switch rr := rr.(type) {
		case *dns.A:
			found = append(found, rr.A.String())
		case *dns.CNAME:
			found = append(found, rr.Target)
		case *dns.SRV:
			found = append(found, fmt.Sprintf("%s:%d", rr.Target, rr.Port))
		}
	}
	return found, a.rcode == dns.RcodeSuccess
}

// Run listens and answers until ctx ends. While it cannot listen it tries on.
func (s *Server) Run(ctx context.Context) error {
	for {
		packets, streams, err := s.listen(ctx)
		if err == nil {
			return s.serve(ctx, packets, streams)
		}
		s.log.Warn("cannot listen for questions about names; trying on", "addr", s.cfg.Addr, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (s *Server) listen(ctx context.Context) (packets []net.PacketConn, streams net.Listener, err error) {
	control := func(_, _ string, c syscall.RawConn) error {
		var errs error
		err := c.Control(func(fd uintptr) {
			errs = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), //nolint:gosec // a descriptor
				unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1),      //nolint:gosec // a descriptor
			)
		})
		return errors.Join(err, errs)
	}
	lc := net.ListenConfig{Control: control}
	defer func() {
		if err != nil {
			for _, p := range packets {
				_ = p.Close() // nobody has read from it
			}
		}
	}()
	for range sockets {
		p, err := lc.ListenPacket(ctx, "udp4", s.cfg.Addr.String())
		if err != nil {
			return packets, nil, err
		}
		packets = append(packets, p)
	}
	streams, err = lc.Listen(ctx, "tcp4", s.cfg.Addr.String())
	return packets, streams, err
}

func (s *Server) serve(ctx context.Context, packets []net.PacketConn, streams net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	var all []*dns.Server
	for _, p := range packets {
		all = append(all, &dns.Server{PacketConn: p, Handler: s, UDPSize: 4096})
	}
	all = append(all, &dns.Server{
		Listener: &limited{Listener: streams, askers: s.askers}, Handler: s, ReadTimeout: 2 * time.Second,
		IdleTimeout: func() time.Duration { return streamIdle },
	})
	for _, one := range all {
		group.Go(func() error {
			if err := one.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("answer for names: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		for _, one := range all {
			_ = one.Shutdown() // it may not have begun
		}
		for _, p := range packets {
			_ = p.Close()
		}
		_ = streams.Close()
		return nil
	})
	return group.Wait()
}

// ServeDNS answers one question.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	defer func() { // no datagram ends an agent
		if p := recover(); p != nil {
			s.log.Error("a question could not be answered", "panic", p)
		}
	}()
	var asker netip.Addr
	stream := false
	switch from := w.RemoteAddr().(type) {
	case *net.TCPAddr:
		asker, stream = from.AddrPort().Addr().Unmap(), true
	case *net.UDPAddr:
		asker = from.AddrPort().Addr().Unmap()
	}
	if !s.askers.may(asker, time.Now()) {
		return // an answer to a flood is a flood
	}
	out := s.answer(asker, req)
	if out == nil {
		return
	}
	size := dns.MaxMsgSize
	if !stream {
		size = dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
		}
	}
	if req.IsEdns0() != nil && out.IsEdns0() == nil {
		out.SetEdns0(maxUDP, false)
	}
	out.Compress = true
	out.Truncate(size)
	_ = w.WriteMsg(out) // who has gone needs no answer
}

// answer works out the answer to a message; nil: none.
func (s *Server) answer(asker netip.Addr, req *dns.Msg) *dns.Msg {
	out := new(dns.Msg)
	out.SetReply(req)
	out.RecursionAvailable = true
	if req.Response {
		return nil
	}
	if req.Opcode != dns.OpcodeQuery {
		out.Rcode = dns.RcodeNotImplemented
		return out
	}
	if len(req.Question) != 1 {
		out.Rcode = dns.RcodeFormatError
		return out
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		out.SetEdns0(maxUDP, false)
		out.Rcode = dns.RcodeBadVers
		return out
	}
	q := req.Question[0]
	switch {
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		out.Rcode = dns.RcodeRefused
		return out
	}
	name := dns.CanonicalName(q.Name)
	if s.zone.within(name) {
		s.own(asker, out, q)
		return out
	}
	if addr, ok := reversed(name); ok {
		if target, known := s.zone.pointer(addr); known {
			out.Authoritative = true
			if q.Qtype == dns.TypePTR {
				out.Answer = []dns.RR{&dns.PTR{Hdr: head(q.Name, dns.TypePTR, s.cfg.TTL), Ptr: target}}
			}
			return out
		}
		if s.cfg.Pods.Contains(addr) || s.cfg.Services.Contains(addr) {
			out.Authoritative, out.Rcode = true, dns.RcodeNameError
			return out
		}
	}
	s.other(asker, out, req)
	return out
}

// own answers for a name of the cluster.
func (s *Server) own(asker netip.Addr, out *dns.Msg, q dns.Question) {
	a := s.zone.lookup(q, s.cfg.TTL, s.cfg.Pods)
	out.Authoritative, out.Rcode, out.Answer, out.Extra = true, a.rcode, a.rrs, a.extra
	if a.follow != "" {
		next := new(dns.Msg)
		next.SetQuestion(a.follow, q.Qtype)
		if s.zone.within(a.follow) { // once: aliases of aliases are the asker's to follow
			b := s.zone.lookup(next.Question[0], s.cfg.TTL, s.cfg.Pods)
			out.Answer = append(out.Answer, b.rrs...)
		} else if found := s.ahead.ask(asker, next); found != nil {
			out.Answer = append(out.Answer, found.Answer...)
		}
	}
	if len(out.Answer) == 0 {
		out.Ns = []dns.RR{&dns.SOA{
			Hdr: head(s.zone.domain, dns.TypeSOA, s.cfg.TTL), Ns: "ns.dns." + s.zone.domain, Mbox: "hostmaster." + s.zone.domain,
			Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: s.cfg.TTL,
		}}
	}
}

// other asks elsewhere.
func (s *Server) other(asker netip.Addr, out, req *dns.Msg) {
	if !req.RecursionDesired {
		out.Rcode = dns.RcodeRefused
		return
	}
	found := s.ahead.ask(asker, req)
	if found == nil {
		out.Rcode = dns.RcodeServerFailure
		return
	}
	out.Rcode, out.Answer, out.Ns = found.Rcode, found.Answer, found.Ns
	for _, rr := range found.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			out.Extra = append(out.Extra, rr)
		}
	}
}

// limited bounds connections.
type limited struct {
	net.Listener
	askers *askers
}

// Accept takes the next connection that there is room for.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if !l.askers.open(addr.Addr()) {
			_ = c.Close()
			continue
		}
		return &counted{Conn: c, close: sync.OnceFunc(func() { l.askers.close(addr.Addr()) })}, nil
	}
}

type counted struct {
	net.Conn
	close func()
}

// Close gives the place back.
func (c *counted) Close() error {
	c.close()
	return c.Conn.Close()
}
