package object

import (
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
		"spec.type", "spec.selector", "spec.clusterIP", "spec.clusterIPs", "spec.externalName", "spec.sessionAffinity",
		"spec.internalTrafficPolicy", "spec.externalTrafficPolicy", "spec.publishNotReadyAddresses",
		"spec.ports.name", "spec.ports.protocol", "spec.ports.port", "spec.ports.targetPort", "spec.ports.nodePort", "spec.ports.appProtocol",
	),
	only("spec.ipFamilies", []string{`["IPv4"]`}, "the cluster's addresses are IPv4"),
	only("spec.ipFamilyPolicy", []string{"SingleStack"}, "the cluster's addresses are IPv4"),
	only("spec.sessionAffinityConfig.clientIP.timeoutSeconds", []string{"10800"}, "a client stays with its Pod as long as that is ready"),
	refuses("nobody takes the traffic of an address that is not the cluster's", "spec.externalIPs"),
	refuses(hintPublic, "spec.loadBalancerIP", "spec.loadBalancerSourceRanges", "spec.loadBalancerClass", "spec.allocateLoadBalancerNodePorts"),
	only("spec.healthCheckNodePort", []string{"0"}, hintPublic),
	only("spec.trafficDistribution", []string{}, "internalTrafficPolicy: Local keeps requests on their node"),
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
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP && spec.SessionAffinityConfig == nil {
		timeout := corev1.DefaultClientIPServiceAffinitySeconds
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
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
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

// Headless tells whether a Service has no address of its own, and its name leads to
// its Pods.
func Headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

func (p *problems) service(s *corev1.Service) {
	spec := &s.Spec
	p.each("metadata.name", s.Name, validation.IsDNS1035Label(s.Name))
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
	case corev1.ServiceTypeExternalName:
		p.each("spec.externalName", spec.ExternalName, validation.IsDNS1123Subdomain(strings.TrimSuffix(spec.ExternalName, ".")))
		if spec.ClusterIP != "" {
			p.add("spec.clusterIP", "a Service of type ExternalName has none")
		}
		return
	case corev1.ServiceTypeLoadBalancer:
		p.hint("spec.type", hintPublic, "LoadBalancer is not supported: nobody here makes load balancers")
	default:
		p.add("spec.type", "%q: want ClusterIP, NodePort or ExternalName", clip(string(spec.Type)))
	}
	if spec.ExternalName != "" {
		p.add("spec.externalName", "is of type ExternalName alone")
	}
	p.labels(spec.Selector, "spec.selector")
	p.serviceAddress(spec)
	p.oneOf("spec.sessionAffinity", string(spec.SessionAffinity), "None", "ClientIP")
	p.oneOf("spec.internalTrafficPolicy", string(*spec.InternalTrafficPolicy), "Cluster", "Local")
	if spec.ExternalTrafficPolicy != "" {
		p.oneOf("spec.externalTrafficPolicy", string(spec.ExternalTrafficPolicy), "Cluster", "Local")
		if spec.Type != corev1.ServiceTypeNodePort {
			p.hint("spec.externalTrafficPolicy", "remove it, or write type: NodePort", "nothing comes from outside to a Service of type %s", spec.Type)
		}
	}
	p.servicePorts(spec)
	if text, given := s.Annotations[AnnotationPublish]; given {
		if _, err := Published(s); err != nil {
			p.add(keyed("metadata.annotations", AnnotationPublish), "%q: %v", clip(text), err)
		}
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
	if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone {
		p.add("spec.ports", "is missing")
	}
	names, numbers, nodePorts := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range spec.Ports {
		port, at := &spec.Ports[i], fmt.Sprintf("spec.ports[%d]", i)
		p.between(at+".port", int64(port.Port), 1, 65535)
		p.oneOf(at+".protocol", string(port.Protocol), "TCP", "UDP")
		switch {
		case port.Name == "" && len(spec.Ports) > 1:
			p.add(at+".name", "is missing: of several ports each has a name")
		case port.Name != "":
			p.each(at+".name", port.Name, validation.IsDNS1123Label(port.Name))
		}
		if names[port.Name] {
			p.add(at+".name", "%q is another port's", port.Name)
		}
		names[port.Name] = true
		key := fmt.Sprint(port.Port, port.Protocol)
		if numbers[key] {
			p.add(at+".port", "%d/%s is there twice", port.Port, port.Protocol)
		}
		numbers[key] = true
		if port.TargetPort.Type == intstr.String {
			p.each(at+".targetPort", port.TargetPort.StrVal, validation.IsValidPortName(port.TargetPort.StrVal))
		} else {
			p.between(at+".targetPort", int64(port.TargetPort.IntVal), 1, 65535)
		}
		if port.NodePort == 0 {
			continue
		}
		if spec.Type != corev1.ServiceTypeNodePort {
			p.hint(at+".nodePort", "remove it, or write type: NodePort", "a Service of type %s has none", spec.Type)
		}
		p.between(at+".nodePort", int64(port.NodePort), NodePortFirst, NodePortLast)
		key = fmt.Sprint(port.NodePort, port.Protocol)
		if nodePorts[key] {
			p.add(at+".nodePort", "%d/%s is there twice", port.NodePort, port.Protocol)
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
	var out []Publication
	for one := range strings.SplitSeq(text, ",") {
		host, target, named := strings.Cut(strings.TrimSpace(one), ":")
		n, err := strconv.ParseUint(host, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no port", clip(host))
		}
		i := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Protocol == corev1.ProtocolTCP && (!named || p.Name == target || strconv.Itoa(int(p.Port)) == target)
		})
		if i < 0 {
			return nil, fmt.Errorf("the Service has no TCP port %s", clip(target))
		}
		out = append(out, Publication{Host: int32(n), Port: s.Spec.Ports[i]}) //nolint:gosec // 16 bits
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

func immutableService(next, old *corev1.Service, p *problems) {
	if old.Spec.ClusterIP != "" && next.Spec.ClusterIP != old.Spec.ClusterIP && next.Spec.Type != corev1.ServiceTypeExternalName {
		p.hint("spec.clusterIP", "delete the Service and apply it again", "%s cannot be changed", old.Spec.ClusterIP)
	}
}
