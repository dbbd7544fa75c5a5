// Package dns owns names: it answers for those of the cluster from what it was
// told, and forwards the others. What names there are is for others to say.
package dns

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// An Entry is what is known of one owner of names.
type Entry struct {
	Name  string       // below the domain: "web.default.svc"
	Addrs []netip.Addr // of Name
	Ports []Port       // of Name
	Hosts []Host       // below Name
	Alias string       // in place of all else: another name, of anywhere
}

// A Host is one of several below a Name.
type Host struct {
	Name  string // "" : it goes by its address, "10-64-1-5"
	Addr  netip.Addr
	Ports []Port
}

// A Port is found by its name and protocol.
type Port struct {
	Name     string // "" : by none
	Protocol string // "tcp" or "udp"
	Number   uint16
}

// records are those of one name.
type records struct {
	addrs    []netip.Addr
	services []service
	alias    string
}

// A service is a place where a port is.
type service struct {
	target string
	port   uint16
	addr   netip.Addr
}

// A zone is what names there are. Names are lower-case, and end with a dot.
type zone struct {
	domain string // "cluster.local."

	mu      sync.RWMutex
	entries map[string]Entry
	names   map[string]*records
	above   map[string]int // how many names are below one, which is there because of them
	reverse map[netip.Addr]string
}

func newZone(domain string) *zone {
	z := &zone{domain: dns.CanonicalName(domain)}
	z.clear()
	return z
}

func (z *zone) clear() {
	z.entries, z.names, z.above, z.reverse = map[string]Entry{}, map[string]*records{}, map[string]int{}, map[netip.Addr]string{}
	z.above[z.domain]++
}

func (z *zone) set(all map[string]Entry) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.clear()
	for key, e := range all {
		z.put(key, e)
	}
}

func (z *zone) apply(put map[string]Entry, gone []string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, key := range gone {
		z.remove(key)
	}
	for key := range put {
		z.remove(key)
	}
	for key, e := range put {
		z.put(key, e)
	}
}

// expand works out the records of an entry.
func (z *zone) expand(e Entry) (names map[string]*records, reverse map[netip.Addr]string) {
	own := dns.CanonicalName(e.Name + "." + z.domain)
	names, reverse = map[string]*records{}, map[netip.Addr]string{}
	at := func(name string) *records {
		if names[name] == nil {
			names[name] = &records{}
		}
		return names[name]
	}
	if e.Alias != "" {
		at(own).alias = dns.CanonicalName(e.Alias)
		return names, reverse
	}
	at(own).addrs = e.Addrs
	place := func(p Port, target string, addr netip.Addr) {
		s := service{target, p.Number, addr}
		at(own).services = append(at(own).services, s)
		if p.Name != "" {
			name := "_" + strings.ToLower(p.Name) + "._" + p.Protocol + "." + own
			at(name).services = append(at(name).services, s)
		}
	}
	for _, p := range e.Ports {
		for _, addr := range e.Addrs {
			place(p, own, addr)
		}
	}
	if len(e.Hosts) == 0 {
		for _, addr := range e.Addrs {
			reverse[addr] = own
		}
	}
	for _, h := range e.Hosts {
		label := strings.ToLower(h.Name)
		if label == "" {
			label = strings.ReplaceAll(h.Addr.String(), ".", "-")
		}
		host := label + "." + own
		at(host).addrs = append(at(host).addrs, h.Addr)
		reverse[h.Addr] = host
		for _, p := range h.Ports {
			place(p, host, h.Addr)
		}
	}
	return names, reverse
}

// put and remove are called with mu held.
func (z *zone) put(key string, e Entry) {
	z.entries[key] = e
	names, reverse := z.expand(e)
	for name, r := range names {
		if z.names[name] == nil {
			z.climb(name, 1)
		}
		z.names[name] = r
	}
	maps.Copy(z.reverse, reverse)
}

func (z *zone) remove(key string) {
	old, ok := z.entries[key]
	if !ok {
		return
	}
	delete(z.entries, key)
	names, reverse := z.expand(old)
	for name := range names {
		if z.names[name] != nil {
			delete(z.names, name)
			z.climb(name, -1)
		}
	}
	for addr, name := range reverse {
		if z.reverse[addr] == name {
			delete(z.reverse, addr)
		}
	}
}

// climb counts a name for all that it is below.
func (z *zone) climb(name string, by int) {
	for {
		_, parent, ok := strings.Cut(name, ".")
		if !ok || parent == "" || parent == z.domain {
			return
		}
		if z.above[parent] += by; z.above[parent] == 0 {
			delete(z.above, parent)
		}
		name = parent
	}
}

