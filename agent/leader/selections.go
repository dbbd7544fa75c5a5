package leader

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A policy is a NetworkPolicy with its selectors ready to be used.
type policy struct {
	object      *networkingv1.NetworkPolicy
	in, out     []side
	looksAround bool // it looks at the labels of namespaces
}

// A side is one rule: its peers and its ports.
type side struct {
	all    bool
	peers  []peer
	blocks []networkingv1.IPBlock
	ports  []networkingv1.NetworkPolicyPort
}

// A peer selects Pods; of its own namespace, where namespaces is nil.
type peer struct{ namespaces, pods labels.Selector }

func compile(n *networkingv1.NetworkPolicy) (*policy, error) {
	p := &policy{object: n}
	for _, r := range n.Spec.Ingress {
		s, err := p.side(r.From, r.Ports)
		if err != nil {
			return nil, err
		}
		p.in = append(p.in, s)
	}
	for _, r := range n.Spec.Egress {
		s, err := p.side(r.To, r.Ports)
		if err != nil {
			return nil, err
		}
		p.out = append(p.out, s)
	}
	return p, nil
}

func (p *policy) side(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (side, error) {
	s := side{all: len(peers) == 0, ports: ports}
	for _, one := range peers {
		if one.IPBlock != nil {
			s.blocks = append(s.blocks, *one.IPBlock)
			continue
		}
		next := peer{pods: labels.Everything()}
		var err error
		if one.PodSelector != nil {
			if next.pods, err = metav1.LabelSelectorAsSelector(one.PodSelector); err != nil {
				return s, err
			}
		}
		if one.NamespaceSelector != nil {
			p.looksAround = true
			if next.namespaces, err = metav1.LabelSelectorAsSelector(one.NamespaceSelector); err != nil {
				return s, err
			}
		}
		s.peers = append(s.peers, next)
	}
	return s, nil
}

func (p *policy) has(one peer, pod *pod, around map[string]string) bool {
	if one.namespaces == nil && pod.key.Namespace != p.object.Namespace || one.namespaces != nil && !one.namespaces.Matches(labels.Set(around)) {
		return false
	}
	return one.pods.Matches(labels.Set(pod.labels))
}

// concerns tells whether a Pod is a peer of some rule. around are the labels of its
// namespace.
func (p *policy) concerns(pod *pod, around map[string]string) bool {
	for _, s := range slices.Concat(p.in, p.out) {
		if slices.ContainsFunc(s.peers, func(one peer) bool { return p.has(one, pod, around) }) {
			return true
		}
	}
	return false
}

// keepSelections writes whom each NetworkPolicy lets through now.
func (r *reign) keepSelections(ctx context.Context) error {
	r.model.mu.Lock()
	keys := make([]state.Key, 0, len(r.model.web.lapsed))
	for key := range r.model.web.lapsed {
		keys = append(keys, key)
	}
	clear(r.model.web.lapsed)
	r.model.mu.Unlock()
	for i, key := range keys {
		if err := r.writeSelection(ctx, key); err != nil {
			r.model.mu.Lock()
			for _, left := range keys[i:] {
				r.model.web.lapsed[left] = struct{}{}
			}
			r.model.mu.Unlock()
			return err
		}
	}
	return nil
}

func (r *reign) writeSelection(ctx context.Context, key state.Key) error {
	at := state.Key{Kind: object.KindSelection, Namespace: key.Namespace, Name: key.Name}
	want := r.model.selection(key)
	row, there := r.store.Get(at)
	var op *logv1.Op
	switch {
	case want == nil && !there:
		return nil
	case want == nil:
		op = object.Delete(at, row.Version)
	default:
		expect := uint64(0)
		if there {
			old, err := object.Decode[object.Selection](row)
			if err != nil {
				return err
			}
			if equalJSON(old.Spec, want.Spec) && equalJSON(old.OwnerReferences, want.OwnerReferences) {
				return nil
			}
			want.UID, want.CreationTimestamp, expect = old.UID, old.CreationTimestamp, row.Version
		} else {
			want.UID, want.CreationTimestamp = types.UID(r.UID()), stamp(r.Now())
		}
		var err error
		if op, err = object.Put(want, expect); err != nil {
			return err
		}
	}
	_, err := r.commit(ctx, []*logv1.Op{op})
	return err
}

// selection works out what a NetworkPolicy lets through; nil, if it is gone.
func (m *model) selection(key state.Key) *object.Selection {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.web.policies[key]
	if p == nil {
		return nil
	}
	out := &object.Selection{ObjectMeta: metav1.ObjectMeta{
		Name: key.Name, Namespace: key.Namespace, OwnerReferences: []metav1.OwnerReference{object.Controls(p.object)},
	}}
	out.Spec.PodSelector = p.object.Spec.PodSelector
	for _, t := range p.object.Spec.PolicyTypes {
		rules := []object.SelectionRule{}
		if t == networkingv1.PolicyTypeIngress {
			for _, s := range p.in {
				rules = append(rules, m.ruleOf(p, s, false))
			}
			out.Spec.Ingress = &rules
		} else {
			for _, s := range p.out {
				rules = append(rules, m.ruleOf(p, s, true))
			}
			out.Spec.Egress = &rules
		}
	}
	return out
}

func (m *model) ruleOf(p *policy, s side, egress bool) object.SelectionRule {
	r := object.SelectionRule{All: s.all}
	var peers []*pod
	for namespace, list := range m.web.byName {
		around := m.web.namespaces[namespace]
		for _, one := range list {
			if one.reachable() && slices.ContainsFunc(s.peers, func(sel peer) bool { return p.has(sel, one, around) }) {
				peers = append(peers, one)
			}
		}
	}
	for _, one := range peers {
		r.Peers = append(r.Peers, one.addr.String())
	}
	slices.Sort(r.Peers)
	r.Peers = slices.Compact(r.Peers) // those on a node's own network share its address
	for _, b := range s.blocks {
		for _, part := range cut(b) {
			r.Blocks = append(r.Blocks, part.String())
		}
	}
	slices.Sort(r.Blocks)
	for _, port := range s.ports {
		one := object.SelectionPort{Protocol: string(*port.Protocol)}
		switch {
		case port.Port == nil:
		case port.Port.Type == intstr.Int:
			one.Port = port.Port.IntVal
			if port.EndPort != nil {
				one.EndPort = *port.EndPort
			}
		case egress:
			if s.all {
				peers = m.everywhere()
			}
			r.Named = append(r.Named, namedAt(peers, port.Port.StrVal, *port.Protocol)...)
			continue
		default:
			one.Name = port.Port.StrVal
		}
		r.Ports = append(r.Ports, one)
	}
	if len(s.ports) > 0 && len(r.Ports) == 0 { // names alone: nothing else goes through
		r.All, r.Peers, r.Blocks = false, nil, nil
	}
	return r
}

func (m *model) everywhere() []*pod {
	var out []*pod
	for _, p := range m.pods {
		if p.reachable() {
			out = append(out, p)
		}
	}
	return out
}

// namedAt gathers what a name of a port means at some Pods.
func namedAt(peers []*pod, name string, protocol corev1.Protocol) []object.SelectionNamed {
	numbers := map[int32][]string{}
	for _, p := range peers {
		for _, have := range p.ports {
			if have.name == name && have.protocol == protocol {
				numbers[have.number] = append(numbers[have.number], p.addr.String())
			}
		}
	}
	var out []object.SelectionNamed
	for number, addrs := range numbers {
		slices.Sort(addrs)
		out = append(out, object.SelectionNamed{Protocol: string(protocol), Port: number, Peers: slices.Compact(addrs)})
	}
	slices.SortFunc(out, func(a, b object.SelectionNamed) int { return int(a.Port) - int(b.Port) })
	return out
}

// cut returns the prefixes that are left of a block without what it excepts.
func cut(b networkingv1.IPBlock) []netip.Prefix {
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil
	}
	left := []netip.Prefix{whole.Masked()}
	for _, text := range b.Except {
		gone, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		gone = gone.Masked()
		var next []netip.Prefix
		for _, p := range left {
			next = append(next, without(p, gone)...)
		}
		left = next
	}
	return left
}

// without halves a prefix until one half is what is to go.
func without(p, gone netip.Prefix) []netip.Prefix {
	switch {
	case !p.Overlaps(gone):
		return []netip.Prefix{p}
	case gone.Bits() <= p.Bits():
		return nil
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	high := after(low)
	return append(without(low, gone), without(high, gone)...)
}
