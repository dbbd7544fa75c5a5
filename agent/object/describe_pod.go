package object

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func (d *description) pod(p *corev1.Pod) error {
	d.put("Status", PodStatus(p))
	if why := podWhy(p); why != "" {
		d.put("Because", why)
	}
	d.put("Node", orNone(strings.TrimSuffix(p.Spec.NodeName+"/"+p.Status.HostIP, "/")))
	d.put("IP", orNone(p.Status.PodIP))
	if p.Status.StartTime != nil {
		d.put("Started", d.since(*p.Status.StartTime))
	}
	if owner := controllerName(p); owner != "" {
		d.put("Controlled by", "revision/"+owner)
	}
	d.podSpec(&p.Spec, slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses))
	var list []condition
	for _, c := range p.Status.Conditions {
		list = append(list, condition{string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime})
	}
	d.conditions(list)
	return nil
}

// podWhy tells why a Pod is not simply running, in the words of whoever said so
// last.
func podWhy(p *corev1.Pod) string {
	if p.Status.Message != "" {
		return oneLine(p.Status.Message)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return oneLine(c.Message)
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && w.Message != "" {
			return "container " + c.Name + ": " + oneLine(w.Message)
		}
		if t := c.State.Terminated; t != nil && t.Message != "" {
			return "container " + c.Name + ": " + oneLine(t.Message)
		}
	}
	return ""
}

// podSpec tells what a Pod or template asks for; statuses are empty for a
// template.
func (d *description) podSpec(s *corev1.PodSpec, statuses []corev1.ContainerStatus) {
	d.put("Restart policy", string(s.RestartPolicy))
	if s.TerminationGracePeriodSeconds != nil {
		d.put("Grace", fmt.Sprintf("%ds", *s.TerminationGracePeriodSeconds))
	}
	if s.HostNetwork {
		d.put("Network", "its node's")
	}
	if OwnUsers(s) {
		d.put("Users", "its own")
	}
	if len(s.NodeSelector) > 0 {
		d.many("Node selector", pairs(s.NodeSelector, "="))
	}
	if len(s.InitContainers) > 0 {
		d.containers(initTitle, s.InitContainers, statuses)
	}
	d.containers("Containers", s.Containers, statuses)
	d.volumes(s.Volumes)
}

const initTitle = "Init containers"

func (d *description) containers(title string, list []corev1.Container, statuses []corev1.ContainerStatus) {
	d.title(title)
	for i := range list {
		c := &list[i]
		var status *corev1.ContainerStatus
		if at := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name }); at >= 0 {
			status = &statuses[at]
		}
		d.title(c.Name)
		d.container(c, status, title == initTitle && IsSidecar(c))
		d.end()
	}
	d.end()
}

func (d *description) container(c *corev1.Container, status *corev1.ContainerStatus, sidecar bool) {
	d.put("Image", c.Image+" ("+string(c.ImagePullPolicy)+")")
	if status != nil {
		d.put("Image ID", orNone(status.ImageID))
		d.put("Container ID", orNone(status.ContainerID))
		d.state("State", &status.State)
		if last := &status.LastTerminationState; last.Terminated != nil {
			d.state("Before", last)
		}
		d.put("Ready", yesNo(status.Ready))
		d.put("Restarts", itoa(status.RestartCount))
	}
	d.ending(c, sidecar)
	if l := c.Lifecycle; l != nil {
		for _, h := range []struct {
			name string
			h    *corev1.LifecycleHandler
		}{{"After its start", l.PostStart}, {"Before its stop", l.PreStop}} {
			if h.h != nil {
				d.put(h.name, hookText(h.h))
			}
		}
		if l.StopSignal != nil {
			d.put("Stop signal", string(*l.StopSignal))
		}
	}
	if len(c.Command) > 0 {
		d.put("Command", quoted(c.Command))
	}
	if len(c.Args) > 0 {
		d.put("Arguments", quoted(c.Args))
	}
	var ports []string
	for _, p := range c.Ports {
		text := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		if p.HostPort > 0 {
			text += " at its node's " + strings.TrimPrefix(p.HostIP+":", ":") + itoa(p.HostPort)
		}
		ports = append(ports, text)
	}
	if len(ports) > 0 {
		d.put("Ports", strings.Join(ports, ", "))
	}
	d.put("Requests", amounts(c.Resources.Requests))
	d.put("Limits", amounts(c.Resources.Limits))
	for _, p := range []struct {
		name  string
		probe *corev1.Probe
	}{{"Startup probe", c.StartupProbe}, {"Readiness probe", c.ReadinessProbe}, {"Liveness probe", c.LivenessProbe}} {
		if p.probe != nil {
			d.put(p.name, probeText(p.probe))
		}
	}
	var env []string
	for _, e := range c.Env {
		value := clipTo(e.Value, 200)
		if e.ValueFrom != nil {
			value = valueText(e.ValueFrom)
		}
		env = append(env, e.Name+"="+value)
	}
	if len(env) > 0 {
		d.many("Environment", env)
	}
	d.mounted(c)
}

