package balance

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Name is that of the table, of family ip.
const Name = "skein"

// Connections to a frontend bear a mark of conntrack that says which: the upper
// byte whether the client's address is kept, the lower ones the frontend's number.
const (
	markKept   = 0x5a000000
	markMasked = 0x5b000000
	markKind   = 0xff000000
)

// What a frontend has in place of a number of slots.
const (
	countRefuse = 0x10000 + iota
	countSilent
	countSticky
)

// maxTracked is how many connections of one Pod are tracked at the same time. The
// kernel's table holds some 260,000 for all.
const maxTracked = 16384

// Registers: the first, and those of four bytes from its second quarter on.
const (
	reg0 = 1
	reg1 = 9
	reg2 = 10
	reg3 = 11
	regB = 2 // another one of sixteen bytes
)

// A layout is the table, its sets and its chains as the library knows them.
type layout struct {
	table *nftables.Table

	svc, nodeport, counts, dispatch, eps  *nftables.Set
	hairpin, nodes, here, ours, conns     *nftables.Set
	shutIn, shutOut, classIn, classOut    *nftables.Set
	peers, peerPorts, nets, netPorts      *nftables.Set
	refuse, silence, sticky, pick, choose *nftables.Chain
	pre, out, post, guard, input, forward *nftables.Chain
	enter, leave                          *nftables.Chain
	chains                                map[uint32]*nftables.Chain // by number of slots
	count                                 map[*nftables.Chain]int    // of rules
}

// firstChains is how many numbers of slots have their chain from the beginning.
const firstChains = 64

func concat(types ...nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(types...)
}

func newLayout() *layout {
	t := &nftables.Table{Name: Name, Family: nftables.TableFamilyIPv4}
	l := &layout{table: t, chains: map[uint32]*nftables.Chain{}, count: map[*nftables.Chain]int{}}
	addr, mark, proto, port, link := nftables.TypeIPAddr, nftables.TypeMark, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIFName
	set := func(name string, key nftables.SetDatatype, many bool) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key, Concatenation: many}
	}
	mapping := func(name string, key nftables.SetDatatype, many bool, data nftables.SetDatatype) *nftables.Set {
		s := set(name, key, many)
		s.IsMap, s.DataType = true, data
		return s
	}
	l.svc = mapping("svc", concat(addr, proto, port), true, mark)
	l.nodeport = mapping("nodeport", concat(proto, port), true, mark)
	l.counts = mapping("counts", mark, false, mark)
	l.dispatch = mapping("dispatch", mark, false, nftables.TypeVerdict)
	l.eps = mapping("eps", concat(mark, mark), true, concat(addr, port))
	l.hairpin = set("hairpin", concat(addr, addr), true)
	l.nodes = set("nodes", addr, false)
	l.here = set("here", concat(link, addr), true)
	l.ours = set("ours", addr, false)
	l.conns = set("conns", addr, false)
	l.conns.Dynamic, l.conns.Size = true, 65535
	l.shutIn, l.shutOut = set("shut_in", addr, false), set("shut_out", addr, false)
	l.classIn, l.classOut = mapping("class_in", addr, false, mark), mapping("class_out", addr, false, mark)
	l.peers = set("peers", concat(mark, addr), true)
	l.peerPorts = set("peer_ports", concat(mark, addr, proto, port), true)
	l.nets = set("nets", concat(mark, addr), true)
	l.netPorts = set("net_ports", concat(mark, addr, proto, port), true)
	l.nets.Interval, l.netPorts.Interval = true, true

	chain := func(name string) *nftables.Chain { return &nftables.Chain{Table: t, Name: name} }
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		c := chain(name)
		accept := nftables.ChainPolicyAccept
		c.Type, c.Hooknum, c.Priority, c.Policy = kind, hook, &priority, &accept
		return c
	}
	l.refuse, l.silence, l.sticky, l.pick, l.choose = chain("refuse"), chain("silence"), chain("sticky"), chain("pick"), chain("choose")
	l.enter, l.leave = chain("enter"), chain("leave")
	l.pre = base("pre", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100)
	l.out = base("out", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100)
	l.post = base("post", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	l.guard = base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300)
	l.input = base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, 0)
	l.forward = base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0)
	return l
}

