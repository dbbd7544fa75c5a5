package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	askPatience = 2 * time.Second // for one upstream
	maxCached   = 10_000          // answers
	maxKept     = 30 * time.Second
	failedKept  = time.Second // that nobody answered
)

// A forwarder asks others, each question once at a time, and remembers for a while.
type forwarder struct {
	cfg    Config
	flight singleflight.Group
	now    func() time.Time

	mu    sync.Mutex
	known map[dns.Question]kept
	busy  map[netip.Addr]int // questions on their way, by asker
}

type kept struct {
	msg   *dns.Msg // nil: nobody answered
	since time.Time
	until time.Time
}

func newForwarder(cfg Config) *forwarder {
	return &forwarder{cfg: cfg, now: time.Now, known: map[dns.Question]kept{}, busy: map[netip.Addr]int{}}
}

// ask returns an answer that must not be changed; nil: there is none.
func (f *forwarder) ask(asker netip.Addr, req *dns.Msg) *dns.Msg {
	q := req.Question[0]
	q.Name = strings.ToLower(q.Name)
	f.mu.Lock()
	now := f.now()
	if k, ok := f.known[q]; ok && now.Before(k.until) {
		f.mu.Unlock()
		return k.aged(now, req.Question[0].Name)
	}
	if f.busy[asker] >= askAhead {
		f.mu.Unlock()
		return nil
	}
	f.busy[asker]++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.busy[asker]--; f.busy[asker] == 0 {
			delete(f.busy, asker)
		}
	}()
	found, _, _ := f.flight.Do(q.String(), func() (any, error) {
		f.mu.Lock()
		k, ok := f.known[q]
		f.mu.Unlock()
		if ok && now.Before(k.until) { // somebody else has asked since we looked
			return k.msg, nil
		}
		msg := f.askAll(q)
		f.keep(q, msg)
		return msg, nil
	})
	msg, _ := found.(*dns.Msg)
	if msg == nil {
		return nil
	}
	return kept{msg: msg, since: now}.aged(now, req.Question[0].Name)
}

// askAll asks one upstream after the other, until one knows.
func (f *forwarder) askAll(q dns.Question) *dns.Msg {
	for _, addr := range f.cfg.Upstreams() {
		if at, err := netip.ParseAddrPort(addr); err == nil && at.Addr() == f.cfg.Addr.Addr() {
			continue // that is this one
		}
		msg := f.askOne(q, "udp", addr)
		if msg != nil && msg.Truncated {
			msg = f.askOne(q, "tcp", addr)
		}
		if msg != nil && msg.Rcode != dns.RcodeServerFailure && msg.Rcode != dns.RcodeRefused {
			return msg
		}
	}
	return nil
}

func (f *forwarder) askOne(q dns.Question, network, addr string) *dns.Msg {
	req := new(dns.Msg)
	req.SetQuestion(q.Name, q.Qtype)
	req.SetEdns0(maxUDP, false)
	ctx, cancel := context.WithTimeout(context.Background(), askPatience) // whoever asked first may be gone: others wait, too
	defer cancel()
	raw, err := f.cfg.Dial(ctx, network, addr)
	if err != nil {
		return nil
	}
	defer raw.Close()
	deadline, _ := ctx.Deadline()
	_ = raw.SetDeadline(deadline)
	conn := &dns.Conn{Conn: raw, UDPSize: 4096}
	if err := conn.WriteMsg(req); err != nil {
		return nil
	}
	for {
		msg, err := conn.ReadMsg()
		if err != nil {
			return nil
		}
		if msg.Id == req.Id && msg.Response && len(msg.Question) == 1 && strings.EqualFold(msg.Question[0].Name, q.Name) && msg.Question[0].Qtype == q.Qtype {
			return msg
		}
		if network == "tcp" {
			return nil
		} // by UDP anybody may have sent it: the real one may still come
	}
}

// keep remembers an answer for as long as all of it says.
func (f *forwarder) keep(q dns.Question, msg *dns.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	for old := range f.known {
		if len(f.known) < maxCached {
			break
		}
		delete(f.known, old) // some other, by chance
	}
	f.known[q] = kept{msg: msg, since: now, until: now.Add(lifetime(msg))}
}

func lifetime(msg *dns.Msg) time.Duration {
	if msg == nil {
		return failedKept
	}
	least := maxKept
	for _, rr := range append(append([]dns.RR{}, msg.Answer...), msg.Ns...) {
		ttl := time.Duration(rr.Header().Ttl) * time.Second
		if soa, ok := rr.(*dns.SOA); ok {
			ttl = min(ttl, time.Duration(soa.Minttl)*time.Second)
		}
		least = min(least, ttl)
	}
	if len(msg.Answer)+len(msg.Ns) == 0 {
		return failedKept
	}
	return least
}

// aged is the answer as it is some time later, to a question spelled so.
func (k kept) aged(now time.Time, name string) *dns.Msg {
	if k.msg == nil {
		return nil
	}
	out := k.msg.Copy()
	gone := uint32(max(0, now.Sub(k.since)/time.Second)) //nolint:gosec // half a minute at most
	for _, list := range [][]dns.RR{out.Answer, out.Ns, out.Extra} {
		for _, rr := range list {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue
			}
			h.Ttl -= min(h.Ttl, gone)
			if strings.EqualFold(h.Name, name) {
				h.Name = name
			}
		}
	}
	return out
}
