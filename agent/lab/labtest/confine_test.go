//go:build lab

package labtest

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const confined = `
apiVersion: v1
kind: Pod
metadata:
  name: team
  annotations: {skein.dev/ulimit.nofile: "512:512", skein.dev/ulimit.core: "0"}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  hostname: crew
  containers:
  - {name: a, image: "skein/demo:v1", args: [sleep], volumeMounts: [{name: etc, mountPath: /etc}]}
  - {name: b, image: "skein/demo:v1", args: [serve]}
  volumes: [{name: etc, emptyDir: {}}]
`

// A Pod whose containers share processes outlives restarts of its containers and
// of the agent, with its limits.
func TestAPodSharesProcessesAndKeepsItsLimits(t *testing.T) {
	l := raise(t, 1)
	l.apply(confined)
	ready := func() {
		t.Helper()
		l.await(20*time.Second, "the Pod is ready", func() string {
			if p := l.pod("team"); p == nil || !isReady(p) {
				return "it is not"
			}
			return ""
		})
	}
	ready()
	cat := func(container, path string) string {
		t.Helper()
		return l.skein("exec", "team", "-c", container, "--", "/bin/demo", "cat", path)
	}
	limits := func(container string) string {
		for line := range strings.Lines(cat(container, "/proc/self/limits")) {
			if strings.HasPrefix(line, "Max open files") {
				return strings.Join(strings.Fields(line)[3:5], ":")
			}
		}
		return "none"
	}
	for _, c := range []string{"a", "b"} {
		if got := limits(c); got != "512:512" {
			t.Errorf("open files of %s: %s", c, got)
		}
		if got := cat(c, "/proc/1/cmdline"); !strings.HasPrefix(got, "/hold") {
			t.Errorf("the first process in %s is %q", c, got)
		}
	}
	if got := strings.TrimSpace(cat("a", "/etc/hostname")); got != "crew" {
		t.Errorf("/etc/hostname in a volume: %q", got)
	}
	holder := l.holderOf("n1")
	l.killAgent("n1")
	ready()
	if got := l.holderOf("n1"); got != holder {
		t.Errorf("another agent has another holder: %d, before %d", got, holder)
	}
	if err := syscall.Kill(l.mainOf("n1", "b"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.await(20*time.Second, "b runs again, and a as before", func() string {
		p := l.pod("team")
		got := map[string]int32{}
		for _, s := range p.Status.ContainerStatuses {
			got[s.Name] = s.RestartCount
		}
		return cmp.Diff(map[string]int32{"a": 0, "b": 1}, got)
	})
	ready()
	if a, b := cat("a", "/proc/1/stat"), cat("b", "/proc/1/stat"); strings.Fields(a)[21] != strings.Fields(b)[21] {
		t.Errorf("they are not in one namespace: %q, %q", a, b)
	}
	l.skein("delete", "pod", "team")
	l.await(20*time.Second, "nothing is left of the Pod", func() string {
		if pid := l.holderOf("n1"); pid != 0 {
			return fmt.Sprintf("process %d holds it", pid)
		}
		return ""
	})
}

// mainOf is the main process of the one container of that name.
func (l *lab) mainOf(node, container string) int {
	l.Helper()
	for key, pids := range processes(l.T, node) {
		if strings.Contains(key, "/"+container+".") {
			return pids[0]
		}
	}
	l.Fatalf("no container %s runs on %s", container, node)
	return 0
}

// holderOf is the process that holds shared processes of a node's Pod, 0 if there
// is none.
func (l *lab) holderOf(node string) int {
	l.Helper()
	for key, pids := range processes(l.T, node) {
		if strings.HasSuffix(key, "/holder") {
			return pids[0]
		}
	}
	return 0
}

// What a namespace or a node does not give is told, in words that say what to do.
func TestWhatConfinesIsRefusedInWords(t *testing.T) {
	l := raise(t, 1)
	pod := func(name, spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  containers: [{name: c, image: \"skein/demo:v1\", args: [sleep], " + spec + "}]\n"
	}
	for spec, want := range map[string]string{
		"securityContext: {capabilities: {add: [SYS_TIME]}}":                           "skein.dev/capabilities: SYS_TIME",
		"securityContext: {privileged: true}":                                          "skein.dev/privileged: allow",
		"securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x}}": "want a path below",
	} {
		if got := l.tryApply(pod("no", spec)); got.code == 0 || !strings.Contains(got.err, want) {
			t.Errorf("%s: exit code %d, %s", spec, got.code, got.err)
		}
	}
	l.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: {skein.dev/capabilities: \"SYS_TIME\"}}\n---\n"+
		pod("clock", "securityContext: {capabilities: {add: [SYS_TIME], drop: [ALL]}}")+"---\n"+
		pod("later", "securityContext: {seccompProfile: {type: Localhost, localhostProfile: labtest/missing.json}}"), "--no-wait")
	l.await(20*time.Second, "the one runs, the other says why it does not", func() string {
		if p := l.pod("clock"); p == nil || !isReady(p) {
			return "clock does not run"
		}
		p := l.pod("later")
		if p == nil || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return "later says nothing"
		}
		w := p.Status.ContainerStatuses[0].State.Waiting
		if w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, "labtest/missing.json") || !strings.Contains(w.Message, "/etc/skein/seccomp") {
			return w.Reason + ": " + w.Message
		}
		return ""
	})
	status := l.skein("exec", "clock", "--", "/bin/demo", "cat", "/proc/self/status")
	if !strings.Contains(status, "CapBnd:\t0000000002000000") {
		t.Errorf("its capabilities:\n%s", status)
	}
}
