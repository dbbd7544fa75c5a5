package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/runtime/container"
)

// A view is what the status of a Pod is made from.
type view struct {
	pod     *corev1.Pod
	have    []container.Status
	notes   map[string]*note        // by container name
	health  map[string]health       // by container name
	words   map[container.ID]string // last ones, of those that have ended
	evicted string                  // why it ends for taking more than it may; empty: it does not
	expired bool                    // its active deadline is over
	waits   []string                // what has to end or to be up before the Pod's own containers start
	hostIP  string
	podIP   string // its own, empty: it has none
	now     time.Time
}

// health is what probes say of a running container. Without probes both hold.
type health struct {
	started, ready bool

	why  string // transcript of the failure that explains why not, "" if none is known
	told bool   // as an event
}

// podStatus computes the whole status of a Pod from what was seen. Times of
// conditions and of the start are kept from the old status where nothing changed.
func podStatus(v view) corev1.PodStatus {
	old := v.pod.Status
	out := corev1.PodStatus{
		HostIP:             v.hostIP,
		StartTime:          old.StartTime,
		QOSClass:           qos(v.pod),
		ObservedGeneration: v.pod.Generation,
	}
	if out.StartTime == nil {
		out.StartTime = &metav1.Time{Time: v.now.Truncate(time.Second)}
	}
	if out.PodIP = v.podIP; v.pod.Spec.HostNetwork {
		out.PodIP = v.hostIP
	}
	if out.PodIP != "" {
		out.PodIPs = []corev1.PodIP{{IP: out.PodIP}}
	}
	if v.hostIP != "" {
		out.HostIPs = []corev1.HostIP{{IP: v.hostIP}}
	}
	for _, m := range membersOf(v.pod) {
		s := containerStatus(v, m)
		if m.role == roleApp {
			out.ContainerStatuses = append(out.ContainerStatuses, s)
		} else {
			out.InitContainerStatuses = append(out.InitContainerStatuses, s)
		}
	}
	out.Phase = phase(v, out)
	if v.expired && !(out.Phase == corev1.PodSucceeded && over(v.pod, v.have)) && !slices.ContainsFunc(v.have, func(s container.Status) bool { return s.State == container.Running }) {
		out.Phase, out.Reason = corev1.PodFailed, "DeadlineExceeded"
		out.Message = fmt.Sprintf("it was active for longer than its activeDeadlineSeconds, %d", *v.pod.Spec.ActiveDeadlineSeconds)
	}
	if v.evicted != "" && !slices.ContainsFunc(v.have, func(s container.Status) bool { return s.State == container.Running }) {
		out.Phase, out.Reason, out.Message = corev1.PodFailed, reasonEvicted, v.evicted
	}
	setConditions(&out, v)
	return out
}

func containerStatus(v view, m member) corev1.ContainerStatus {
	c := m.Container
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
	attempts := attemptsOf(c.Name, v.have)
	waiting := func(n *note) {
		if n == nil && len(v.waits) > 0 && !slices.Contains(v.waits[:1], c.Name) {
			n = &note{reason: "PodInitializing"}
		}
		if n == nil {
			n = &note{reason: "ContainerCreating"}
		}
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: n.reason, Message: n.message}
	}
	if len(attempts) == 0 {
		waiting(v.notes[c.Name])
		no := false
		s.Started = &no
		return s
	}
	last := attempts[0]
	s.RestartCount = int32(last.ID.Attempt) //nolint:gosec // a count of restarts, each of which took milliseconds
	s.ContainerID = "runc://" + last.ID.String()
	s.ImageID = last.Labels[labelImage]
	if len(attempts) > 1 {
		s.LastTerminationState.Terminated = v.terminated(attempts[1])
	}
	if last.State == container.Running {
		h := v.health[c.Name]
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.Time{Time: last.StartedAt.Truncate(time.Second)}}
		s.Started, s.Ready = &h.started, h.ready
		return s
	}
	no := false
	s.Started = &no
	if !restarts(v.pod, m, last) || over(v.pod, v.have) || v.expired || v.evicted != "" {
		s.State.Terminated = v.terminated(last)
		s.Ready = m.role == roleInit && last.ExitCode == 0
		return s
	}
	s.LastTerminationState.Terminated = v.terminated(last)
	n := v.notes[c.Name]
	if n == nil && len(v.waits) == 0 {
		n = &note{"CrashLoopBackOff", "restarting"}
	}
	waiting(n)
	return s
}

