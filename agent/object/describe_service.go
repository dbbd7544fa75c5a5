package object

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skein-dev/skein/consensus/state"
)

// maxEndpoints bounds the addresses that are told of one port, of each sort.
const maxEndpoints = 50

// An endpointState is what an endpoint is good for.
type endpointState uint8

const (
	endpointReady endpointState = iota
	endpointUnready
	endpointDraining // it is about to end, and gets no new requests
)

func stateOf(e *discoveryv1.Endpoint) endpointState {
	c := &e.Conditions
	switch {
	case c.Terminating != nil && *c.Terminating:
		return endpointDraining
	case c.Ready != nil && !*c.Ready:
		return endpointUnready
	}
	return endpointReady // also where nobody says, as in Kubernetes
}

func decodeSlices(rows []*state.Row) ([]*discoveryv1.EndpointSlice, error) {
	out := make([]*discoveryv1.EndpointSlice, 0, len(rows))
	for _, row := range rows {
		s, err := Decode[discoveryv1.EndpointSlice](row)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (d *description) service(s *corev1.Service) error {
	spec := &s.Spec
	d.put("Type", string(spec.Type))
	if spec.Type == corev1.ServiceTypeExternalName {
		d.put("Leads to", spec.ExternalName)
		return nil
	}
	d.put("IP", orNone(spec.ClusterIP))
	d.put("Selector", orNone(labels.Set(spec.Selector).String()))
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		d.put("Affinity", "a client stays with its Pod")
	}
	if p := spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		d.put("From inside", "to Pods of the same node alone")
	}
	if spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		d.put("From outside", "to Pods of the same node alone")
	}
	if spec.PublishNotReadyAddresses {
		d.put("Unready Pods", "are reached as well")
	}
	slices, err := decodeSlices(d.with.Slices)
	if err != nil {
		return err
	}
	if len(spec.Ports) == 0 {
		d.endpoints(endpointsOf(slices, nil))
		return nil
	}
	d.title("Ports")
	for i := range spec.Ports {
		p := &spec.Ports[i]
		d.title(strings.TrimPrefix(p.Name+" ", " ") + fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		d.put("Target port", p.TargetPort.String())
		if p.NodePort > 0 {
			d.put("Node port", itoa(p.NodePort))
		}
		d.endpoints(endpointsOf(slices, p))
		d.end()
	}
	d.end()
	return nil
}

// endpoints tells the addresses that take requests, and apart from them those
// that do not yet or no longer.
func (d *description) endpoints(found [endpointDraining + 1][]string) {
	for state, title := range []string{"Endpoints", "Not ready", "Draining"} {
		list := found[state]
		if len(list) == 0 && endpointState(state) != endpointReady { //nolint:gosec // three of them
			continue
		}
		text := orNone(strings.Join(list[:min(len(list), maxEndpoints)], ", "))
		if more := len(list) - maxEndpoints; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		d.put(title, text)
	}
}

// endpointsOf lists the addresses behind a port of a Service, by what they are good
// for; without a port they are those of the Pods.
func endpointsOf(slices []*discoveryv1.EndpointSlice, port *corev1.ServicePort) [endpointDraining + 1][]string {
	var out [endpointDraining + 1][]string
	for _, s := range slices {
		number := int32(0)
		if port != nil {
			if number = slicePort(s, port); number == 0 {
				continue
			}
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			for _, address := range e.Addresses {
				if number > 0 {
					address = net.JoinHostPort(address, strconv.Itoa(int(number)))
				}
				out[stateOf(e)] = append(out[stateOf(e)], address)
			}
		}
	}
	return out
}

// slicePort is the number that a port of the Service has at the endpoints of a
// slice, 0 if it has none there.
func slicePort(s *discoveryv1.EndpointSlice, port *corev1.ServicePort) int32 {
	for i := range s.Ports {
		p := &s.Ports[i]
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if p.Port != nil && name == port.Name && protocol == port.Protocol {
			return *p.Port
		}
	}
	return 0
}