func (l *layout) sets() []*nftables.Set {
	return []*nftables.Set{
		l.svc, l.nodeport, l.counts, l.dispatch, l.eps, l.hairpin, l.nodes, l.here, l.ours, l.conns,
		l.shutIn, l.shutOut, l.classIn, l.classOut, l.peers, l.peerPorts, l.nets, l.netPorts,
	}
}

// build adds the whole table to a batch, without elements but those of dispatch.
func (l *layout) build(c *nftables.Conn, cfg Config) error {
	c.AddTable(l.table)
	for _, s := range l.sets() {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, chain := range []*nftables.Chain{
		l.refuse, l.silence, l.sticky, l.pick, l.choose, l.enter, l.leave, l.pre, l.out, l.post, l.guard, l.input, l.forward,
	} {
		c.AddChain(chain)
	}
	l.rules(c, cfg)
	for count, chain := range l.special() {
		if err := c.SetAddElements(l.dispatch, []nftables.SetElement{{Key: number(count), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name}}}); err != nil {
			return err
		}
	}
	for n := range uint32(firstChains) {
		if err := l.chainFor(c, n+1); err != nil {
			return err
		}
	}
	return nil
}

// special are the chains of what is there in place of a number of slots.
func (l *layout) special() map[uint32]*nftables.Chain {
	return map[uint32]*nftables.Chain{countRefuse: l.refuse, countSilent: l.silence, countSticky: l.sticky}
}

// chainFor adds the chain for a number of slots, if it is not there yet.
func (l *layout) chainFor(c *nftables.Conn, n uint32) error {
	if l.chains[n] != nil {
		return nil
	}
	chain := c.AddChain(&nftables.Chain{Table: l.table, Name: "n" + itoa(n)})
	l.chains[n] = chain
	l.rule(c, chain, append(ported(), concatKey(&expr.Numgen{Register: reg1, Modulus: n, Type: unix.NFT_NG_RANDOM}, l.eps)...)...)
	return c.SetAddElements(l.dispatch, []nftables.SetElement{{Key: number(n), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name}}})
}

func (l *layout) rule(c *nftables.Conn, chain *nftables.Chain, exprs ...expr.Any) {
	l.count[chain]++
	c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: exprs})
}

// Expressions that rules are made of.

func saddr(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

func daddr(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

func dport(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func l4proto(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg} }

func loadMark(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyMARK, Register: reg} }

func setMark() expr.Any {
	return &expr.Meta{Key: expr.MetaKeyMARK, Register: reg0, SourceRegister: true}
}

func loadConn(reg uint32) expr.Any { return &expr.Ct{Key: expr.CtKeyMARK, Register: reg} }

func setConn() expr.Any { return &expr.Ct{Key: expr.CtKeyMARK, Register: reg0, SourceRegister: true} }

func equal(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: b} }

func differs(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: b} }

func mask(n int, with []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: uint32(n), Mask: with, Xor: make([]byte, n)} //nolint:gosec // small
}

func inSet(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID}
}

func notIn(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID, Invert: true}
}

func mapTo(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

func verdictOf(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, DestRegister: 0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

func drop() expr.Any   { return &expr.Verdict{Kind: expr.VerdictDrop} }
func accept() expr.Any { return &expr.Verdict{Kind: expr.VerdictAccept} }
func back() expr.Any   { return &expr.Verdict{Kind: expr.VerdictReturn} }

func to(kind expr.VerdictKind, c *nftables.Chain) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: c.Name}
}

// within compares an address in the first register with a prefix.
func within(p netip.Prefix, op expr.CmpOp) []expr.Any {
	b := p.Masked().Addr().As4()
	m := [4]byte{}
	for i := range p.Bits() {
		m[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{mask(4, m[:]), &expr.Cmp{Op: op, Register: reg0, Data: b[:]}}
}

// ported passes TCP and UDP alone: what is mapped to a port must have one.
func ported() []expr.Any {
	return []expr.Any{l4proto(reg0), &expr.Range{Op: expr.CmpOpEq, Register: reg0, FromData: []byte{byte(TCP)}, ToData: []byte{byte(UDP)}}}
}

// concatKey sends a connection to the endpoint in a slot.
func concatKey(slot expr.Any, eps *nftables.Set) []expr.Any {
	return []expr.Any{
		loadConn(reg0), slot, mapTo(eps),
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1, Specified: true},
	}
}

// number is a mark or a count as the kernel keeps it.
func number(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }
