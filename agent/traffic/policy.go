package traffic

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/balance"
)

func localOf(pod *corev1.Pod, addr netip.Addr, link string, machine netip.Addr) local {
	l := local{
		Pod: balance.Pod{Addr: addr, Link: link}, namespace: pod.Namespace, labels: pod.Labels,
		ports: map[string]balance.PortRange{}, hostPorts: map[balance.Frontend]uint16{},
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				number := uint16(p.ContainerPort) //nolint:gosec // validated
				if p.Name != "" {
					l.ports[p.Name] = balance.PortRange{Protocol: protocolOf(p.Protocol), First: number, Last: number}
				}
				if p.HostPort > 0 {
					f := balance.Frontend{Protocol: protocolOf(p.Protocol), Port: uint16(p.HostPort)} //nolint:gosec // validated
					if host, err := netip.ParseAddr(p.HostIP); err == nil && !host.IsUnspecified() {
						f.Addr = host
					}
					l.hostPorts[f] = number
				}
			}
		}
	}
	return l
}

func (l local) same(o local) bool {
	return l.Pod == o.Pod && l.namespace == o.namespace && maps.Equal(l.labels, o.labels) && maps.Equal(l.ports, o.ports) && maps.Equal(l.hostPorts, o.hostPorts)
}

// pods lists this machine's Pods.
func (t *Traffic) pods() []balance.Pod {
	var out []balance.Pod
	for _, l := range t.here {
		out = append(out, l.Pod)
	}
	slices.SortFunc(out, func(a, b balance.Pod) int { return a.Addr.Compare(b.Addr) })
	return out
}

// hostPorts lead from ports of this machine to its Pods.
func (t *Traffic) hostPorts() map[balance.Frontend]balance.Service {
	out := map[balance.Frontend]balance.Service{}
	for _, l := range t.here {
		for f, port := range l.hostPorts {
			out[f] = balance.Service{Endpoints: []netip.AddrPort{netip.AddrPortFrom(l.Addr, port)}, Keep: true}
		}
	}
	return out
}

// policy works out what this machine's Pods may hear and say. Pods that the same
// policies select, and whose ports have the same names, share a class.
func (t *Traffic) policy() balance.Policy {
	out := balance.Policy{Ingress: map[netip.Addr]balance.Class{}, Egress: map[netip.Addr]balance.Class{}}
	if len(t.model.selections) == 0 {
		return out
	}
	keys := slices.SortedFunc(maps.Keys(t.model.selections), state.Key.Compare)
	classes := map[string]balance.Class{}
	for _, l := range t.here {
		var in, out2 []*object.Selection
		for _, key := range keys {
			s := t.model.selections[key]
			if key.Namespace != l.namespace || !chosen(&s.Spec.PodSelector, l.labels) {
				continue
			}
			if s.Spec.Ingress != nil {
				in = append(in, s)
			}
			if s.Spec.Egress != nil {
				out2 = append(out2, s)
			}
		}
		if len(in) > 0 {
			out.Ingress[l.Addr] = classOf(classes, l, in, func(s *object.Selection) []object.SelectionRule { return *s.Spec.Ingress }, "in")
		}
		if len(out2) > 0 {
			out.Egress[l.Addr] = classOf(classes, l, out2, func(s *object.Selection) []object.SelectionRule { return *s.Spec.Egress }, "out")
		}
	}
	return out
}

func chosen(sel *metav1.LabelSelector, set map[string]string) bool {
	match, err := metav1.LabelSelectorAsSelector(sel)
	return err == nil && match.Matches(labels.Set(set))
}

func classOf(known map[string]balance.Class, l local, list []*object.Selection, rules func(*object.Selection) []object.SelectionRule, way string) balance.Class {
	var name strings.Builder
	name.WriteString(way)
	for _, s := range list {
		name.WriteString(" " + s.Namespace + "/" + s.Name)
	}
	for _, port := range slices.Sorted(maps.Keys(l.ports)) {
		p := l.ports[port]
		name.WriteString(" " + port + "=" + p.Protocol.String() + netip.AddrPortFrom(netip.IPv4Unspecified(), p.First).String())
	}
	if c, ok := known[name.String()]; ok {
		return c
	}
	c := balance.Class{Name: name.String()}
	for _, s := range list {
		for _, r := range rules(s) {
			c.Rules = append(c.Rules, rulesOf(r, l)...)
		}
	}
	known[c.Name] = c
	return c
}

func rulesOf(r object.SelectionRule, l local) []balance.Rule {
	var out []balance.Rule
	for _, n := range r.Named {
		port := uint16(n.Port) //nolint:gosec // validated
		out = append(out, balance.Rule{Peers: addrsOf(n.Peers), Ports: []balance.PortRange{{Protocol: protocolOf(corev1.Protocol(n.Protocol)), First: port, Last: port}}})
	}
	one := balance.Rule{Peers: addrsOf(r.Peers)}
	for _, text := range r.Blocks {
		if p, err := netip.ParsePrefix(text); err == nil {
			one.Nets = append(one.Nets, p)
		}
	}
	if r.All {
		one.Nets = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	}
	for _, p := range r.Ports {
		protocol := protocolOf(corev1.Protocol(p.Protocol))
		switch {
		case p.Name != "":
			if own, ok := l.ports[p.Name]; ok && own.Protocol == protocol {
				one.Ports = append(one.Ports, own)
			}
		case p.Port == 0:
			one.Ports = append(one.Ports, balance.PortRange{Protocol: protocol, First: 0, Last: 65535})
		default:
			one.Ports = append(one.Ports, balance.PortRange{Protocol: protocol, First: uint16(p.Port), Last: uint16(cmp.Or(p.EndPort, p.Port))}) //nolint:gosec // validated
		}
	}
	if len(r.Ports) > 0 && len(one.Ports) == 0 {
		return out // names that the Pod has not: nothing
	}
	return append(out, one)
}

func addrsOf(list []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}
