//go:build lab

package labtest

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// onePod is the manifest of a Pod with one container of the demo image.
func onePod(name, policy string, args ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: %s
  terminationGracePeriodSeconds: 2
  containers:
  - {name: main, image: "skein/demo:v1", args: [%s]}
---
`, name, policy, quoted(args))
}

func quoted(args []string) string {
	out := ""
	for _, a := range args {
		out += fmt.Sprintf("%q, ", a)
	}
	return out
}

// first is the status of a Pod's first container; empty before there is one.
func first(p *corev1.Pod) corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		return corev1.ContainerStatus{}
	}
	return p.Status.ContainerStatuses[0]
}

func TestACrashingContainerStartsAgainAtOnceAndThenBacksOff(t *testing.T) {
	l := raise(t, 1)
	l.apply(onePod("crash", "Always", "exit", "3"), "--no-wait")
	took := l.await(8*time.Second, "it waits", func() string {
		s := first(l.pod("crash"))
		if s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" {
			return string(marshal(t, s))
		}
		return ""
	})
	t.Logf("it backed off after %.2f s", took.Seconds())
	s := first(l.pod("crash"))
	if s.RestartCount != 1 {
		t.Errorf("restarted %d times before it waits, want 1: the first time at once", s.RestartCount)
	}
	if end := s.LastTerminationState.Terminated; end == nil || end.ExitCode != 3 {
		t.Errorf("its last end was %+v, want exit code 3", end)
	}
	contains(l, "why it waits", s.State.Waiting.Message, "restarting in ")
	contains(l, "get pods", l.skein("get", "pods"), "CrashLoopBackOff")
	contains(l, "describe", l.skein("describe", "pod", "crash"), "CrashLoopBackOff", "restarting in ", "3")
}

func TestARestartPolicyDecidesWhatAnEndMeans(t *testing.T) {
	l := raise(t, 1)
	l.apply(onePod("never", "Never", "exit", "3")+onePod("done", "OnFailure", "exit", "0")+onePod("again", "OnFailure", "exit", "4"), "--no-wait")
	want := map[string]struct {
		phase corev1.PodPhase
		code  int32
	}{"never": {corev1.PodFailed, 3}, "done": {corev1.PodSucceeded, 0}}
	for name, w := range want {
		l.await(8*time.Second, name+" ends", func() string {
			p := l.pod(name)
			s := first(p)
			if p.Status.Phase != w.phase || s.State.Terminated == nil || s.State.Terminated.ExitCode != w.code || s.RestartCount != 0 {
				return string(marshal(t, p.Status))
			}
			return ""
		})
	}
	l.await(8*time.Second, "again is started again", func() string {
		if s := first(l.pod("again")); s.RestartCount < 1 {
			return string(marshal(t, s))
		}
		return ""
	})
}

func TestTheLogsOfThePreviousRunAreKept(t *testing.T) {
	l := raise(t, 1)
	l.skein("run", "web", "--image", "skein/demo:v1", "--timeout", "20s")
	pod := l.pods("app=web")[0].Name
	l.skein("exec", pod, "--", "/bin/demo", "get", "http://127.0.0.1:8080/healthz")
	l.try("exec", pod, "--", "/bin/demo", "get", "http://127.0.0.1:8080/exit?code=7")
	l.await(8*time.Second, "it runs again", func() string {
		s := first(l.pod(pod))
		if s.RestartCount != 1 || s.State.Running == nil {
			return string(marshal(t, s))
		}
		return ""
	})
	if end := first(l.pod(pod)).LastTerminationState.Terminated; end == nil || end.ExitCode != 7 {
		t.Errorf("its last end was %+v, want exit code 7", end)
	}
	contains(l, "logs -p", l.skein("logs", "-p", pod), "GET /healthz 200", "exit with code 7")
	now := l.skein("logs", pod)
	contains(l, "logs", now, "listens on")
	if n := len(now); n > 200 {
		t.Errorf("logs of the present run: %q, want one line", now)
	}
}
