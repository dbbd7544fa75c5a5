package balance

import (
	"net/netip"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// rules fills the chains. In no rule the result of one look-up is the key of
// another: nft cannot print those.
func (l *layout) rules(c *nftables.Conn, cfg Config) {
	l.choosing(c, cfg)
	l.leaving(c, cfg)
	l.guarding(c, cfg)
	l.policies(c, cfg)
}

// choosing is how a new connection finds its endpoint.
func (l *layout) choosing(c *nftables.Conn, cfg Config) {
	l.rule(c, l.refuse, l4proto(reg0), equal(byte(TCP)), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	l.rule(c, l.refuse, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3})
	l.rule(c, l.silence, drop())
	l.rule(c, l.sticky, append(ported(), append([]expr.Any{saddr(regB)}, concatKey(&expr.Hash{
		SourceRegister: regB, DestRegister: reg1, Length: 4, Modulus: stickySlots, Seed: 0x5eed, Type: expr.HashTypeJenkins,
	}, l.eps)...)...)...)
	l.rule(c, l.pick, loadConn(reg0), mapTo(l.counts), setMark())
	l.rule(c, l.pick, loadMark(reg0), verdictOf(l.dispatch))
	l.rule(c, l.choose, daddr(reg0), l4proto(reg1), dport(reg2), mapTo(l.svc), setConn(), to(expr.VerdictGoto, l.pick))
	l.rule(c, l.choose, append(append([]expr.Any{daddr(reg0)}, within(cfg.Services, expr.CmpOpEq)...), to(expr.VerdictGoto, l.refuse))...)
	l.rule(c, l.choose,
		&expr.Fib{Register: reg0, ResultADDRTYPE: true, FlagDADDR: true}, equal(number(unix.RTN_LOCAL)...),
		&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1}, differs(127),
		l4proto(reg0), dport(reg1), mapTo(l.nodeport), setConn(), to(expr.VerdictGoto, l.pick))
	l.rule(c, l.pre, to(expr.VerdictJump, l.choose))
	l.rule(c, l.out, to(expr.VerdictJump, l.choose))
}

// leaving is with whose address a packet goes on.
func (l *layout) leaving(c *nftables.Conn, cfg Config) {
	l.rule(c, l.post, saddr(reg0), daddr(reg1), inSet(l.hairpin), &expr.Masq{})
	l.rule(c, l.post,
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg0}, mask(4, number(1<<5)), differs(number(0)...), // translated to an endpoint
		loadConn(reg0), mask(4, number(markKind)), equal(number(markMasked)...), &expr.Masq{})
	out := append([]expr.Any{saddr(reg0)}, within(cfg.Pods, expr.CmpOpEq)...)
	out = append(append(out, daddr(reg0)), within(cfg.Pods, expr.CmpOpNeq)...)
	l.rule(c, l.post, append(out, daddr(reg0), notIn(l.nodes), &expr.Masq{})...)
}

// podLinks begins the names of links to Pods.
const podLinks = "sk-p"

// guarding keeps out what nobody may send.
func (l *layout) guarding(c *nftables.Conn, cfg Config) {
	link := func(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg} }
	l.rule(c, l.guard, link(reg0), equal([]byte(podLinks)...), link(reg0), saddr(regB), notIn(l.here), drop())
	if cfg.Tunnel > 0 {
		l.rule(c, l.input, l4proto(reg0), equal(byte(UDP)), dport(reg0), equal(binaryutil.BigEndian.PutUint16(cfg.Tunnel)...), saddr(reg0), notIn(l.nodes), drop())
	}
	l.rule(c, l.forward,
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0}, mask(4, number(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)), differs(number(0)...), accept())
	l.rule(c, l.forward,
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0}, mask(4, number(expr.CtStateBitNEW)), differs(number(0)...),
		saddr(reg0), inSet(l.ours), saddr(reg0),
		&expr.Dynset{SrcRegKey: reg0, SetName: l.conns.Name, SetID: l.conns.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD), Exprs: []expr.Any{&expr.Connlimit{Count: maxTracked, Flags: expr.NFT_CONNLIMIT_F_INV}}},
		drop())
}

// policies asks of each packet of a Pod that has one whether it is let through.
func (l *layout) policies(c *nftables.Conn, cfg Config) {
	l.rule(c, l.input, &expr.Ct{Key: expr.CtKeySTATE, Register: reg0}, mask(4, number(expr.CtStateBitNEW)), differs(number(0)...), saddr(reg0), inSet(l.shutOut), to(expr.VerdictJump, l.leave))
	l.rule(c, l.forward, saddr(reg0), inSet(l.shutOut), to(expr.VerdictJump, l.leave))
	l.rule(c, l.forward, daddr(reg0), inSet(l.shutIn), to(expr.VerdictJump, l.enter))
	if cfg.Resolver.IsValid() {
		b := cfg.Resolver.As4()
		l.rule(c, l.leave, daddr(reg0), equal(b[:]...), back())
	}
	for _, way := range []struct {
		chain *nftables.Chain
		class *nftables.Set
		own   func(uint32) expr.Any
		peer  func(uint32) expr.Any
	}{{l.enter, l.classIn, daddr, saddr}, {l.leave, l.classOut, saddr, daddr}} {
		l.rule(c, way.chain, way.own(reg0), mapTo(way.class), setMark())
		l.rule(c, way.chain, loadMark(reg0), way.peer(reg1), inSet(l.peers), back())
		l.rule(c, way.chain, append([]expr.Any{loadMark(reg0), way.peer(reg1)}, l4proto(reg2), dport(reg3), inSet(l.peerPorts), back())...)
		// Sets of ranges have their numbers with the highest byte first.
		big := &expr.Byteorder{SourceRegister: reg0, DestRegister: reg0, Op: expr.ByteorderHton, Len: 4, Size: 4}
		l.rule(c, way.chain, loadMark(reg0), big, way.peer(reg1), inSet(l.nets), back())
		l.rule(c, way.chain, loadMark(reg0), big, way.peer(reg1), l4proto(reg2), dport(reg3), inSet(l.netPorts), back())
		l.rule(c, way.chain, drop())
	}
}

// Keys of elements. Each part fills up four bytes.

func addrKey(a netip.Addr) []byte { b := a.As4(); return b[:] }

func portKey(p uint16) []byte { return []byte{byte(p >> 8), byte(p), 0, 0} }

func protoKey(p Protocol) []byte { return []byte{byte(p), 0, 0, 0} }

func linkKey(name string) []byte { b := make([]byte, 16); copy(b, name); return b }

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