// ending tells what happens when a container ends, where that is not as usual.
func (d *description) ending(c *corev1.Container, sidecar bool) {
	switch {
	case sidecar:
		d.put("Runs", "beside the others, as long as the Pod does")
	case c.RestartPolicy != nil:
		text := string(*c.RestartPolicy)
		for _, r := range c.RestartPolicyRules {
			if r.ExitCodes != nil {
				text += fmt.Sprintf("; %s if its exit code is %s %v", r.Action, map[bool]string{true: "in", false: "not in"}[r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn], r.ExitCodes.Values)
			}
		}
		d.put("Restart policy", text)
	}
	var words []string
	if at := c.TerminationMessagePath; at != "" && at != corev1.TerminationMessagePathDefault {
		words = append(words, "read from "+at)
	}
	if c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		words = append(words, "else the end of its output, after an error")
	}
	if len(words) > 0 {
		d.put("Last words", strings.Join(words, ", "))
	}
}

func hookText(h *corev1.LifecycleHandler) string {
	switch {
	case h.Exec != nil:
		return "exec " + quoted(h.Exec.Command)
	case h.HTTPGet != nil:
		return "GET " + h.HTTPGet.Path + " at port " + h.HTTPGet.Port.String()
	case h.Sleep != nil:
		return fmt.Sprintf("sleep %ds", h.Sleep.Seconds)
	}
	return none
}

// state tells what a container is or was doing, since when, and how it ended.
func (d *description) state(name string, s *corev1.ContainerState) {
	switch {
	case s.Running != nil:
		d.put(name, "running since "+d.since(s.Running.StartedAt))
	case s.Waiting != nil:
		text := "waiting: " + orNone(s.Waiting.Reason)
		if s.Waiting.Message != "" {
			text += ": " + oneLine(s.Waiting.Message)
		}
		d.put(name, text)
	case s.Terminated != nil:
		t := s.Terminated
		text := fmt.Sprintf("ended %s: %s, exit code %d", d.since(t.FinishedAt), orNone(t.Reason), t.ExitCode)
		if t.Signal != 0 {
			text += fmt.Sprintf(", signal %d", t.Signal)
		}
		if !t.StartedAt.IsZero() && !t.FinishedAt.IsZero() {
			text += fmt.Sprintf(", after %s", t.FinishedAt.Sub(t.StartedAt.Time))
		}
		if t.Message != "" {
			text += ": " + oneLine(t.Message)
		}
		d.put(name, text)
	default:
		d.put(name, "waiting")
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func quoted(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if out[i] = a; a == "" || strings.ContainsAny(a, " \t\n\"'\\$`|&;<>()*?[]#~") {
			out[i] = strconv.Quote(clipTo(a, 200))
		}
	}
	return strings.Join(out, " ")
}

func amounts(list corev1.ResourceList) string {
	var out []string
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods} {
		if q, ok := list[name]; ok {
			out = append(out, string(name)+" "+q.String())
		}
	}
	if len(out) == 0 {
		return none
	}
	return strings.Join(out, ", ")
}

// probeText says in a sentence what is tried, and what follows.
func probeText(p *corev1.Probe) string {
	what := "nothing"
	switch {
	case p.Exec != nil:
		what = "exec " + quoted(p.Exec.Command)
	case p.HTTPGet != nil:
		what = fmt.Sprintf("GET %s://:%s%s", strings.ToLower(string(p.HTTPGet.Scheme)), p.HTTPGet.Port.String(), p.HTTPGet.Path)
	case p.TCPSocket != nil:
		what = "connect to tcp port " + p.TCPSocket.Port.String()
	case p.GRPC != nil:
		what = fmt.Sprintf("grpc health check on port %d", p.GRPC.Port)
		if p.GRPC.Service != nil && *p.GRPC.Service != "" {
			what += " of " + *p.GRPC.Service
		}
	}
	text := fmt.Sprintf("%s every %ds, timeout %ds", what, p.PeriodSeconds, p.TimeoutSeconds)
	if p.InitialDelaySeconds > 0 {
		text += fmt.Sprintf(", first after %ds", p.InitialDelaySeconds)
	}
	return text + fmt.Sprintf("; bad after %d in a row, good after %d", p.FailureThreshold, p.SuccessThreshold)
}
