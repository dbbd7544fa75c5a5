package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

const (
	defaultPort          = 4789
	defaultWireGuardPort = 51820
)

// complete checks what no network could be made without and fills in defaults. The
// original stays as it is.
func (c *Config) complete() (*Config, error) {
	out := *c
	if out.Mode == "" {
		out.Mode = Auto
	}
	if out.Port == 0 {
		out.Port = defaultPort
	}
	if out.WireGuardPort == 0 {
		out.WireGuardPort = defaultWireGuardPort
	}
	out.Network &= 1<<24 - 1
	switch {
	case out.Mode != Auto && out.Mode != Tunnel && out.Mode != Direct:
		return nil, fmt.Errorf("no such mode %q", out.Mode)
	case !out.Self.Addr.Is4():
		return nil, fmt.Errorf("this machine has no IPv4 address: %s", out.Self.Addr)
	case !out.Pods.IsValid() || !out.Pods.Addr().Is4():
		return nil, fmt.Errorf("no IPv4 range for Pods: %s", out.Pods)
	case out.Services.IsValid() && !out.Services.Addr().Is4():
		return nil, fmt.Errorf("no IPv4 range for Services: %s", out.Services)
	case out.Resolver.IsValid() && !out.Resolver.Is4():
		return nil, fmt.Errorf("no IPv4 address for the resolver: %s", out.Resolver)
	case out.Encrypt && out.PrivateKey == [32]byte{}:
		return nil, errors.New("encrypt without a private key")
	}
	out.Pods, out.Services = out.Pods.Masked(), out.Services.Masked()
	for _, b := range out.Self.Blocks {
		if !within(b, out.Pods) {
			return nil, fmt.Errorf("block %s of this machine is not within %s", b, out.Pods)
		}
	}
	return &out, nil
}

// within tells whether inner is a part of outer.
func within(inner, outer netip.Prefix) bool {
	return inner.IsValid() && outer.IsValid() && inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// A claim is one block of one machine. Claims stand in the order they are heard.
type claim struct {
	owner string
	peer  int // index in Peers, -1 for ourselves
	block netip.Prefix
}

// settle gives each peer the blocks it may have: those within the Pods' range that
// nobody named before it has a part of. It answers by the peers' order, and says
// why for those it left out.
func settle(c *Config) (blocks [][]netip.Prefix, errs []error) {
	blocks = make([][]netip.Prefix, len(c.Peers))
	claims := make([]claim, 0, len(c.Self.Blocks)+len(c.Peers))
	for _, b := range c.Self.Blocks {
		claims = append(claims, claim{c.Self.Name, -1, b.Masked()})
	}
	for i, p := range c.Peers {
		for _, b := range p.Blocks {
			if !within(b, c.Pods) {
				errs = append(errs, fmt.Errorf("block %s of %s is not within %s", b, p.Name, c.Pods))
				continue
			}
			claims = append(claims, claim{p.Name, i, b.Masked()})
		}
	}
	kept := claims
	if overlap(claims) {
		kept = nil
		for _, b := range claims {
			i := slices.IndexFunc(kept, func(k claim) bool { return k.block.Overlaps(b.block) })
			switch {
			case i < 0:
				kept = append(kept, b)
			case kept[i].peer != b.peer || kept[i].block != b.block: // said twice of one is no harm
				errs = append(errs, fmt.Errorf("block %s of %s belongs to %s, which has %s", b.block, b.owner, kept[i].owner, kept[i].block))
			}
		}
	}
	for _, k := range kept {
		if k.peer >= 0 {
			blocks[k.peer] = append(blocks[k.peer], k.block)
		}
	}
	return blocks, errs
}

// overlap tells whether any two claims share an address: in order, two that do
// stand side by side. It is the quick look; finding out who is slow, and rare.
func overlap(claims []claim) bool {
	order := make([]netip.Prefix, len(claims))
	for i, c := range claims {
		order[i] = c.block
	}
	slices.SortFunc(order, func(a, b netip.Prefix) int {
		if d := a.Addr().Compare(b.Addr()); d != 0 {
			return d
		}
		return a.Bits() - b.Bits()
	})
	for i := 1; i < len(order); i++ {
		if order[i-1].Overlaps(order[i]) {
			return true
		}
	}
	return false
}
