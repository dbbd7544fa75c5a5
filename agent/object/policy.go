package object

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// PolicyAllow is the value of a policy that allows.
const PolicyAllow = "allow"

// policies are the annotations by which an administrator allows the Pods of a
// namespace what could harm their machine.
var policies = []string{AnnotationHostPath, AnnotationPrivileged, AnnotationCapabilities}

func (p *problems) policies(ns *corev1.Namespace) {
	for _, key := range policies {
		v, given := ns.Annotations[key]
		switch {
		case !given:
		case key == AnnotationCapabilities:
			for _, name := range strings.Split(v, ",") {
				p.capability(strings.TrimSpace(name), keyed("metadata.annotations", key))
			}
		case v != PolicyAllow:
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

// DefaultCapabilities are those that a container has unless it drops them, as
// Docker has it. To ask for them takes nobody's word.
func DefaultCapabilities() []string { return slices.Clone(defaultCapabilities) }

var defaultCapabilities = strings.Fields(`AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW
	SETFCAP SETGID SETPCAP SETUID SYS_CHROOT`)

// capabilitiesOf are those that a namespace allows beyond the default.
func capabilitiesOf(ns *corev1.Namespace) []string {
	if ns == nil || ns.Annotations[AnnotationCapabilities] == "" {
		return nil
	}
	out := strings.Split(ns.Annotations[AnnotationCapabilities], ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

// A Want is a field of a Pod that its namespace has to allow.
type Want struct{ Policy, Value, Path string }

// AllowedBy tells whether a namespace allows what is wanted. One that allows
// privileged containers allows any capability.
func (w Want) AllowedBy(ns *corev1.Namespace) bool {
	if ns == nil {
		return false
	}
	if w.Policy != AnnotationCapabilities {
		return ns.Annotations[w.Policy] == PolicyAllow
	}
	have := capabilitiesOf(ns)
	return ns.Annotations[AnnotationPrivileged] == PolicyAllow || slices.Contains(have, w.Value) || slices.Contains(have, "ALL")
}

// Annotation is what an administrator sets on a namespace to allow what is wanted.
func (w Want) Annotation() string {
	if w.Policy == AnnotationCapabilities {
		return w.Policy + ": " + w.Value + " (a list, by commas)"
	}
	return w.Policy + ": " + PolicyAllow
}

// PoliciesOf lists what a namespace allows its Pods, sorted: policies, and each
// capability as [CapabilitiesIn] reads it.
func PoliciesOf(ns *corev1.Namespace) []string {
	var out []string
	for _, key := range policies {
		if ns != nil && ns.Annotations[key] == PolicyAllow {
			out = append(out, key)
		}
	}
	for _, name := range capabilitiesOf(ns) {
		out = append(out, AnnotationCapabilities+"="+name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CapabilitiesIn picks the capabilities out of what [PoliciesOf] lists.
func CapabilitiesIn(allows []string) []string {
	var out []string
	for _, a := range allows {
		if name, ok := strings.CutPrefix(a, AnnotationCapabilities+"="); ok {
			out = append(out, name)
		}
	}
	return out
}

// Wants lists what a Pod, or the template of a Deployment, needs its namespace to
// allow: each policy once for each of its values, with the first field that does.
func Wants(obj Object) []Want {
	spec, path := podSpecOf(obj)
	if spec == nil {
		return nil
	}
	var out []Want
	want := func(policy, value, path string) {
		if !slices.ContainsFunc(out, func(w Want) bool { return w.Policy == policy && w.Value == value }) {
			out = append(out, Want{policy, value, path})
		}
	}
	for i := range spec.Volumes {
		if spec.Volumes[i].HostPath != nil {
			want(AnnotationHostPath, "", indexed(path+".volumes", i)+".hostPath")
		}
	}
	if spec.HostPID {
		want(AnnotationPrivileged, "", path+".hostPID")
	}
	if spec.HostIPC {
		want(AnnotationPrivileged, "", path+".hostIPC")
	}
	for _, set := range []struct {
		name string
		list []corev1.Container
	}{{".initContainers", spec.InitContainers}, {".containers", spec.Containers}} {
		for i := range set.list {
			sc := set.list[i].SecurityContext
			if sc == nil {
				continue
			}
			at := indexed(path+set.name, i) + ".securityContext"
			if sc.Privileged != nil && *sc.Privileged {
				want(AnnotationPrivileged, "", at+".privileged")
				continue // it has them all
			}
			if sc.Capabilities == nil {
				continue
			}
			for j, c := range sc.Capabilities.Add {
				if !slices.Contains(defaultCapabilities, string(c)) {
					want(AnnotationCapabilities, string(c), indexed(at+".capabilities.add", j))
				}
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
