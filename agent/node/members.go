package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/container"
)

// A role is the part that a container plays in its Pod.
type role int

const (
	roleApp     role = iota
	roleInit         // runs to its end before what comes after it
	roleSidecar      // starts before what comes after it, and runs as long as the Pod does
)

// A member is one container of a Pod with its role.
type member struct {
	*corev1.Container
	role role
	once bool // is never run twice
}

// membersOf lists a Pod's containers in the order in which they start.
func membersOf(pod *corev1.Pod) []member {
	out := make([]member, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		m := member{Container: c, role: roleInit}
		if object.IsSidecar(c) {
			m.role = roleSidecar
		}
		m.once = policyOf(pod, m) == corev1.RestartPolicyNever
		out = append(out, m)
	}
	for i := range pod.Spec.Containers {
		out = append(out, member{Container: &pod.Spec.Containers[i]})
	}
	return out
}

// policyOf is when a container is restarted: as it says itself, else as its Pod
// does, save that one that runs to its end is not once it has done so well.
func policyOf(pod *corev1.Pod, m member) corev1.RestartPolicy {
	switch {
	case m.role == roleSidecar:
		return corev1.RestartPolicyAlways
	case m.RestartPolicy != nil:
		return corev1.RestartPolicy(*m.RestartPolicy)
	case m.role == roleInit && pod.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		return corev1.RestartPolicyOnFailure
	}
	return pod.Spec.RestartPolicy
}

// restarts tells whether a container is to run again after that run of it.
func restarts(pod *corev1.Pod, m member, last container.Status) bool {
	policy := policyOf(pod, m)
	if m.role == roleInit && last.Stale && last.ExitCode == 0 {
		return policy != corev1.RestartPolicyNever // what it did may be gone with the sandbox
	}
	if slices.ContainsFunc(m.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool { return r.ExitCodes != nil && endedSo(r.ExitCodes, last) }) {
		return true
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return last.ExitCode != 0
	default:
		return true
	}
}

// endedSo tells whether a run ended as a rule for restarts says.
func endedSo(codes *corev1.ContainerRestartRuleOnExitCodes, last container.Status) bool {
	code := int32(last.ExitCode) //nolint:gosec // -1 … 255
	if code < 0 {
		code = unknownCode
	}
	return slices.Contains(codes.Values, code) == (codes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

// due tells how many of a Pod's members may run by now: those before the first that
// has to end or to be up before others start, and that one. started tells whether
// a sidecar is up.
func due(members []member, have []container.Status, started func(name string) bool) int {
	for _, m := range members {
		if attempts := attemptsOf(m.Name, have); m.role == roleApp && len(attempts) > 0 && !attempts[0].Stale {
			return len(members) // that was once so, and does not begin anew when a sidecar fails
		}
	}
	for i, m := range members {
		switch {
		case m.role == roleInit && !m.succeeded(have), m.role == roleSidecar && !started(m.Name):
			return i + 1
		}
	}
	return len(members)
}

// succeeded tells whether a container has run to its end well, and need not do so
// again.
func (m member) succeeded(have []container.Status) bool {
	return slices.ContainsFunc(have, func(s container.Status) bool {
		return s.ID.Name == m.Name && s.State == container.Exited && s.ExitCode == 0 && (!s.Stale || m.once)
	})
}

// waitsFor names what has to end, or to be up, before a Pod's own containers start.
func waitsFor(members []member, have []container.Status, started func(name string) bool) (names []string) {
	n := due(members, have, started)
	if members[n-1].role == roleApp {
		return nil
	}
	for _, m := range members[n-1:] {
		if m.role == roleInit && !m.succeeded(have) || m.role == roleSidecar && !started(m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

// over tells whether a Pod's own containers have all ended for good.
func over(pod *corev1.Pod, have []container.Status) bool {
	for i := range pod.Spec.Containers {
		if !(member{Container: &pod.Spec.Containers[i]}).ended(pod, have) {
			return false
		}
	}
	return true
}

// ended tells whether a container has ended for good.
func (m member) ended(pod *corev1.Pod, have []container.Status) bool {
	attempts := attemptsOf(m.Name, have)
	return len(attempts) > 0 && attempts[0].State == container.Exited && !restarts(pod, m, attempts[0])
}

// stuck tells whether what has to end well before others start has ended badly,
// for good.
func stuck(pod *corev1.Pod, have []container.Status) bool {
	return slices.ContainsFunc(membersOf(pod), func(m member) bool {
		return m.role == roleInit && m.ended(pod, have) && !m.succeeded(have)
	})
}

// lapses orders containers for their end: those in one group stop side by side, the
// sidecars after all others, one by one, the last to start first.
func lapses(pod *corev1.Pod, list []container.Status) [][]container.Status {
	var rest []container.Status
	sidecars := map[string][]container.Status{}
	var names []string
	if pod != nil {
		for _, m := range membersOf(pod) {
			if m.role == roleSidecar {
				names = append(names, m.Name)
			}
		}
	}
	for _, s := range list {
		if slices.Contains(names, s.ID.Name) {
			sidecars[s.ID.Name] = append(sidecars[s.ID.Name], s)
		} else {
			rest = append(rest, s)
		}
	}
	out := [][]container.Status{rest}
	for _, name := range slices.Backward(names) {
		out = append(out, sidecars[name])
	}
	return out
}