// within tells whether a name is the zone's to answer.
func (z *zone) within(name string) bool {
	return name == z.domain || strings.HasSuffix(name, "."+z.domain)
}

// An answer is what is known of a question.
type answer struct {
	rcode  int
	rrs    []dns.RR
	extra  []dns.RR
	follow string // an alias that leads out of the zone
}

// lookup answers for a name within. ttl is in seconds, pods tells which addresses
// Pods may have.
func (z *zone) lookup(q dns.Question, ttl uint32, pods netip.Prefix) answer {
	name := strings.ToLower(q.Name)
	z.mu.RLock()
	defer z.mu.RUnlock()
	r, there := z.names[name]
	if !there {
		switch {
		case z.above[name] > 0:
			return answer{}
		case name == "dns-version."+z.domain:
			if q.Qtype == dns.TypeTXT {
				return answer{rrs: []dns.RR{&dns.TXT{Hdr: head(q.Name, dns.TypeTXT, ttl), Txt: []string{"1.1.0"}}}}
			}
			return answer{}
		}
		return z.podAddress(name, q, ttl, pods)
	}
	if r.alias != "" {
		out := answer{rrs: []dns.RR{&dns.CNAME{Hdr: head(q.Name, dns.TypeCNAME, ttl), Target: r.alias}}}
		if q.Qtype != dns.TypeCNAME {
			out.follow = r.alias
		}
		return out
	}
	var out answer
	switch q.Qtype {
	case dns.TypeA:
		for _, a := range r.addrs {
			if a.Is4() {
				out.rrs = append(out.rrs, &dns.A{Hdr: head(q.Name, dns.TypeA, ttl), A: a.AsSlice()})
			}
		}
	case dns.TypeAAAA:
		for _, a := range r.addrs {
			if a.Is6() {
				out.rrs = append(out.rrs, &dns.AAAA{Hdr: head(q.Name, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
			}
		}
	case dns.TypeSRV:
		told := map[string]bool{}
		for _, s := range r.services {
			out.rrs = append(out.rrs, &dns.SRV{Hdr: head(q.Name, dns.TypeSRV, ttl), Weight: 100, Port: s.port, Target: s.target})
			if s.addr.Is4() && !told[s.target] {
				told[s.target] = true
				out.extra = append(out.extra, &dns.A{Hdr: head(s.target, dns.TypeA, ttl), A: s.addr.AsSlice()})
			}
		}
	case dns.TypeANY: // RFC 8482: one is enough
		out.rrs = []dns.RR{&dns.HINFO{Hdr: head(q.Name, dns.TypeHINFO, ttl), Cpu: "RFC8482"}}
	}
	rand.Shuffle(len(out.rrs), func(i, j int) { out.rrs[i], out.rrs[j] = out.rrs[j], out.rrs[i] })
	return out
}

// podAddress answers for 10-64-1-5.default.pod: the address is in the name.
func (z *zone) podAddress(name string, q dns.Question, ttl uint32, pods netip.Prefix) answer {
	base := "pod." + z.domain
	if name == base || strings.HasSuffix(name, "."+base) && strings.Count(strings.TrimSuffix(name, "."+base), ".") == 0 {
		return answer{}
	}
	label, rest, _ := strings.Cut(name, ".")
	_, rest, ok := strings.Cut(rest, ".")
	if !ok || rest != base || strings.Count(label, "-") != 3 {
		return answer{rcode: dns.RcodeNameError}
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", "."))
	if err != nil || !pods.Contains(addr) {
		return answer{rcode: dns.RcodeNameError}
	}
	if q.Qtype != dns.TypeA {
		return answer{}
	}
	return answer{rrs: []dns.RR{&dns.A{Hdr: head(q.Name, dns.TypeA, ttl), A: addr.AsSlice()}}}
}

// pointer answers for the name of an address, "5.1.64.10.in-addr.arpa.".
func (z *zone) pointer(addr netip.Addr) (string, bool) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	name, ok := z.reverse[addr]
	return name, ok
}

func head(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// reversed reads the address out of a name of the reverse zone.
func reversed(name string) (netip.Addr, bool) {
	name, ok := strings.CutSuffix(strings.ToLower(name), ".in-addr.arpa.")
	parts := strings.Split(name, ".")
	if !ok || len(parts) != 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, p := range slices.Backward(parts) {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}
