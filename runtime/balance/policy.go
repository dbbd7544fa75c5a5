package balance

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// plain brings the sets up to date that are worked out whole each time: they have
// only what concerns this machine.
func (t *Table) plain(b *batch, cfg Config, change Change) {
	want := map[*nftables.Set]map[string][]byte{}
	l := t.layout
	begin := func(sets ...*nftables.Set) {
		for _, s := range sets {
			want[s] = map[string][]byte{}
		}
	}
	if change.Nodes != nil {
		begin(l.nodes)
		for _, n := range cfg.Nodes {
			want[l.nodes][string(addrKey(n))] = nil
		}
	}
	if change.Here != nil {
		begin(l.here, l.ours, l.hairpin)
		for _, p := range cfg.Here {
			want[l.here][string(join(linkKey(p.Link), addrKey(p.Addr)))] = nil
			want[l.ours][string(addrKey(p.Addr))] = nil
			want[l.hairpin][string(join(addrKey(p.Addr), addrKey(p.Addr)))] = nil
		}
	}
	if change.Policy != nil {
		begin(l.shutIn, l.shutOut, l.classIn, l.classOut, l.peers, l.peerPorts, l.nets, l.netPorts)
		t.classes(want, cfg.Policy)
	}
	for s, elems := range want {
		have := t.elems[s]
		for key, val := range have {
			if now, still := elems[key]; !still || string(now) != string(val) {
				b.del[s] = append(b.del[s], element(s, key, val))
			}
		}
		for key, val := range elems {
			if old, was := have[key]; !was || string(old) != string(val) {
				b.add[s] = append(b.add[s], element(s, key, val))
			}
		}
		t.elems[s] = elems
	}
}

// element is one of a map, by its value, or of a set of ranges, by its end.
func element(s *nftables.Set, key string, val []byte) nftables.SetElement {
	e := nftables.SetElement{Key: []byte(key)}
	if s.Interval {
		e.KeyEnd = val
	} else {
		e.Val = val
	}
	return e
}

// classes numbers what is let through, and lists it.
func (t *Table) classes(want map[*nftables.Set]map[string][]byte, p Policy) {
	l := t.layout
	used := map[string]bool{}
	for _, way := range []struct {
		pods  map[netip.Addr]Class
		shut  *nftables.Set
		class *nftables.Set
		kind  string
	}{{p.Ingress, l.shutIn, l.classIn, "in "}, {p.Egress, l.shutOut, l.classOut, "out "}} {
		for addr, c := range way.pods {
			name := way.kind + c.Name
			id, known := t.class[name]
			if !known {
				id = t.freeClass()
				t.class[name] = id
			}
			want[way.shut][string(addrKey(addr))] = nil
			want[way.class][string(addrKey(addr))] = number(id)
			if !used[name] {
				used[name] = true
				t.let(want, id, c.Rules)
			}
		}
	}
	maps.DeleteFunc(t.class, func(name string, _ uint32) bool { return !used[name] })
}

func (t *Table) freeClass() uint32 {
	taken := slices.Collect(maps.Values(t.class))
	for id := uint32(1); ; id++ {
		if !slices.Contains(taken, id) {
			return id
		}
	}
}

// let lists what the rules of a class let through.
func (t *Table) let(want map[*nftables.Set]map[string][]byte, id uint32, rules []Rule) {
	l := t.layout
	whole := map[netip.Prefix]bool{}
	some := map[Protocol]map[netip.Prefix][]PortRange{TCP: {}, UDP: {}}
	for _, r := range rules {
		for _, peer := range r.Peers {
			if len(r.Ports) == 0 {
				want[l.peers][string(join(number(id), addrKey(peer)))] = nil
			}
			for _, p := range r.Ports {
				if p.First == p.Last {
					want[l.peerPorts][string(join(number(id), addrKey(peer), protoKey(p.Protocol), portKey(p.First)))] = nil
				} else {
					one := netip.PrefixFrom(peer, 32)
					some[p.Protocol][one] = append(some[p.Protocol][one], p)
				}
			}
		}
		for _, net := range r.Nets {
			net = net.Masked()
			if len(r.Ports) == 0 {
				whole[net] = true
			}
			for _, p := range r.Ports {
				some[p.Protocol][net] = append(some[p.Protocol][net], p)
			}
		}
	}
	big := binary.BigEndian.AppendUint32(nil, id)
	for net := range whole {
		if !slices.ContainsFunc(around(net), func(p netip.Prefix) bool { return whole[p] }) {
			first, last := bounds(net)
			want[l.nets][string(join(big, first))] = join(big, last)
		}
	}
	for protocol, nets := range some {
		for net, own := range nets {
			var above []PortRange
			for _, p := range around(net) {
				above = append(above, nets[p]...)
			}
			first, last := bounds(net)
			for _, p := range beyond(own, above) {
				want[l.netPorts][string(join(big, first, protoKey(protocol), portKey(p.First)))] = join(big, last, protoKey(protocol), portKey(p.Last))
			}
		}
	}
}

// around are the prefixes that a prefix is part of. The kernel takes no two ranges
// that overlap: what a wider one lets through is not listed again for this one.
func around(p netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for bits := range p.Bits() {
		out = append(out, netip.PrefixFrom(p.Addr(), bits).Masked())
	}
	return out
}

// beyond merges ranges of one protocol, without what others have.
func beyond(own, others []PortRange) []PortRange {
	var in [1 << 16]int8
	for _, p := range own {
		for n := int(p.First); n <= int(p.Last); n++ {
			in[n] = 1
		}
	}
	for _, p := range others {
		for n := int(p.First); n <= int(p.Last); n++ {
			in[n] = 0
		}
	}
	var out []PortRange
	for n := 0; n < len(in); n++ {
		if in[n] == 0 {
			continue
		}
		first := n
		for n+1 < len(in) && in[n+1] == 1 {
			n++
		}
		out = append(out, PortRange{own[0].Protocol, uint16(first), uint16(n)}) //nolint:gosec // 16 bits
	}
	return out
}

// bounds are the first and the last address of a prefix.
func bounds(p netip.Prefix) (first, last []byte) {
	a := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(a[:])
	return a[:], binary.BigEndian.AppendUint32(nil, n|uint32(1<<(32-p.Bits())-1)) //nolint:gosec // of a prefix of IPv4
}
