package object

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// OwnUsers tells whether the Pod's users are nobody on its machine.
func OwnUsers(s *corev1.PodSpec) bool { return s.HostUsers != nil && !*s.HostUsers }

// OffersUsers tells whether a node has users for such Pods, as its status says in
// Kubernetes' words: of its one runtime handler.
func OffersUsers(s *corev1.NodeStatus) bool {
	return slices.ContainsFunc(s.RuntimeHandlers, func(h corev1.NodeRuntimeHandler) bool {
		return h.Features != nil && h.Features.UserNamespaces != nil && *h.Features.UserNamespaces
	})
}

// maxOwnID is the highest user and group that a Pod with users of its own has.
const maxOwnID = 65535

// ownUsers refuses what a Pod with users of its own cannot have: what is the
// machine's, and users that it does not have.
func (p *problems) ownUsers(s *corev1.PodSpec, path string) {
	if !OwnUsers(s) {
		return
	}
	for field, set := range map[string]bool{
		"hostNetwork": s.HostNetwork, "hostPID": s.HostPID, "hostIPC": s.HostIPC,
		"shareProcessNamespace": s.ShareProcessNamespace != nil && *s.ShareProcessNamespace,
	} {
		if set {
			p.hint(path+"."+field, "with hostUsers: false the Pod's users rule over namespaces of its own alone", "cannot be true together with hostUsers: false")
		}
	}
	id := func(n *int64, at string) {
		if n != nil && *n > maxOwnID {
			p.add(at, "%d: with hostUsers: false there are users and groups up to %d", *n, maxOwnID)
		}
	}
	if c := s.SecurityContext; c != nil {
		at := path + ".securityContext"
		id(c.RunAsUser, at+".runAsUser")
		id(c.RunAsGroup, at+".runAsGroup")
		id(c.FSGroup, at+".fsGroup")
		for i := range c.SupplementalGroups {
			id(&c.SupplementalGroups[i], indexed(at+".supplementalGroups", i))
		}
	}
	each := func(list []corev1.Container, at string) {
		for i := range list {
			if c := list[i].SecurityContext; c != nil {
				id(c.RunAsUser, indexed(at, i)+".securityContext.runAsUser")
				id(c.RunAsGroup, indexed(at, i)+".securityContext.runAsGroup")
			}
		}
	}
	each(s.InitContainers, path+".initContainers")
	each(s.Containers, path+".containers")
}
