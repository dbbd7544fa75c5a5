package traffic

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/balance"
	"github.com/skein-dev/skein/runtime/dns"
)

// frontends works out where the connections of a Service go, by what is known now.
func (t *Traffic) frontends(s *service) map[balance.Frontend]balance.Service {
	out := map[balance.Frontend]balance.Service{}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return out
	}
	vip, err := netip.ParseAddr(s.Spec.ClusterIP)
	headless := err != nil
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		protocol := protocolOf(p.Protocol)
		port := uint16(p.Port) //nolint:gosec // validated
		all, here := t.endpoints(s, p)
		one := balance.Service{Endpoints: all, Affinity: s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP}
		if !headless {
			inside := one
			if s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal {
				inside.Endpoints, inside.Silent = here, true
			}
			out[balance.Frontend{Addr: vip, Protocol: protocol, Port: port}] = inside
		}
		if p.NodePort > 0 {
			outside := one
			if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
				outside.Endpoints, outside.Keep, outside.Silent = here, true, true
			}
			out[balance.Frontend{Protocol: protocol, Port: uint16(p.NodePort)}] = outside //nolint:gosec // validated
		}
	}
	return out
}

func protocolOf(p corev1.Protocol) balance.Protocol {
	if p == corev1.ProtocolUDP {
		return balance.UDP
	}
	return balance.TCP
}

// endpoints lists the ready endpoints of a port, and those of them on this node.
func (t *Traffic) endpoints(s *service, p *corev1.ServicePort) (all, here []netip.AddrPort) {
	var doubtful []netip.AddrPort
	for _, slice := range s.slices {
		at := slices.IndexFunc(slice.Ports, func(have discoveryv1.EndpointPort) bool {
			return have.Name != nil && *have.Name == p.Name && have.Port != nil && (have.Protocol == nil || *have.Protocol == p.Protocol)
		})
		if at < 0 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			addr, ok := addrOf(e)
			if !ok || !isTrue(e.Conditions.Ready) {
				continue
			}
			one := netip.AddrPortFrom(addr, uint16(*slice.Ports[at].Port)) //nolint:gosec // a port
			switch node := nodeName(e); {
			case t.model.nodes[node].lost:
			case t.suspect[node] && node != t.cfg.Node:
				doubtful = append(doubtful, one)
			default:
				all = append(all, one)
				if node == t.cfg.Node {
					here = append(here, one)
				}
			}
		}
	}
	// Gossip is advice: before the verdict it takes no more than half of a Service's
	// endpoints away.
	slices.SortFunc(doubtful, netip.AddrPort.Compare)
	for len(doubtful) > len(all) {
		all, doubtful = append(all, doubtful[0]), doubtful[1:]
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all), here
}

func nodeName(e *discoveryv1.Endpoint) string {
	if e.NodeName == nil {
		return ""
	}
	return *e.NodeName
}

// entryOf is what names of a Service lead to.
func entryOf(s *service) dns.Entry {
	e := dns.Entry{Name: s.Name + "." + s.Namespace + ".svc"}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		e.Alias = s.Spec.ExternalName
		return e
	}
	headless := object.Headless(s.Service)
	if addr, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil {
		e.Addrs = []netip.Addr{addr}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			e.Ports = append(e.Ports, dns.Port{Name: p.Name, Protocol: protocolOf(p.Protocol).String(), Number: uint16(p.Port)}) //nolint:gosec // validated
		}
	}
	for _, slice := range s.slices {
		for i := range slice.Endpoints {
			end := &slice.Endpoints[i]
			addr, ok := addrOf(end)
			if !ok || !isTrue(end.Conditions.Ready) {
				continue
			}
			host := dns.Host{Addr: addr}
			if end.Hostname != nil {
				host.Name = *end.Hostname
			}
			if !headless {
				if host.Name != "" {
					e.Hosts = append(e.Hosts, host)
				}
				continue
			}
			for _, p := range slice.Ports {
				if p.Port != nil && p.Name != nil {
					host.Ports = append(host.Ports, dns.Port{Name: *p.Name, Protocol: protocolOf(protocolIn(p)).String(), Number: uint16(*p.Port)}) //nolint:gosec // a port
				}
			}
			e.Addrs = append(e.Addrs, addr)
			e.Hosts = append(e.Hosts, host)
		}
	}
	slices.SortFunc(e.Addrs, netip.Addr.Compare)
	e.Addrs = slices.Compact(e.Addrs)
	return e
}

func protocolIn(p discoveryv1.EndpointPort) corev1.Protocol {
	if p.Protocol == nil {
		return corev1.ProtocolTCP
	}
	return *p.Protocol
}
