package object

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Where the cluster's addresses are from. They are of the cluster alone, and no
// machine of it may have one itself.
var (
	PodRange     = netip.MustParsePrefix("10.64.0.0/12")
	ServiceRange = netip.MustParsePrefix("10.96.0.0/16")
)

// BlockBits is how long the prefix of a block of a node's Pods is: 254 addresses.
const BlockBits = 24

// PodBlocks are the blocks that a node has its Pods' addresses from.
func PodBlocks(n *corev1.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range n.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// SetPodBlocks says that it has these.
func SetPodBlocks(n *corev1.Node, blocks []netip.Prefix) {
	n.Spec.PodCIDR, n.Spec.PodCIDRs = "", nil
	for _, b := range blocks {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, b.String())
	}
	if len(blocks) > 0 {
		n.Spec.PodCIDR = blocks[0].String()
	}
}
