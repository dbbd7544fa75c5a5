package node

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
)

// Bounds of a resolv.conf: of nameservers the C library's resolvers heed the first
// three, of search domains Kubernetes hands on 32 and 2,048 bytes.
const (
	maxServers = 3
	maxDomains = 32
	maxSearch  = 2048
)

// resolver is what resolv.conf(5) says.
type resolver struct{ servers, domains, options []string }

// clusterResolver is where every node answers for names.
const clusterResolver = "169.254.53.53"

// resolvOf is the resolv.conf of a Pod's containers; empty: that of their image. Who
// shares the machine's network looks names up as the machine does, unless it asks for
// the cluster's. names tells whether this machine answers for those.
func resolvOf(pod *corev1.Pod, machine func(own bool) string, names bool) string {
	var r resolver
	policy := pod.Spec.DNSPolicy
	switch {
	case policy == corev1.DNSNone:
	case policy == corev1.DNSDefault, policy != corev1.DNSClusterFirstWithHostNet && pod.Spec.HostNetwork, !names:
		if machine != nil && (policy == corev1.DNSDefault || pod.Spec.HostNetwork) {
			r = parseResolv(machine(pod.Spec.HostNetwork))
		}
	default:
		const domain = object.ClusterDomain
		r = resolver{
			servers: []string{clusterResolver}, options: []string{"ndots:5"},
			domains: []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain},
		}
		if machine != nil { // and then as the machine does
			r.domains = append(r.domains, parseResolv(machine(false)).domains...)
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.servers = append(r.servers, c.Nameservers...)
		r.domains = append(r.domains, c.Searches...)
		for _, o := range c.Options {
			r.option(o)
		}
	}
	return r.String()
}

// parseResolv reads a resolv.conf. The last search or domain line holds, unknown
// lines are passed over.
func parseResolv(text string) resolver {
	var r resolver
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.ContainsAny(words[0][:1], "#;") {
			continue
		}
		switch words[0] {
		case "nameserver":
			r.servers = append(r.servers, words[1])
		case "search", "domain":
			r.domains = slices.Clone(words[1:])
		case "options":
			r.options = append(r.options, words[1:]...)
		}
	}
	return r
}

// option sets one, in place of what was said of it before.
func (r *resolver) option(o corev1.PodDNSConfigOption) {
	text := o.Name
	if o.Value != nil && *o.Value != "" {
		text += ":" + *o.Value
	}
	r.options = slices.DeleteFunc(r.options, func(have string) bool {
		name, _, _ := strings.Cut(have, ":")
		return name == o.Name
	})
	r.options = append(r.options, text)
}

// String is the file, without what is said twice and what nobody would heed.
func (r resolver) String() string {
	var out strings.Builder
	servers, domains := once(r.servers), once(r.domains)
	for _, s := range servers[:min(len(servers), maxServers)] {
		out.WriteString("nameserver " + s + "\n")
	}
	search := ""
	for _, d := range domains[:min(len(domains), maxDomains)] {
		if len(search)+1+len(d) > maxSearch {
			break
		}
		search += " " + d
	}
	if search != "" {
		out.WriteString("search" + search + "\n")
	}
	if len(r.options) > 0 {
		out.WriteString("options " + strings.Join(r.options, " ") + "\n")
	}
	return out.String()
}

// Nameservers lists those of a resolv.conf.
func Nameservers(text string) []string { return parseResolv(text).servers }

// once keeps the first of what is named more than once.
func once(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// OnlyLoopback tells whether the nameservers of a resolv.conf, of which there are
// some, are all on the machine's own loopback.
func OnlyLoopback(text string) bool {
	servers := parseResolv(text).servers
	return len(servers) > 0 && !slices.ContainsFunc(servers, func(s string) bool {
		addr, err := netip.ParseAddr(s)
		return err != nil || !addr.IsLoopback()
	})
}
