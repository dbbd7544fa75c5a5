package object

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	fieldpath "k8s.io/apimachinery/pkg/util/validation/field"
)

var networkPolicyRules = append(
	append([]rule{takes("spec.policyTypes")}, labelSelectorRules("spec.podSelector")...),
	append(policySideRules("spec.ingress", "from"), policySideRules("spec.egress", "to")...)...,
)

func labelSelectorRules(path string) []rule {
	return within(path, []rule{takes("matchLabels", "matchExpressions.key", "matchExpressions.operator", "matchExpressions.values")})
}

func policySideRules(path, peers string) []rule {
	out := within(path, []rule{takes("ports.protocol", "ports.port", "ports.endPort", peers+".ipBlock.cidr", peers+".ipBlock.except")})
	out = append(out, labelSelectorRules(path+"."+peers+".podSelector")...)
	return append(out, labelSelectorRules(path+"."+peers+".namespaceSelector")...)
}

func defaultNetworkPolicy(n *networkingv1.NetworkPolicy) {
	if len(n.Spec.PolicyTypes) == 0 {
		n.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(n.Spec.Egress) > 0 {
			n.Spec.PolicyTypes = append(n.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			defaultTo(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range n.Spec.Ingress {
		ports(n.Spec.Ingress[i].Ports)
	}
	for i := range n.Spec.Egress {
		ports(n.Spec.Egress[i].Ports)
	}
}

func (p *problems) networkPolicy(n *networkingv1.NetworkPolicy) {
	p.labelSelector(&n.Spec.PodSelector, "spec.podSelector")
	for i, t := range n.Spec.PolicyTypes {
		p.oneOf(indexed("spec.policyTypes", i), string(t), "Ingress", "Egress")
		if slices.Contains(n.Spec.PolicyTypes[:i], t) {
			p.add(indexed("spec.policyTypes", i), "%q is there twice", clip(string(t)))
		}
	}
	if len(n.Spec.Ingress) > 0 && !slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
		p.add("spec.ingress", "without Ingress among policyTypes it says nothing")
	}
	if len(n.Spec.Egress) > 0 && !slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
		p.add("spec.egress", "without Egress among policyTypes it says nothing")
	}
	for i, r := range n.Spec.Ingress {
		p.policySide(r.Ports, r.From, indexed("spec.ingress", i), "from")
	}
	for i, r := range n.Spec.Egress {
		p.policySide(r.Ports, r.To, indexed("spec.egress", i), "to")
	}
}

func (p *problems) policySide(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, path, side string) {
	for i, port := range ports {
		at := indexed(path+".ports", i)
		p.oneOf(at+".protocol", string(*port.Protocol), "TCP", "UDP")
		switch {
		case port.Port == nil:
			if port.EndPort != nil {
				p.add(at+".endPort", "needs a port to begin with")
			}
		case port.Port.Type == intstr.String:
			p.each(at+".port", port.Port.StrVal, validation.IsValidPortName(port.Port.StrVal))
			if port.EndPort != nil {
				p.add(at+".endPort", "needs a port by number")
			}
		default:
			p.between(at+".port", int64(port.Port.IntVal), 1, 65535)
			if port.EndPort != nil {
				p.between(at+".endPort", int64(*port.EndPort), int64(port.Port.IntVal), 65535)
			}
		}
	}
	for i, peer := range peers {
		at := indexed(path+"."+side, i)
		switch {
		case peer.IPBlock != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil):
			p.add(at, "ipBlock stands alone")
		case peer.IPBlock != nil:
			p.ipBlock(peer.IPBlock, at+".ipBlock")
		case peer.PodSelector == nil && peer.NamespaceSelector == nil:
			p.add(at, "names nobody: want podSelector, namespaceSelector or ipBlock")
		}
		p.labelSelector(peer.PodSelector, at+".podSelector")
		p.labelSelector(peer.NamespaceSelector, at+".namespaceSelector")
	}
}

func (p *problems) ipBlock(b *networkingv1.IPBlock, path string) {
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil || !whole.Addr().Is4() {
		p.add(path+".cidr", "%q: want an IPv4 prefix, as 10.0.0.0/8", clip(b.CIDR))
		return
	}
	for i, text := range b.Except {
		part, err := netip.ParsePrefix(text)
		if err != nil || part.Bits() <= whole.Bits() || !whole.Contains(part.Addr()) {
			p.add(indexed(path+".except", i), "%q: want a prefix within %s", clip(text), b.CIDR)
		}
	}
}

func (p *problems) labelSelector(s *metav1.LabelSelector, path string) {
	if s == nil {
		return
	}
	for _, e := range metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, fieldpath.NewPath(path)) {
		why, _, _ := strings.Cut(e.ErrorBody(), " (e.g. ")
		p.add(e.Field, "%s", why)
	}
}

// A Selection is what the leader has worked out of a NetworkPolicy, for nodes that
// know no Pods but their own: whom its rules let through now. It has the name of its
// NetworkPolicy, which controls it.
type Selection struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              SelectionSpec `json:"spec"`
}

// A SelectionSpec is that of one NetworkPolicy.
type SelectionSpec struct {
	PodSelector metav1.LabelSelector `json:"podSelector"`
	Ingress     *[]SelectionRule     `json:"ingress,omitempty"` // nil: it says nothing of what comes in
	Egress      *[]SelectionRule     `json:"egress,omitempty"`  // nil: nor of what goes out
}

// A SelectionRule lets through what comes from, or goes to, its peers at its ports.
type SelectionRule struct {
	All    bool            `json:"all,omitempty"`    // everybody is a peer
	Peers  []string        `json:"peers,omitempty"`  // addresses of Pods
	Blocks []string        `json:"blocks,omitempty"` // prefixes; what they except is cut out
	Ports  []SelectionPort `json:"ports,omitempty"`  // none: all
	// Named are ports by name of what goes out: those of each peer that has the name.
	Named []SelectionNamed `json:"named,omitempty"`
}

// A SelectionPort is a port, or all from Port to EndPort. By Name it is the own port
// of that name of a Pod that the policy selects. With none of all that it is every
// port of the protocol.
type SelectionPort struct {
	Protocol string `json:"protocol"`
	Port     int32  `json:"port,omitempty"`
	EndPort  int32  `json:"endPort,omitempty"`
	Name     string `json:"name,omitempty"`
}

// A SelectionNamed is a port that goes by a name at some peers.
type SelectionNamed struct {
	Protocol string   `json:"protocol"`
	Port     int32    `json:"port"`
	Peers    []string `json:"peers"`
}
