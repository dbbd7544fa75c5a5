//go:build lab

package labtest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	canary = "hunter2-canary-5f0c"
	second = "hunter3-canary-a91e"
)

func conf(mode string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {mode: " + mode + "}\n---\n"
}

func secret(value string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: " + value + "}\n---\n"
}

const keeper = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: keep, labels: {app: keep}}
spec:
  replicas: 1
  selector: {matchLabels: {app: keep}}
  template:
    metadata: {labels: {app: keep, tier: a-b}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {fsGroup: 4000}
      containers:
      - name: main
        image: "skein/demo:v1"
        args: [sleep]
        resources: {limits: {cpu: 500m, memory: 64Mi}}
        envFrom: [{prefix: C_, configMapRef: {name: app}}, {secretRef: {name: none, optional: true}}]
        env:
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        - {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: MILLI, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
        volumeMounts:
        - {name: scratch, mountPath: /scratch}
        - {name: scratch, mountPath: /mine, subPathExpr: of/$(ME)}
        - {name: quick, mountPath: /quick}
        - {name: conf, mountPath: /conf}
        - {name: conf, mountPath: /fixed, subPath: mode}
        - {name: secret, mountPath: /secret}
        - {name: down, mountPath: /down}
        - {name: all, mountPath: /all}
      volumes:
      - {name: scratch, emptyDir: {}}
      - {name: quick, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
      - {name: conf, configMap: {name: app}}
      - {name: secret, secret: {secretName: db, defaultMode: 0400, items: [{key: password, path: deep/pw}]}}
      - name: down
        downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
      - name: all
        projected:
          sources:
          - {configMap: {name: app}}
          - {secret: {name: db}}
          - {configMap: {name: none, optional: true}}
          - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
`

// reads is what a file in a container holds, or why it cannot be read.
func (l *lab) reads(pod, path string) string {
	l.Helper()
	got := l.try("exec", pod, "--", "/bin/demo", "cat", path)
	if got.code != 0 {
		return got.err
	}
	return strings.TrimSpace(got.out)
}

// copyIn puts so many bytes into a container.
func (l *lab) copyIn(pod, path string, size int) result {
	l.Helper()
	from := filepath.Join(l.TempDir(), "in")
	if err := os.WriteFile(from, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		l.Fatal(err)
	}
	return l.try("cp", from, pod+":"+path)
}

// finds lists the files below a folder that hold one of some words, in clear or in
// base64.
func finds(t *testing.T, dir string, words ...string) (out []string) {
	t.Helper()
	var all [][]byte
	for _, w := range words {
		all = append(all, []byte(w), []byte(strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(w)), "=")[:len(w)]))
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil // it came and went
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, w := range all {
			if bytes.Contains(body, w) {
				out = append(out, path)
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inMemory lists the file systems below a folder that no disk is under.
func inMemory(t *testing.T, dir string) (out []string) {
	t.Helper()
	body, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		f := strings.Fields(line)
		if kind := f[slices.Index(f, "-")+1]; strings.HasPrefix(f[4], dir+"/") && kind == "tmpfs" {
			out = append(out, f[4])
		}
	}
	return out
}

// holders are the nodes in whose files, on disk or in memory, a secret is found.
func (l *lab) holders() string {
	l.Helper()
	var out []string
	for name := range l.nodes() {
		if pid := l.agentPID(name); pid != 0 {
			if found := finds(l.T, fmt.Sprintf("/proc/%d/root%s", pid, filepath.Join(l.dir, name)), canary, second); len(found) > 0 {
				out = append(out, name)
			}
		}
	}
	return strings.Join(out, ",")
}

// keeps names the Pod that is ready on a node, once there is one.
func (l *lab) keeps(node string) string {
	l.Helper()
	name := ""
	l.await(20*time.Second, "the Pod runs on "+node, func() string {
		for _, p := range l.pods("app=keep") {
			if isReady(&p) && p.Spec.NodeName == node {
				name = p.Name
				return ""
			}
		}
		return "it does not"
	})
	return name
}

func (l *lab) holds(pod string, want map[string]string) {
	l.Helper()
	l.await(10*time.Second, "the files of "+pod, func() string {
		got := map[string]string{}
		for path := range want {
			got[path] = l.reads(pod, path)
		}
		return cmp.Diff(want, got)
	})
}

func (l *lab) killAgent(node string) {
	l.Helper()
	agent := l.agentPID(node)
	if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
		l.Fatal(err)
	}
	l.await(comeback, "the agent of "+node+" is back", func() string {
		if got := l.agentPID(node); got == agent || got == 0 {
			return "there is no new process"
		}
		return ""
	})
	l.awaitNode(comeback, node, "True AgentReady")
}

func TestPodsHaveTheirVolumesAndHearOfChanges(t *testing.T) {
	l := raise(t, 3)
	leader, node := l.leader()
	other := l.other(leader, node)
	on := func(node string) string {
		return strings.Replace(keeper, "terminationGrace", "nodeSelector: {kubernetes.io/hostname: "+node+"}\n      terminationGrace", 1)
	}
	l.apply(conf("one") + secret(canary) + on(node))
	pod := l.keeps(node)
	contains(l, "the environment", l.skein("exec", pod, "--", "/bin/demo", "env"), "C_mode=one", "PASSWORD="+canary, "ME="+pod, "MILLI=500")
	l.holds(pod, map[string]string{
		"/conf/mode": "one", "/fixed": "one", "/secret/deep/pw": canary, "/down/memory": "64", "/all/mode": "one", "/all/password": canary, "/all/name": pod,
	})
	contains(l, "labels", l.reads(pod, "/down/labels"), `app="keep"`)
	for path, fits := range map[string]bool{"/scratch/f": true, "/mine/f": true, "/quick/f": false, "/conf/f": false, "/secret/f": false} {
		if got := l.copyIn(pod, path, 2<<20); (got.code == 0) != fits {
			t.Errorf("two MiB at %s: exit code %d, %s", path, got.code, got.err)
		}
	}

	l.apply(conf("two") + secret(second))
	l.holds(pod, map[string]string{
		"/conf/mode": "two", "/fixed": "one", "/secret/deep/pw": second, "/all/mode": "two", "/all/password": second,
	})
	l.killAgent(node)
	if got := len(l.reads(pod, "/scratch/f")); got != 2<<20 {
		t.Errorf("after the agent was killed its folder has %d bytes of what it wrote", got)
	}
	l.lab("kill", leader)
	l.await(20*time.Second, "a change without the first leader", func() string {
		return l.tryApply(conf("three")).err
	})
	l.holds(pod, map[string]string{"/conf/mode": "three", "/all/mode": "three"})
	if s := first(l.pod(pod)); s.RestartCount != 0 {
		t.Errorf("it was restarted %d times", s.RestartCount)
	}
	if diff := cmp.Diff(node, l.holders()); diff != "" {
		t.Errorf("nodes that hold the secret in clear (-want +got):\n%s", diff)
	}
	memory := inMemory(t, l.dir)
	for _, path := range finds(t, l.dir, canary, second) {
		if !slices.ContainsFunc(memory, func(dir string) bool { return strings.HasPrefix(path, dir+"/") }) {
			t.Errorf("the secret is on a disk: %s", path)
		}
	}

	l.apply(on(other))
	pod = l.keeps(other)
	l.holds(pod, map[string]string{"/conf/mode": "three", "/fixed": "three", "/secret/deep/pw": second})
	l.await(20*time.Second, "the first node forgets", func() string { return cmp.Diff(other, l.holders()) })
	l.skein("delete", "deployment", "keep")
	l.await(20*time.Second, "all forget", l.holders)
	if got := l.skein("describe", "secret", "db") + l.skein("events") + l.skein("get", "secrets", "-A", "-o", "wide"); strings.Contains(got, second) {
		t.Errorf("the secret is told:\n%s", got)
	}
	l.lab("heal")
	l.awaitNode(comeback, leader, "True AgentReady")
}

func TestAPodWaitsForWhatItNames(t *testing.T) {
	l := raise(t, 1)
	const waits = `
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: "skein/demo:v1"
    args: [sleep]
    volumeMounts: [{name: conf, mountPath: /conf}]
  volumes: [{name: conf, configMap: {name: app}}]
`
	l.apply(waits, "--no-wait")
	l.await(10*time.Second, "it says what it waits for", func() string {
		w := first(l.pod("waits")).State.Waiting
		if w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, `ConfigMap "app"`) {
			return fmt.Sprint(w)
		}
		return ""
	})
	l.apply(conf("late"))
	took := l.await(10*time.Second, "it runs", func() string {
		if p := l.pod("waits"); !isReady(p) {
			return fmt.Sprint(first(p).State)
		}
		return ""
	})
	t.Logf("it ran %.2f s after its ConfigMap was there", took.Seconds())
}

func TestFoldersOfTheMachineTakeTheirNamespacesPolicy(t *testing.T) {
	l := raise(t, 1)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("of the machine"), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := `
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: ops}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: "skein/demo:v1"
    args: [sleep]
    volumeMounts: [{name: host, mountPath: /host, readOnly: true}]
  volumes: [{name: host, hostPath: {path: ` + dir + `, type: Directory}}]
`
	l.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: ops}\n")
	if got := l.tryApply(pod); got.code != 5 && got.code == 0 || !strings.Contains(got.err, "skein.dev/host-path") {
		t.Errorf("without the policy: exit code %d, %s", got.code, got.err)
	}
	l.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: ops, annotations: {skein.dev/host-path: allow}}\n")
	l.apply(pod)
	if got := l.try("exec", "-n", "ops", "host", "--", "/bin/demo", "cat", "/host/f"); got.out != "of the machine" {
		t.Errorf("read %q, %s", got.out, got.err)
	}
	l.skein("delete", "pod", "-n", "ops", "host")
	if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
		t.Errorf("the machine's file went with the Pod: %v", err)
	}
}

func TestWhoWritesMoreThanItsLimitIsEvicted(t *testing.T) {
	l := raise(t, 1)
	l.apply(`
apiVersion: v1
kind: Pod
metadata: {name: folder}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: "skein/demo:v1"
    args: [sleep]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: root}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: "skein/demo:v1"
    args: [sleep]
    securityContext: {runAsUser: 0}
    resources: {requests: {ephemeral-storage: 1Mi}, limits: {ephemeral-storage: 2Mi}}
`)
	for pod, path := range map[string]string{"folder": "/data/f", "root": "/f"} {
		if got := l.copyIn(pod, path, 3<<20); got.code != 0 {
			t.Fatal(got.err)
		}
	}
	for pod, named := range map[string]string{"folder": `"data"`, "root": "container main has written 31"} {
		took := l.await(30*time.Second, pod+" is evicted", func() string {
			s := l.pod(pod).Status
			if s.Phase != "Failed" || s.Reason != "Evicted" || !strings.Contains(s.Message, named) {
				return fmt.Sprint(s.Phase, s.Reason, s.Message)
			}
			return ""
		})
		t.Logf("%s is evicted after %.1f s", pod, took.Seconds())
	}
	l.apply(`
apiVersion: v1
kind: Pod
metadata: {name: vast}
spec:
  containers:
  - name: main
    image: "skein/demo:v1"
    resources: {requests: {ephemeral-storage: 1Pi}}
`, "--no-wait")
	l.await(30*time.Second, "nobody has so much", func() string {
		for _, c := range l.pod("vast").Status.Conditions {
			if c.Type == "PodScheduled" && strings.Contains(c.Message, "too little disk (needs 1Pi") {
				return ""
			}
		}
		return fmt.Sprint(l.pod("vast").Status.Conditions)
	})
}
