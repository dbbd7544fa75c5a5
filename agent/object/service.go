package object

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// AnnotationPublish is of a Service: which ports of the laptop that a lab is on
	// lead to it, "8080" or "8080:http,8443:443".
	AnnotationPublish = "skein.dev/publish"
	// LabelServiceName is of an EndpointSlice: the Service whose endpoints it has.
	LabelServiceName = "kubernetes.io/service-name"
)

// Node ports are from here to there, as in Kubernetes.
const (
	NodePortFirst = 30000
	NodePortLast  = 32767
)

const hintPublic = "write type: NodePort, and reach it by any node's address"

var serviceRules = []rule{
	takes(
		"spec.type", "spec.selector", "spec.clusterIP", "spec.clusterIPs", "spec.ipFamilies", "spec.externalName", "spec.sessionAffinity",
		"spec.internalTrafficPolicy", "spec.externalTrafficPolicy", "spec.publishNotReadyAddresses",
		"spec.ports.name", "spec.ports.protocol", "spec.ports.port", "spec.ports.targetPort", "spec.ports.nodePort", "spec.ports.appProtocol",
	),
	only("spec.ipFamilyPolicy", []string{"SingleStack"}, "the cluster's addresses are IPv4"),
	only("spec.sessionAffinityConfig.clientIP.timeoutSeconds", []string{"10800"}, "a client stays with its Pod as long as that is ready"),
	refuses("nobody takes the traffic of an address that is not the cluster's", "spec.externalIPs"),
	refuses(hintPublic, "spec.loadBalancerIP", "spec.loadBalancerSourceRanges", "spec.loadBalancerClass", "spec.allocateLoadBalancerNodePorts"),
	only("spec.healthCheckNodePort", []string{"0"}, hintPublic),
	refuses("internalTrafficPolicy: Local keeps requests on their node", "spec.trafficDistribution"),
	sets("status"),
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		defaultTo(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		defaultTo(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		defaultTo(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	defaultTo(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	defaultTo(&spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if spec.Type == corev1.ServiceTypeNodePort && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.ClusterIP == "" && len(spec.ClusterIPs) == 1 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// Headless tells whether a Service has no address of its own, and its name leads to
// its Pods.
func Headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// Selects tells whether a Service leads to Pods with these labels. One without a
// selector leads to none.
func Selects(s *corev1.Service, labels map[string]string) bool {
	for key, want := range s.Spec.Selector {
		if have, there := labels[key]; !there || have != want {
			return false
		}
	}
	return len(s.Spec.Selector) > 0
}

func (p *problems) service(s *corev1.Service) {
	spec := &s.Spec
	p.each("metadata.name", s.Name, validation.IsDNS1035Label(s.Name))
	p.labels(spec.Selector, "spec.selector")
	p.serviceType(spec)
	p.servicePorts(spec)
	p.oneOf("spec.sessionAffinity", string(spec.SessionAffinity), "None", "ClientIP")
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP && spec.SessionAffinityConfig != nil {
		p.hint("spec.sessionAffinityConfig", "remove it, or write sessionAffinity: ClientIP", "no client stays with a Pod")
	}
	if policy := spec.InternalTrafficPolicy; policy != nil {
		p.oneOf("spec.internalTrafficPolicy", string(*policy), "Cluster", "Local")
	}
	if policy := spec.ExternalTrafficPolicy; policy != "" {
		p.oneOf("spec.externalTrafficPolicy", string(policy), "Cluster", "Local")
		if spec.Type == corev1.ServiceTypeClusterIP || spec.Type == corev1.ServiceTypeExternalName {
			p.hint("spec.externalTrafficPolicy", "remove it, or write type: NodePort", "nothing comes from outside to a Service of type %s", spec.Type)
		}
	}
	if text, given := s.Annotations[AnnotationPublish]; given {
		if _, err := Published(s); err != nil {
			p.hint(keyed("metadata.annotations", AnnotationPublish), "write ports of the lab's machine with those of the Service: 8080, or 8080:http,8443:443", "%q: %v", clip(text), err)
		}
	}
}

func (p *problems) serviceType(spec *corev1.ServiceSpec) {
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		p.serviceAddress(spec)
	case corev1.ServiceTypeExternalName:
		if spec.ExternalName == "" {
			p.hint("spec.externalName", "write the name that this one is to lead to", "is missing")
			return
		}
		p.each("spec.externalName", spec.ExternalName, validation.IsDNS1123Subdomain(strings.TrimSuffix(spec.ExternalName, ".")))
		if spec.ClusterIP != "" || len(spec.ClusterIPs) > 0 {
			p.hint("spec.clusterIP", "remove it", "a Service of type ExternalName has none")
		}
		return
	case corev1.ServiceTypeLoadBalancer:
		p.hint("spec.type", hintPublic, "LoadBalancer is not supported: nobody here makes load balancers")
	default:
		p.add("spec.type", "%q: want ClusterIP, NodePort or ExternalName", clip(string(spec.Type)))
	}
	if spec.ExternalName != "" {
		p.hint("spec.externalName", "remove it, or write type: ExternalName", "is of type ExternalName alone")
	}
}

func (p *problems) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(path, "%q: want %s", clip(value), strings.Join(allowed, " or "))
	}
}

func (p *problems) serviceAddress(spec *corev1.ServiceSpec) {
	if len(spec.ClusterIPs) > 1 || len(spec.ClusterIPs) == 1 && spec.ClusterIPs[0] != spec.ClusterIP {
		p.add("spec.clusterIPs", "want one address, that of clusterIP")
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol || i > 0 {
			p.add(indexed("spec.ipFamilies", i), "%q: the cluster's addresses are IPv4", clip(string(family)))
		}
	}
	switch addr, err := netip.ParseAddr(spec.ClusterIP); {
	case spec.ClusterIP == "":
	case spec.ClusterIP == corev1.ClusterIPNone:
		if spec.Type != corev1.ServiceTypeClusterIP {
			p.add("spec.clusterIP", "a Service of type %s has an address", spec.Type)
		}
	case err != nil || !ServiceRange.Contains(addr) || addr == ServiceRange.Addr():
		p.hint("spec.clusterIP", "leave it out: the cluster chooses one", "%q is no address of %s", clip(spec.ClusterIP), ServiceRange)
	}
}

func (p *problems) servicePorts(spec *corev1.ServiceSpec) {
	if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone && spec.Type != corev1.ServiceTypeExternalName {
		p.hint("spec.ports", "a Service without an address, clusterIP: None, needs none", "is missing")
	}
	names, numbers, nodePorts := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range spec.Ports {
		port, at := &spec.Ports[i], indexed("spec.ports", i)
		p.between(at+".port", int64(port.Port), 1, 65535)
		p.oneOf(at+".protocol", string(port.Protocol), "TCP", "UDP")
		switch {
		case port.Name == "" && len(spec.Ports) > 1:
			p.add(at+".name", "is missing: of several ports each has a name")
		case port.Name != "":
			p.each(at+".name", port.Name, validation.IsDNS1123Label(port.Name))
			if names[port.Name] {
				p.add(at+".name", "%q is the name of two ports", clip(port.Name))
			}
			names[port.Name] = true
		}
		key := fmt.Sprintf("%d/%s", port.Port, port.Protocol)
		if numbers[key] {
			p.add(at+".port", "%s is there twice", key)
		}
		numbers[key] = true
		if port.TargetPort.Type == intstr.String {
			p.each(at+".targetPort", port.TargetPort.StrVal, validation.IsValidPortName(port.TargetPort.StrVal))
		} else {
			p.between(at+".targetPort", int64(port.TargetPort.IntVal), 1, 65535)
		}
		if port.AppProtocol != nil {
			p.each(at+".appProtocol", *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))
		}
		if port.NodePort == 0 {
			continue
		}
		if spec.Type == corev1.ServiceTypeClusterIP || spec.Type == corev1.ServiceTypeExternalName {
			p.hint(at+".nodePort", "remove it, or write type: NodePort", "a Service of type %s has none", spec.Type)
		}
		p.between(at+".nodePort", int64(port.NodePort), NodePortFirst, NodePortLast)
		key = fmt.Sprintf("%d/%s", port.NodePort, port.Protocol)
		if nodePorts[key] {
			p.add(at+".nodePort", "%s is there twice", key)
		}
		nodePorts[key] = true
	}
}

// A Publication is one port of a laptop that leads to a port of a Service.
type Publication struct {
	Host int32 // the laptop's
	Port corev1.ServicePort
}

// Published reads AnnotationPublish: numbers of the laptop's, each with the port of
// the Service it leads to, by number or name; the first, where none is named.
func Published(s *corev1.Service) ([]Publication, error) {
	text := s.Annotations[AnnotationPublish]
	if text == "" {
		return nil, nil
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName || Headless(s) {
		return nil, errors.New("a Service without an address leads nowhere")
	}
	var out []Publication
	for one := range strings.SplitSeq(text, ",") {
		host, target, named := strings.Cut(strings.TrimSpace(one), ":")
		n, err := strconv.ParseUint(host, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no port", clip(host))
		}
		if slices.ContainsFunc(out, func(p Publication) bool { return uint64(p.Host) == n }) { //nolint:gosec // 16 bits
			return nil, fmt.Errorf("%d is there twice", n)
		}
		i := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Protocol == corev1.ProtocolTCP && (!named || p.Name == target || strconv.Itoa(int(p.Port)) == target)
		})
		switch {
		case i < 0 && named:
			return nil, fmt.Errorf("the Service has no TCP port %s", clip(target))
		case i < 0:
			return nil, errors.New("the Service has no TCP port")
		}
		out = append(out, Publication{Host: int32(n), Port: s.Spec.Ports[i]})
	}
	return out, nil
}

// keepService takes over what the cluster chose and a manifest leaves out.
func keepService(next, old *corev1.Service) {
	next.Status = old.Status
	same := next.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName
	if same && next.Spec.ClusterIP == "" {
		next.Spec.ClusterIP, next.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
	}
	if next.Spec.Type != corev1.ServiceTypeNodePort {
		return
	}
	for i := range next.Spec.Ports {
		p := &next.Spec.Ports[i]
		at := slices.IndexFunc(old.Spec.Ports, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol })
		if p.NodePort == 0 && at >= 0 {
			p.NodePort = old.Spec.Ports[at].NodePort
		}
	}
}

