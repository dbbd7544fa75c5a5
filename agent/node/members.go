package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

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
}

// membersOf lists a Pod's containers in the order in which they start.
func membersOf(pod *corev1.Pod) []member {
	out := make([]member, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		m := member{c, roleInit}
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			m.role = roleSidecar
		}
		out = append(out, m)
	}
	for i := range pod.Spec.Containers {
		out = append(out, member{&pod.Spec.Containers[i], roleApp})
	}
	return out
}

// policyOf is when a container is restarted: one that runs to its end until it has
// done so well, where the Pod restarts anything at all.
func policyOf(pod *corev1.Pod, r role) corev1.RestartPolicy {
	switch {
	case r == roleSidecar:
		return corev1.RestartPolicyAlways
	case r == roleInit && pod.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		return corev1.RestartPolicyOnFailure
	}
	return pod.Spec.RestartPolicy
}

// due tells how many of a Pod's members may run by now: those before the first that
// has to end or to be up before others start, and that one. started tells whether
// a sidecar is up.
func due(members []member, have []container.Status, started func(name string) bool) int {
	for _, m := range members {
		if m.role == roleApp && len(attemptsOf(m.Name, have)) > 0 {
			return len(members) // that was once so, and does not begin anew when a sidecar fails
		}
	}
	for i, m := range members {
		switch {
		case m.role == roleInit && !succeeded(m.Name, have), m.role == roleSidecar && !started(m.Name):
			return i + 1
		}
	}
	return len(members)
}

// succeeded tells whether a container has run to its end well.
func succeeded(name string, have []container.Status) bool {
	return slices.ContainsFunc(have, func(s container.Status) bool {
		return s.ID.Name == name && s.State == container.Exited && s.ExitCode == 0
	})
}

// waitsFor names what has to end, or to be up, before a Pod's own containers start.
func waitsFor(members []member, have []container.Status, started func(name string) bool) (names []string) {
	n := due(members, have, started)
	if members[n-1].role == roleApp {
		return nil
	}
	for _, m := range members[n-1:] {
		if m.role == roleInit && !succeeded(m.Name, have) || m.role == roleSidecar && !started(m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

// over tells whether a Pod's own containers have all ended for good.
func over(pod *corev1.Pod, have []container.Status) bool {
	for i := range pod.Spec.Containers {
		attempts := attemptsOf(pod.Spec.Containers[i].Name, have)
		if len(attempts) == 0 || attempts[0].State == container.Running || restarts(pod.Spec.RestartPolicy, attempts[0]) {
			return false
		}
	}
	return true
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
