package object

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// PolicyAllow is the value of a policy that allows.
const PolicyAllow = "allow"

// policies are the annotations by which an administrator allows the Pods of a
// namespace what could harm their machine.
var policies = []string{AnnotationHostPath, AnnotationPrivileged}

func (p *problems) policies(ns *corev1.Namespace) {
	for _, key := range policies {
		if v, given := ns.Annotations[key]; given && v != PolicyAllow {
			p.hint(keyed("metadata.annotations", key), "remove it to allow nothing", "%q: want %q", clip(v), PolicyAllow)
		}
	}
}

// SamePolicies tells whether two versions of an object allow the same, nil being
// one that allows nothing. Only namespaces allow anything.
func SamePolicies(a, b Object) bool {
	for _, key := range policies {
		if policyOf(a, key) != policyOf(b, key) {
			return false
		}
	}
	return true
}

func policyOf(obj Object, key string) string {
	if ns, ok := obj.(*corev1.Namespace); ok && ns != nil {
		return ns.Annotations[key]
	}
	return ""
}

// Allows tells whether a namespace allows its Pods what a policy is about.
func Allows(ns *corev1.Namespace, policy string) bool {
	return ns != nil && ns.Annotations[policy] == PolicyAllow
}

// A Want is a field of a Pod that its namespace has to allow.
type Want struct{ Policy, Path string }

// Wants lists what a Pod, or the template of a Deployment, needs its namespace to
// allow: each policy once, with the first field that does.
func Wants(obj Object) []Want {
	spec, path := podSpecOf(obj)
	if spec == nil {
		return nil
	}
	var out []Want
	want := func(policy, path string) {
		if !slices.ContainsFunc(out, func(w Want) bool { return w.Policy == policy }) {
			out = append(out, Want{policy, path})
		}
	}
	for i := range spec.Volumes {
		if spec.Volumes[i].HostPath != nil {
			want(AnnotationHostPath, indexed(path+".volumes", i)+".hostPath")
		}
	}
	for name, list := range map[string][]corev1.Container{".initContainers": spec.InitContainers, ".containers": spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
				want(AnnotationPrivileged, indexed(path+name, i)+".securityContext.privileged")
			}
		}
	}
	return out
}

func podSpecOf(obj Object) (*corev1.PodSpec, string) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return &o.Spec, "spec"
	case *appsv1.Deployment:
		return &o.Spec.Template.Spec, "spec.template.spec"
	}
	return nil, ""
}
