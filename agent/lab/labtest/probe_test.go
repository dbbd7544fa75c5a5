//go:build lab

package labtest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// probed is a Deployment of one Pod of the demo image with probes, given as YAML
// in braces.
func probed(name, probes string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: skein/demo:v1
        %[2]s
---
`, name, probes)
}

// only waits for a Deployment's only Pod.
func (l *lab) only(app string) (pod string) {
	l.Helper()
	l.await(5*time.Second, app+" has a Pod", func() string {
		list := l.pods("app=" + app)
		if len(list) != 1 {
			return fmt.Sprintf("%d Pods", len(list))
		}
		pod = list[0].Name
		return ""
	})
	return pod
}

func (l *lab) awaitReady(limit time.Duration, pod string, want bool) time.Duration {
	l.Helper()
	return l.await(limit, fmt.Sprintf("%s ready: %t", pod, want), func() string {
		if p := l.pod(pod); isReady(p) != want {
			return string(marshal(l.T, p.Status.Conditions))
		}
		return ""
	})
}

// fetch asks a Pod's own server from inside.
func (l *lab) fetch(pod, path string) result {
	l.Helper()
	return l.try("exec", pod, "--", "/bin/demo", "get", "http://127.0.0.1:8080"+path)
}

func TestReadinessFollowsItsProbe(t *testing.T) {
	l := raise(t, 1)
	l.apply(probed("http", `readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 1}`) +
		probed("tcp", `readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}`) +
		probed("exec", `readinessProbe: {exec: {command: [/bin/demo, get, "http://127.0.0.1:8080/healthz"]}, periodSeconds: 1}`))
	pod := l.only("http")
	l.fetch(pod, "/fail?for=2")
	l.awaitReady(4*time.Second, pod, false)
	l.awaitEvents("Unhealthy", "500 Internal Server Error: not well")
	took := l.awaitReady(6*time.Second, pod, true)
	t.Logf("it was ready again %.2f s later", took.Seconds())
	if s := first(l.pod(pod)); s.RestartCount != 0 {
		t.Errorf("a failed readiness probe restarted it %d times", s.RestartCount)
	}
}

func TestAFailedLivenessProbeRestartsAndASlowStartIsWaitedFor(t *testing.T) {
	l := raise(t, 1)
	l.apply(probed("live", `livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 2}`))
	l.apply(probed("slow", `startupProbe: {httpGet: {path: /never, port: 8080}, periodSeconds: 1, failureThreshold: 3}`), "--no-wait")
	pod := l.only("live")
	l.fetch(pod, "/fail?for=60")
	l.await(10*time.Second, "it is restarted", func() string {
		if s := first(l.pod(pod)); s.RestartCount != 1 || !s.Ready {
			return string(marshal(t, s))
		}
		return ""
	})
	slow := l.only("slow")
	if p := l.pod(slow); isReady(p) || first(p).Started != nil && *first(p).Started {
		t.Errorf("a container whose startup probe fails counts as started: %s", marshal(t, p.Status))
	}
	l.await(10*time.Second, "it is restarted when it never starts", func() string {
		if s := first(l.pod(slow)); s.RestartCount < 1 {
			return string(marshal(t, s))
		}
		return ""
	})
	l.awaitEvents("startup probe", "liveness probe")
}

func TestGRPCHealthDecidesReadiness(t *testing.T) {
	l := raise(t, 1)
	l.skein("image", "import", visitor(t))
	manifest := func(name, status string) string {
		return strings.ReplaceAll(probed(name, `args: [grpc, "`+status+`"]
        readinessProbe: {grpc: {port: 9000, service: web}, periodSeconds: 1}`), "skein/demo:v1", "visitor:1")
	}
	l.apply(manifest("serving", "1"), "--timeout", "10s")
	l.apply(manifest("resting", "2"), "--no-wait")
	contains(l, "logs", l.skein("logs", l.only("serving")), "/grpc.health.v1.Health/Check", "web")
	l.awaitEvents("health status 2")
	if isReady(l.pod(l.only("resting"))) {
		t.Error("a server that says it does not serve is ready")
	}
}

func TestRunGivesUpOnWhatNeverGetsReadyAndSaysWhy(t *testing.T) {
	l := raise(t, 1)
	l.apply(strings.ReplaceAll(probed("web", `readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}`), "demo:v1", "demo:bad"), "--no-wait")
	pod := l.only("web")
	got := l.tryApply(strings.ReplaceAll(probed("web2", `readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}`), "demo:v1", "demo:bad"), "--timeout", "3s")
	if got.code != 3 {
		t.Errorf("apply of what never gets ready: exit code %d, want 3", got.code)
	}
	contains(l, "why", got.err, "500", "not well", "hint:")
	l.awaitReady(time.Second, pod, false)
	l.refused(3, "connection refused", "run", "ghost", "--image", "localhost:1/nobody/has:this", "--timeout", "3s")
}
