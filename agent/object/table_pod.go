package object

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

var podColumns = []column[corev1.Pod]{
	{name: "NAME", cell: func(p *corev1.Pod, _ *TableOptions) string { return p.Name }},
	{name: "READY", cell: func(p *corev1.Pod, _ *TableOptions) string {
		s := summarize(p)
		return fmt.Sprintf("%d/%d", s.ready, s.all)
	}},
	{name: "STATUS", cell: func(p *corev1.Pod, _ *TableOptions) string { return PodStatus(p) }},
	{name: "RESTARTS", cell: func(p *corev1.Pod, opt *TableOptions) string {
		s := summarize(p)
		if s.restarts == 0 || s.lastExit.IsZero() {
			return strconv.Itoa(s.restarts)
		}
		return fmt.Sprintf("%d (%s ago)", s.restarts, duration.HumanDuration(opt.Now.Sub(s.lastExit)))
	}},
	{name: columnAge, cell: func(p *corev1.Pod, _ *TableOptions) string { return stamp(p.CreationTimestamp.Time) }},
	{name: "IP", wide: true, cell: func(p *corev1.Pod, _ *TableOptions) string { return orNone(p.Status.PodIP) }},
	{name: "NODE", wide: true, cell: func(p *corev1.Pod, _ *TableOptions) string { return orNone(p.Spec.NodeName) }},
	{name: "REVISION", wide: true, cell: func(p *corev1.Pod, _ *TableOptions) string {
		return orNone(p.Labels[LabelTemplateHash])
	}},
}

// A summary is what a Pod's containers come to.
type summary struct {
	all, ready int // of its own containers and sidecars
	restarts   int
	lastExit   time.Time // of a run before the present one
	status     string
}

// PodStatus returns a Pod's state in one word, as people know it from the
// STATUS column: Running, CrashLoopBackOff, Completed, Terminating.
func PodStatus(p *corev1.Pod) string { return summarize(p).status }

func summarize(p *corev1.Pod) summary {
	s := summary{status: string(p.Status.Phase), all: len(p.Spec.Containers)}
	if p.Status.Reason != "" {
		s.status = p.Status.Reason
	}
	if s.status == "" {
		s.status = string(corev1.PodPending)
	}
	if p.Spec.NodeName != "" && len(p.Status.ContainerStatuses) == 0 && s.status == string(corev1.PodPending) {
		s.status = "ContainerCreating"
	}
	if summarizeInit(p, &s) {
		return s.deleted(p)
	}
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- { // the first container has the last word
		c := &p.Status.ContainerStatuses[i]
		s.count(c)
		if c.Ready && c.State.Running != nil {
			running = true
			s.ready++
			continue
		}
		if why := containerReason(&c.State); why != "" && !endedFor(p) {
			s.status = why
		}
	}
	if s.status == "Completed" && running { // one has ended well, others run on
		s.status = "NotReady"
		if podIs(p, corev1.PodReady) {
			s.status = string(corev1.PodRunning)
		}
	}
	return s.deleted(p)
}

// endedFor tells whether the Pod has ended for a reason of its own, Evicted say, that
// says more than how its containers did.
func endedFor(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed && p.Status.Reason != "" }

// count adds the restarts of a container.
func (s *summary) count(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(s.lastExit) {
		s.lastExit = t.FinishedAt.Time
	}
}

// summarizeInit says how far the init containers are, as kubectl does, and whether
// they are what the Pod waits for. While they are, their restarts count; then
// those of sidecars do.
func summarizeInit(p *corev1.Pod, s *summary) (waits bool) {
	initialized, told := podIs(p, corev1.PodInitialized), false
	for i := range p.Spec.InitContainers {
		if IsSidecar(&p.Spec.InitContainers[i]) {
			s.all++
		}
	}
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		sidecar := i < len(p.Spec.InitContainers) && IsSidecar(&p.Spec.InitContainers[i])
		if sidecar || !initialized {
			s.count(c)
		}
		why := containerReason(&c.State)
		switch {
		case told, c.State.Terminated != nil && c.State.Terminated.ExitCode == 0:
		case sidecar && c.State.Running != nil && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
		case why != "" && why != "PodInitializing" && why != "ContainerCreating":
			s.status, told = "Init:"+why, true
		default:
			s.status, told = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers)), true
		}
	}
	return told && !initialized // else a sidecar is not up any more, and the others have their say
}

// deleted says so of a Pod that is to go.
func (s summary) deleted(p *corev1.Pod) summary {
	if p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
		s.status = "Terminating"
		if p.Status.Reason == ReasonNodeLost {
			s.status = "Unknown"
		}
	}
	return s
}

func containerReason(c *corev1.ContainerState) string {
	switch {
	case c.Waiting != nil:
		return c.Waiting.Reason
	case c.Terminated == nil:
		return ""
	case c.Terminated.Reason != "":
		return c.Terminated.Reason
	case c.Terminated.Signal != 0:
		return fmt.Sprintf("Signal:%d", c.Terminated.Signal)
	default:
		return fmt.Sprintf("ExitCode:%d", c.Terminated.ExitCode)
	}
}

func podIs(p *corev1.Pod, t corev1.PodConditionType) bool {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return p.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}