func (d *description) endpointSlice(s *discoveryv1.EndpointSlice) {
	d.put("Service", orNone(s.Labels[LabelServiceName]))
	var ports []string
	for _, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		text := itoa(*p.Port)
		if p.Protocol != nil {
			text += "/" + string(*p.Protocol)
		}
		if p.Name != nil && *p.Name != "" {
			text += " (" + *p.Name + ")"
		}
		ports = append(ports, text)
	}
	d.put("Ports", orNone(strings.Join(ports, ", ")))
	if len(s.Endpoints) == 0 {
		d.put("Endpoints", none)
		return
	}
	d.title(fmt.Sprintf("Endpoints (%d)", len(s.Endpoints)))
	table := [][]string{{"ADDRESS", "STATE", "POD", "NODE"}}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		pod, node := none, none
		if e.TargetRef != nil {
			pod = e.TargetRef.Name
		}
		if e.NodeName != nil {
			node = *e.NodeName
		}
		table = append(table, []string{strings.Join(e.Addresses, ","), []string{"ready", "not ready", "draining"}[stateOf(e)], pod, node})
	}
	d.table(table)
	d.end()
}

func (d *description) networkPolicy(n *networkingv1.NetworkPolicy) {
	d.put("Of the Pods", selectorText(&n.Spec.PodSelector, "all of the namespace"))
	var types []string
	affects := map[networkingv1.PolicyType]bool{}
	for _, t := range n.Spec.PolicyTypes {
		types, affects[t] = append(types, string(t)), true
	}
	d.put("Policy types", orNone(strings.Join(types, ", ")))
	in := policySide{"ingress", "From", "to Pods that it selects", affects[networkingv1.PolicyTypeIngress], len(n.Spec.Ingress)}
	d.policySide(in, func(i int) ([]networkingv1.NetworkPolicyPort, []networkingv1.NetworkPolicyPeer) {
		return n.Spec.Ingress[i].Ports, n.Spec.Ingress[i].From
	})
	out := policySide{"egress", "To", "from Pods that it selects", affects[networkingv1.PolicyTypeEgress], len(n.Spec.Egress)}
	d.policySide(out, func(i int) ([]networkingv1.NetworkPolicyPort, []networkingv1.NetworkPolicyPeer) {
		return n.Spec.Egress[i].Ports, n.Spec.Egress[i].To
	})
}

// A policySide is what a NetworkPolicy says of one direction.
type policySide struct {
	name, peers, nothing string
	affects              bool
	rules                int
}

func (d *description) policySide(s policySide, rule func(int) ([]networkingv1.NetworkPolicyPort, []networkingv1.NetworkPolicyPeer)) {
	switch {
	case !s.affects:
		d.line("Not affecting %s traffic", s.name)
		return
	case s.rules == 0:
		d.line("Allowing %s traffic: none %s", s.name, s.nothing)
		return
	}
	d.title("Allowing " + s.name + " traffic")
	for i := range s.rules {
		if i > 0 {
			d.line("or")
		}
		ports, peers := rule(i)
		var texts []string
		for j := range ports {
			texts = append(texts, policyPortText(&ports[j]))
		}
		if len(texts) == 0 {
			texts = []string{"any port"}
		}
		d.many("To port", texts)
		texts = nil
		for j := range peers {
			texts = append(texts, peerText(&peers[j]))
		}
		if len(texts) == 0 {
			texts = []string{"anywhere"}
		}
		d.many(s.peers, texts)
		d.flush()
	}
	d.end()
}

func policyPortText(p *networkingv1.NetworkPolicyPort) string {
	text := "any port"
	if p.Port != nil {
		text = p.Port.String()
	}
	if p.EndPort != nil {
		text += "-" + itoa(*p.EndPort)
	}
	if p.Protocol != nil {
		text += "/" + string(*p.Protocol)
	}
	return text
}

func peerText(p *networkingv1.NetworkPolicyPeer) string {
	if b := p.IPBlock; b != nil {
		if len(b.Except) > 0 {
			return b.CIDR + " except " + strings.Join(b.Except, ", ")
		}
		return b.CIDR
	}
	text := "all Pods"
	if p.PodSelector != nil && len(p.PodSelector.MatchLabels)+len(p.PodSelector.MatchExpressions) > 0 {
		text = "Pods " + metav1.FormatLabelSelector(p.PodSelector)
	}
	if p.NamespaceSelector == nil {
		return text + " of the same namespace"
	}
	return text + " of " + selectorText(p.NamespaceSelector, "all") + " namespaces"
}

func selectorText(s *metav1.LabelSelector, all string) string {
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return all
	}
	return metav1.FormatLabelSelector(s)
}
