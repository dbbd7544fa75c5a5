package object

import (
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Bounds of Kubernetes for rules about restarts.
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

// IsSidecar tells whether an init container runs as long as its Pod does. Of others
// it says that they are where their own restartPolicy is Always.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// ending checks what is to happen when a container ends.
func (p *problems) ending(c *corev1.Container, at string) {
	if r := c.RestartPolicy; r != nil {
		switch *r {
		case corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever:
		default:
			p.add(at+".restartPolicy", "%q: want Always, OnFailure or Never", clip(string(*r)))
		}
	} else if len(c.RestartPolicyRules) > 0 {
		p.add(at+".restartPolicy", "is missing: rules add to it")
	}
	p.restartRules(c.RestartPolicyRules, at+".restartPolicyRules")
	switch c.TerminationMessagePolicy {
	case "", corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError:
	default:
		p.add(at+".terminationMessagePolicy", "%q: want File or FallbackToLogsOnError", clip(string(c.TerminationMessagePolicy)))
	}
	file := c.TerminationMessagePath
	switch {
	case file == "":
	case !path.IsAbs(file) || path.Clean(file) != file || file == "/" || strings.ContainsRune(file, 0):
		p.add(at+".terminationMessagePath", "%q: want the clean absolute path of a file", clip(file))
	case strings.HasPrefix(file+"/", "/proc/"), strings.HasPrefix(file+"/", "/sys/"):
		p.add(at+".terminationMessagePath", "%q is the kernel's", clip(file))
	case slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return path.Clean(m.MountPath) == file }):
		p.add(at+".terminationMessagePath", "%q: a volume is mounted there", clip(file))
	}
}

func (p *problems) restartRules(rules []corev1.ContainerRestartRule, at string) {
	if len(rules) > maxRestartRules {
		p.add(at, "more than %d", maxRestartRules)
		return
	}
	for i := range rules {
		at := indexed(at, i)
		if rules[i].Action == "" {
			p.add(at+".action", "is missing: write Restart")
		}
		codes := rules[i].ExitCodes
		if codes == nil {
			p.add(at+".exitCodes", "is missing: it says when the rule holds")
			continue
		}
		if codes.Operator != corev1.ContainerRestartRuleOnExitCodesOpIn && codes.Operator != corev1.ContainerRestartRuleOnExitCodesOpNotIn {
			p.add(at+".exitCodes.operator", "%q: want In or NotIn", clip(string(codes.Operator)))
		}
		if n := len(codes.Values); n == 0 || n > maxExitCodes {
			p.add(at+".exitCodes.values", "%d exit codes: want one to %d", n, maxExitCodes)
			continue
		}
		for j, code := range codes.Values {
			p.between(indexed(at+".exitCodes.values", j), int64(code), 0, 255)
		}
	}
}

// lifecycle checks a container's hooks and its stop signal.
func (p *problems) lifecycle(c *corev1.Container, path string) {
	for _, h := range []struct {
		name string
		h    *corev1.LifecycleHandler
	}{{"postStart", c.Lifecycle.PostStart}, {"preStop", c.Lifecycle.PreStop}} {
		if h.h != nil {
			p.hook(h.h, c, path+"."+h.name)
		}
	}
	if s := c.Lifecycle.StopSignal; s != nil && !signalName.MatchString(string(*s)) {
		p.hint(path+".stopSignal", "a signal is written like SIGTERM, SIGQUIT or SIGRTMIN+3", "%q is no signal", clip(string(*s)))
	}
}

var signalName = regexp.MustCompile(`^SIG([A-Z]{2,6}[12]?|RTMIN(\+[0-9]{1,2})?|RTMAX(-[0-9]{1,2})?)$`)

func (p *problems) hook(h *corev1.LifecycleHandler, c *corev1.Container, path string) {
	handlers := 0
	if h.Exec != nil {
		handlers++
		if len(h.Exec.Command) == 0 {
			p.add(path+".exec.command", "is missing")
		}
		p.argv(h.Exec.Command, path+".exec.command")
	}
	if h.HTTPGet != nil {
		handlers++
		p.httpGet(h.HTTPGet, c, path+".httpGet")
	}
	if h.Sleep != nil {
		handlers++
		p.between(path+".sleep.seconds", h.Sleep.Seconds, 0, maxGrace)
	}
	switch {
	case handlers == 0:
		p.add(path, "names nothing to do: write one of exec, httpGet, sleep")
	case handlers > 1:
		p.add(path, "may have only one of exec, httpGet, sleep")
	}
}
