package object

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// ClusterDomain is what every name of the cluster's own ends in.
const ClusterDomain = "cluster.local"

// maxHostname is the longest host name that Linux has, in bytes.
const maxHostname = 64

// FQDN is a Pod's whole name: HOST.SUBDOMAIN.NAMESPACE.svc.cluster.local. It has
// one if it names a subdomain, whether or not there is a Service of that name.
func FQDN(pod *corev1.Pod) string {
	if pod.Spec.Subdomain == "" {
		return ""
	}
	host := pod.Spec.Hostname
	if host == "" {
		host = pod.Name
	}
	return fqdn(host, pod.Spec.Subdomain, pod.Namespace)
}

func fqdn(host, subdomain, namespace string) string {
	return strings.Join([]string{host, subdomain, namespace, "svc", ClusterDomain}, ".")
}

// wholeName refuses what the kernel would only when the Pod starts. The name of a
// Deployment's Pod is longer than its own by what Revisions and Pods append.
func (p *problems) wholeName(s *corev1.PodSpec, name, namespace, path string) {
	if s.Subdomain != "" {
		p.each(path+".subdomain", s.Subdomain, validation.IsDNS1123Label(s.Subdomain))
	}
	if s.SetHostnameAsFQDN == nil || !*s.SetHostnameAsFQDN || s.Subdomain == "" {
		return
	}
	if s.Hostname != "" {
		name = s.Hostname
	}
	if whole := fqdn(name, s.Subdomain, namespace); len(whole) > maxHostname {
		p.hint(path+".setHostnameAsFQDN", "set a short hostname, or leave it out: the name leads to the Pod all the same",
			"%q would be %d characters long, a host name has at most %d", clip(whole), len(whole), maxHostname)
	}
}

// defaultHostPorts fills in what the node's network means: a port of the Pod is one
// of its node.
func defaultHostPorts(s *corev1.PodSpec) {
	if !s.HostNetwork {
		return
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			for j := range list[i].Ports {
				if port := &list[i].Ports[j]; port.HostPort == 0 {
					port.HostPort = port.ContainerPort
				}
			}
		}
	}
}

// withoutHostPorts returns a spec without the host ports that hostNetwork implies:
// it is the same one.
func withoutHostPorts(s corev1.PodSpec) corev1.PodSpec {
	if !s.HostNetwork {
		return s
	}
	out := s.DeepCopy()
	for _, list := range [][]corev1.Container{out.InitContainers, out.Containers} {
		for i := range list {
			for j := range list[i].Ports {
				if port := &list[i].Ports[j]; port.HostPort == port.ContainerPort {
					port.HostPort = 0
				}
			}
		}
	}
	return *out
}

// hostPorts checks the ports of its node that a Pod takes. Init containers that end
// before others start may take the same one after another.
func (p *problems) hostPorts(s *corev1.PodSpec, path string) {
	var taken []*corev1.ContainerPort
	for _, set := range []struct {
		name string
		list []corev1.Container
	}{{".initContainers", s.InitContainers}, {".containers", s.Containers}} {
		for i := range set.list {
			c := &set.list[i]
			for j := range c.Ports {
				port, at := &c.Ports[j], indexed(indexed(path+set.name, i)+".ports", j)
				if !p.hostPort(s, port, at) {
					continue
				}
				for _, other := range taken {
					if samePlace(port, other) {
						p.add(at+".hostPort", "%d/%s is taken by another port of the Pod", port.HostPort, port.Protocol)
						break
					}
				}
				if set.name == ".containers" || IsSidecar(c) {
					taken = append(taken, port)
				}
			}
		}
	}
}

// hostPort reports whether a port takes one of its node.
func (p *problems) hostPort(s *corev1.PodSpec, port *corev1.ContainerPort, path string) bool {
	if port.HostPort == 0 {
		if port.HostIP != "" {
			p.hint(path+".hostIP", "add a hostPort, or remove it", "belongs to a hostPort")
		}
		return false
	}
	p.between(path+".hostPort", int64(port.HostPort), 1, 65535)
	if s.HostNetwork && port.HostPort != port.ContainerPort {
		p.hint(path+".hostPort", "remove it", "%d is not containerPort, %d: with hostNetwork they are the same", port.HostPort, port.ContainerPort)
	}
	if port.Protocol == corev1.ProtocolSCTP && !s.HostNetwork {
		p.hint(path+".hostPort", "with hostNetwork the Pod has its node's ports themselves", "is of TCP or UDP")
	}
	if port.HostIP != "" {
		if a, err := netip.ParseAddr(port.HostIP); err != nil || !a.Is4() {
			p.add(path+".hostIP", "%q: want an IPv4 address of the node", clip(port.HostIP))
		}
	}
	return true
}

// samePlace tells whether two ports of the same node would be one.
func samePlace(a, b *corev1.ContainerPort) bool {
	every := func(ip string) bool { return ip == "" || ip == "0.0.0.0" }
	return a.HostPort == b.HostPort && a.Protocol == b.Protocol && (a.HostIP == b.HostIP || every(a.HostIP) || every(b.HostIP))
}