func phase(v view, status corev1.PodStatus) corev1.PodPhase {
	switch {
	case stuck(v.pod, v.have):
		return corev1.PodFailed
	case len(v.waits) > 0:
		return corev1.PodPending
	}
	var running, succeeded, failed, waiting int
	for i, m := range membersOf(v.pod)[:len(status.InitContainerStatuses)] {
		if m.role == roleSidecar && over(v.pod, v.have) && status.InitContainerStatuses[i].State.Running != nil {
			running++ // it is about to be stopped
		}
	}
	for _, s := range status.ContainerStatuses {
		switch {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0:
			succeeded++
		case s.State.Terminated != nil:
			failed++
		case s.LastTerminationState.Terminated != nil:
			running++ // between two runs
		default:
			waiting++
		}
	}
	switch {
	case waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	default:
		return corev1.PodSucceeded
	}
}

func setConditions(out *corev1.PodStatus, v view) {
	old, now := v.pod.Status, v.now
	var unready []string
	for i, m := range membersOf(v.pod)[:len(out.InitContainerStatuses)] {
		if s := &out.InitContainerStatuses[i]; m.role == roleSidecar && !s.Ready && !over(v.pod, v.have) {
			unready = append(unready, s.Name)
		}
	}
	for _, s := range out.ContainerStatuses {
		if !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	ready := corev1.PodCondition{Status: corev1.ConditionTrue}
	switch {
	case out.Phase == corev1.PodSucceeded:
		ready = corev1.PodCondition{Status: corev1.ConditionFalse, Reason: "PodCompleted"}
	case len(unready) > 0:
		ready = corev1.PodCondition{Status: corev1.ConditionFalse, Reason: "ContainersNotReady", Message: notReady(v, out, unready)}
	}
	for _, t := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		c := ready
		if t == corev1.PodInitialized {
			c = corev1.PodCondition{Status: corev1.ConditionTrue}
			if len(v.waits) > 0 {
				c = corev1.PodCondition{
					Status: corev1.ConditionFalse, Reason: "ContainersNotInitialized",
					Message: "waiting for " + strings.Join(v.waits, ", "),
				}
			}
		}
		c.Type, c.LastTransitionTime = t, metav1.Time{Time: now.Truncate(time.Second)}
		out.Conditions = append(out.Conditions, c)
	}
	for _, c := range old.Conditions { // the scheduler's, and those that nobody here sets
		if c.Type != corev1.PodInitialized && c.Type != corev1.PodReady && c.Type != corev1.ContainersReady {
			out.Conditions = append(out.Conditions, c)
		}
	}
	for i := range out.Conditions {
		for _, before := range old.Conditions {
			if before.Type == out.Conditions[i].Type && before.Status == out.Conditions[i].Status {
				out.Conditions[i].LastTransitionTime = before.LastTransitionTime
			}
		}
	}
	slices.SortStableFunc(out.Conditions, func(a, b corev1.PodCondition) int { return conditionOrder(a.Type) - conditionOrder(b.Type) })
}

func conditionOrder(t corev1.PodConditionType) int {
	return slices.Index([]corev1.PodConditionType{
		corev1.ContainersReady, corev1.PodReady, corev1.PodInitialized, corev1.PodScheduled,
	}, t)
}

// notReady says in one line what the Pod waits for.
func notReady(v view, out *corev1.PodStatus, unready []string) string {
	because := func(name, text string) string {
		if why := v.health[name].why; why != "" {
			return text + ": " + why
		}
		return text
	}
	for _, s := range slices.Concat(out.InitContainerStatuses, out.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && w.Reason != "PodInitializing" {
			if w.Message == "" {
				return "container " + s.Name + ": " + w.Reason
			}
			return "container " + s.Name + ": " + w.Reason + ": " + w.Message
		}
	}
	for i, m := range membersOf(v.pod)[:len(out.InitContainerStatuses)] {
		if s := out.InitContainerStatuses[i]; m.role == roleInit && s.State.Running != nil {
			return "init container " + s.Name + " runs"
		}
	}
	for _, s := range slices.Concat(out.InitContainerStatuses, out.ContainerStatuses) {
		if s.Started != nil && !*s.Started && s.State.Running != nil {
			if c := containerNamed(v.pod, s.Name); c != nil && c.StartupProbe == nil {
				return "container " + s.Name + " runs, but its postStart is not over yet"
			}
			return because(s.Name, "container "+s.Name+" runs, but its startup probe has not succeeded yet")
		}
	}
	return because(unready[0], "container "+unready[0]+" is not ready")
}

func qos(pod *corev1.Pod) corev1.PodQOSClass {
	if guaranteed(pod) {
		return corev1.PodQOSGuaranteed
	}
	for _, c := range membersOf(pod) {
		for _, list := range []corev1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
			if !list.Cpu().IsZero() || !list.Memory().IsZero() {
				return corev1.PodQOSBurstable
			}
		}
	}
	return corev1.PodQOSBestEffort
}