// dropService takes away what a patch of the type or the affinity leaves over, unless the patch
// itself changed it: else nobody could change a type without naming all of it.
func dropService(next, old *corev1.Service) {
	if next.Spec.SessionAffinity == corev1.ServiceAffinityNone && old.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		next.Spec.SessionAffinityConfig = nil
	}
	if next.Spec.Type == old.Spec.Type {
		return
	}
	if old.Spec.Type == corev1.ServiceTypeNodePort {
		for i := range next.Spec.Ports {
			p := &next.Spec.Ports[i]
			if slices.ContainsFunc(old.Spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort }) {
				p.NodePort = 0
			}
		}
		if next.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
			next.Spec.ExternalTrafficPolicy = ""
		}
	}
	switch corev1.ServiceTypeExternalName {
	case next.Spec.Type:
		if next.Spec.ClusterIP == old.Spec.ClusterIP {
			next.Spec.ClusterIP, next.Spec.ClusterIPs = "", nil
		}
	case old.Spec.Type:
		if next.Spec.ExternalName == old.Spec.ExternalName {
			next.Spec.ExternalName = ""
		}
	}
}

func immutableService(next, old *corev1.Service, p *problems) {
	if old.Spec.ClusterIP != "" && next.Spec.ClusterIP != old.Spec.ClusterIP && next.Spec.Type != corev1.ServiceTypeExternalName {
		p.hint("spec.clusterIP", "delete the Service and apply it again", "%s cannot be changed", old.Spec.ClusterIP)
	}
}
