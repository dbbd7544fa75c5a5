package lab

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ruleTable is in the switch's namespace, where frames pass from node to node: a
// frame that is dropped there was sent without an error, and nobody hears of it.
const ruleTable = "skein_lab"

// setRules makes the switch drop what the state says, in one transaction.
func (l *Lab) setRules() error {
	ns, err := netns.GetFromPath(netnsPath(l.switchName()))
	if err != nil {
		return fmt.Errorf("open the switch: %w", err)
	}
	defer func() { _ = ns.Close() }()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return fmt.Errorf("open nftables of the switch: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: ruleTable}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if rules := l.rules(); len(rules) > 0 {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{
			Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		for _, exprs := range rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set the rules of the switch: %w", err)
	}
	return nil
}

func (l *Lab) rules() [][]expr.Any {
	var out [][]expr.Any
	for i, group := range l.Cuts {
		for j, other := range l.Cuts {
			if i == j {
				continue
			}
			for _, from := range group {
				for _, to := range other {
					out = append(out, join(is(expr.MetaKeyIIFNAME, from), is(expr.MetaKeyOIFNAME, to), drop()))
				}
			}
		}
	}
	for _, n := range l.Nodes {
		if n.Loss > 0 {
			out = append(out,
				join(is(expr.MetaKeyIIFNAME, n.Name), sometimes(n.Loss), drop()),
				join(is(expr.MetaKeyOIFNAME, n.Name), sometimes(n.Loss), drop()))
		}
	}
	return out
}

func join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// is matches frames that come from or go to the port of a node.
func is(key expr.MetaKey, port string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, port)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}
}

// sometimes matches a share of all frames, to a hundredth of a percent.
func sometimes(share float64) []expr.Any {
	const of = 10000
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: of, Type: unix.NFT_NG_RANDOM},
		// Numbers are compared as bytes, the first one first.
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(share * of))},
	}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
