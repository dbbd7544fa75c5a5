package object

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (p *problems) probe(probe *corev1.Probe, c *corev1.Container, container, name string) {
	path := container + "." + name
	p.handler(probe, c, path)
	const most = 1<<31 - 1
	p.between(path+".initialDelaySeconds", int64(probe.InitialDelaySeconds), 0, most)
	p.between(path+".timeoutSeconds", int64(probe.TimeoutSeconds), 1, most)
	p.between(path+".periodSeconds", int64(probe.PeriodSeconds), 1, most)
	p.between(path+".failureThreshold", int64(probe.FailureThreshold), 1, most)
	if g := probe.TerminationGracePeriodSeconds; g != nil {
		p.between(path+".terminationGracePeriodSeconds", *g, 1, most)
		if name == "readinessProbe" {
			p.add(path+".terminationGracePeriodSeconds", "a readinessProbe stops nothing")
		}
	}
	if p.between(path+".successThreshold", int64(probe.SuccessThreshold), 1, most) &&
		probe.SuccessThreshold != 1 && name != "readinessProbe" {
		p.add(path+".successThreshold", "%d: a %s succeeds at once, it must be 1", probe.SuccessThreshold, name)
	}
}

func (p *problems) handler(probe *corev1.Probe, c *corev1.Container, path string) {
	handlers := 0
	if probe.Exec != nil {
		handlers++
		if len(probe.Exec.Command) == 0 {
			p.add(path+".exec.command", "is missing")
		}
		p.argv(probe.Exec.Command, path+".exec.command")
	}
	if probe.HTTPGet != nil {
		handlers++
		p.httpGet(probe.HTTPGet, c, path+".httpGet")
	}
	if probe.TCPSocket != nil {
		handlers++
		p.probePort(probe.TCPSocket.Port, c, path+".tcpSocket.port")
	}
	if probe.GRPC != nil {
		handlers++
		p.between(path+".grpc.port", int64(probe.GRPC.Port), 1, 65535)
	}
	switch {
	case handlers == 0:
		p.add(path, "names nothing to try: write one of exec, httpGet, tcpSocket, grpc")
	case handlers > 1:
		p.add(path, "may have only one of exec, httpGet, tcpSocket, grpc")
	}
}

func (p *problems) httpGet(get *corev1.HTTPGetAction, c *corev1.Container, path string) {
	p.probePort(get.Port, c, path+".port")
	if get.Scheme != corev1.URISchemeHTTP && get.Scheme != corev1.URISchemeHTTPS {
		p.add(path+".scheme", "%q: want HTTP or HTTPS", clip(string(get.Scheme)))
	}
	if !printable(get.Path) {
		p.add(path+".path", "%q holds control characters", clip(get.Path))
	}
	for i, h := range get.HTTPHeaders {
		at := indexed(path+".httpHeaders", i)
		p.each(at+".name", h.Name, validation.IsHTTPHeaderName(h.Name))
		if !printable(h.Value) {
			p.add(at+".value", "holds control characters")
		}
	}
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
}

// probePort is a number, or the name of one of the container's ports.
func (p *problems) probePort(port intstr.IntOrString, c *corev1.Container, path string) {
	if port.Type == intstr.Int {
		p.between(path, int64(port.IntVal), 1, 65535)
		return
	}
	var names []string
	for _, have := range c.Ports {
		if have.Name == port.StrVal {
			return
		}
		if have.Name != "" {
			names = append(names, have.Name)
		}
	}
	if near := nearest(port.StrVal, names); near != "" {
		p.add(path, "the container has no port named %q; did you mean %s?", clip(port.StrVal), near)
		return
	}
	p.add(path, "the container has no port named %q", clip(port.StrVal))
}
