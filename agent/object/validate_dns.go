package object

import (
	"net/netip"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Bounds of Kubernetes for what a resolv.conf is made of.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchBytes = 2048
	maxOptions     = 32
)

var (
	searchDomain = regexp.MustCompile(`^(\.|([a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\.?)+)$`)
	optionWord   = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)
)

// dns checks how the Pod's programs are to look names up. What is let through is
// written into a file line by line: no word of it has a space.
func (p *problems) dns(s *corev1.PodSpec, path string) {
	c := s.DNSConfig
	if s.DNSPolicy == corev1.DNSNone && (c == nil || len(c.Nameservers) == 0) {
		p.hint(path+".dnsConfig.nameservers", "with dnsPolicy None nobody else names one", "is missing")
	}
	if c == nil {
		return
	}
	path += ".dnsConfig"
	if len(c.Nameservers) > maxServers {
		p.add(path+".nameservers", "more than %d", maxServers)
	}
	for i, n := range c.Nameservers {
		if a, err := netip.ParseAddr(n); err != nil || a.Zone() != "" {
			p.add(indexed(path+".nameservers", i), "%q is no address", clip(n))
		}
	}
	if len(c.Searches) > maxSearches {
		p.add(path+".searches", "more than %d", maxSearches)
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchBytes {
		p.add(path+".searches", "longer than %d bytes together", maxSearchBytes)
	}
	for i, d := range c.Searches {
		if len(d) > 254 || !searchDomain.MatchString(d) {
			p.add(indexed(path+".searches", i), "%q is no domain", clip(d))
		}
	}
	if len(c.Options) > maxOptions {
		p.add(path+".options", "more than %d", maxOptions)
	}
	for i, o := range c.Options {
		at := indexed(path+".options", i)
		if !optionWord.MatchString(o.Name) {
			p.add(at+".name", "%q is no option of resolv.conf", clip(o.Name))
		}
		if o.Value != nil && *o.Value != "" && !optionWord.MatchString(*o.Value) {
			p.add(at+".value", "%q is no value of an option", clip(*o.Value))
		}
	}
}
