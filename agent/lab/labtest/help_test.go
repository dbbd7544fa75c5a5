//go:build lab

package labtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// name is that of every lab that this suite raises, one after the other.
var name = cmpOr(os.Getenv("SKEIN_LAB_NAME"), "acc")

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// bin is where the programs are.
var bin string

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "labtest:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() error {
	if os.Geteuid() != 0 {
		return errors.New("a lab is made of network namespaces: run this as root")
	}
	var err error
	if bin, err = filepath.Abs(cmpOr(os.Getenv("SKEIN_BIN"), "../../../bin")); err != nil {
		return err
	}
	for _, program := range []string{"skein", "skeind"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return fmt.Errorf("there is no program %s in %s: run \"make\", or say with SKEIN_BIN where it is", program, bin)
		}
	}
	return nil
}

// A lab is one that is up for the time of a test.
type lab struct {
	*testing.T
	port   int
	config string // the person's contexts
	dir    string

	mu      sync.Mutex
	changed chan struct{} // closed when a watch has told of something
}

// raise makes a lab, with more flags of "lab up" if need be. When the test ends it
// is taken down, and nothing may be left.
func raise(t *testing.T, nodes int, more ...string) *lab {
	t.Helper()
	l := &lab{
		T: t, port: freePort(t), config: filepath.Join(t.TempDir(), "config.json"),
		dir: filepath.Join("/run/skein/lab", name), changed: make(chan struct{}),
	}
	l.skeind("lab", "down", "--name", name) // of a run that was broken off
	before := census(t)
	t.Cleanup(func() {
		if t.Failed() {
			l.lastWords()
		}
		l.skeind("lab", "down", "--name", name)
		if diff := cmp.Diff(before, settled(t, before)); diff != "" {
			t.Errorf("the lab has left something (-before +after):\n%s", diff)
		}
	})
	l.skeind(append([]string{"lab", "up", "--name", name, "--nodes", fmt.Sprint(nodes), "--port", fmt.Sprint(l.port)}, more...)...)
	l.watch()
	return l
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// lastWords tells what explains most failures.
func (l *lab) lastWords() {
	for _, args := range [][]string{{"get", "pods", "-A", "-o", "wide"}, {"get", "nodes"}, {"events"}} {
		got := l.try(args...)
		l.Logf("skein %s\n%s%s", strings.Join(args, " "), got.out, got.err)
	}
	logs, _ := filepath.Glob(filepath.Join(l.dir, "*", "agent.log"))
	for _, path := range logs {
		text, err := os.ReadFile(path)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		l.Logf("%s (%v)\n%s", path, err, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

// A result is what came of a command.
type result struct {
	out, err string
	code     int
}

func (l *lab) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.WithoutCancel(l.Context()), filepath.Join(bin, program), args...)
	cmd.Env = append(os.Environ(), "SKEIN_CONFIG="+l.config)
	return cmd
}

func (l *lab) do(cmd *exec.Cmd) result {
	l.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Fatalf("run %v: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// try runs skein, whatever comes of it.
func (l *lab) try(args ...string) result {
	l.Helper()
	return l.do(l.command("skein", args...))
}

// skein runs a command that must work and returns what it prints.
func (l *lab) skein(args ...string) string {
	l.Helper()
	got := l.try(args...)
	if got.code != 0 {
		l.Fatalf("skein %s: exit code %d, want 0\n%s%s", strings.Join(args, " "), got.code, got.out, got.err)
	}
	return got.out
}

// refused runs a command that must end with a code, and one line that has the
// words in it.
func (l *lab) refused(code int, words string, args ...string) {
	l.Helper()
	got := l.try(args...)
	if got.code != code || !strings.Contains(got.err, words) {
		l.Errorf("skein %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), got.code, code, words, got.out, got.err)
	}
}

// skeind runs a command that must work.
func (l *lab) skeind(args ...string) {
	l.Helper()
	if got := l.do(l.command("skeind", args...)); got.code != 0 {
		l.Fatalf("skeind %s: exit code %d, want 0\n%s%s", strings.Join(args, " "), got.code, got.out, got.err)
	}
}

// lab runs `skeind lab`.
func (l *lab) lab(verb string, args ...string) {
	l.Helper()
	l.skeind(append([]string{"lab", verb, "--name", name}, args...)...)
}

// apply sends a manifest, with flags, and must work.
func (l *lab) apply(manifest string, flags ...string) {
	l.Helper()
	if got := l.tryApply(manifest, flags...); got.code != 0 {
		l.Fatalf("apply: exit code %d, want 0\n%s%s", got.code, got.out, got.err)
	}
}

func (l *lab) tryApply(manifest string, flags ...string) result {
	l.Helper()
	cmd := l.command("skein", append([]string{"apply", "-f", "-"}, flags...)...)
	cmd.Stdin = strings.NewReader(manifest)
	return l.do(cmd)
}

// object decodes one object.
func (l *lab) object(into any, args ...string) {
	l.Helper()
	text := l.skein(append(append([]string{"get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(text), into); err != nil {
		l.Fatalf("read %v: %v", args, err)
	}
}

// pods lists the Pods that a selector takes, "" for all.
func (l *lab) pods(selector string) []corev1.Pod {
	l.Helper()
	var list corev1.PodList
	l.object(&list, "pods", "-l", selector)
	return list.Items
}

// pod finds one by its name.
func (l *lab) pod(name string) *corev1.Pod {
	l.Helper()
	pod := &corev1.Pod{}
	l.object(pod, "pod", name)
	return pod
}

func (l *lab) nodes() map[string]corev1.Node {
	l.Helper()
	var list corev1.NodeList
	l.object(&list, "nodes")
	out := map[string]corev1.Node{}
	for _, n := range list.Items {
		out[n.Name] = n
	}
	return out
}

// leader names the leader, and a node that is none.
func (l *lab) leader() (leader, follower string) {
	l.Helper()
	for name, n := range l.nodes() {
		switch {
		case n.Labels["skein.dev/leader"] == "true":
			leader = name
		case follower == "" || name < follower:
			follower = name
		}
	}
	return leader, follower
}

// readiness is the Ready condition of a node: its status and its reason.
func readiness(n corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return string(c.Status) + " " + c.Reason
		}
	}
	return "none"
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// spread counts the ready Pods on each node.
func spread(pods []corev1.Pod) map[string]int {
	out := map[string]int{}
	for i := range pods {
		if isReady(&pods[i]) {
			out[pods[i].Spec.NodeName]++
		}
	}
	return out
}

// watch tells of every change of Pods and nodes for as long as the test runs, so
// that await need not ask all the time.
func (l *lab) watch() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.Context()))
	var watches sync.WaitGroup
	for _, kind := range []string{"pods", "nodes"} {
		watches.Go(func() {
			for ctx.Err() == nil { // it ends when a leader does
				cmd := exec.CommandContext(ctx, filepath.Join(bin, "skein"), "get", kind, "-A", "-w")
				cmd.Env = append(os.Environ(), "SKEIN_CONFIG="+l.config)
				cmd.Stdout = bell{l}
				_ = cmd.Run() // await looks by itself now and then
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	l.Cleanup(func() { cancel(); watches.Wait() })
}

type bell struct{ l *lab }

func (b bell) Write(p []byte) (int, error) {
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	close(b.l.changed)
	b.l.changed = make(chan struct{})
	return len(p), nil
}

// await waits until check finds nothing missing. It looks at every change, and
// a few times a second for what no watch tells. It returns how long it took.
func (l *lab) await(limit time.Duration, what string, check func() (missing string)) time.Duration {
	l.Helper()
	begin := time.Now()
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		missing := check()
		took := time.Since(begin)
		if missing == "" {
			return took
		}
		if took > limit {
			l.Fatalf("%s: not within %v: %s", what, limit, missing)
		}
		select {
		case <-changed:
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// awaitSpread waits until so many Pods are ready on each node.
func (l *lab) awaitSpread(limit time.Duration, selector string, want map[string]int) time.Duration {
	l.Helper()
	return l.await(limit, "Pods "+selector+" on nodes", func() string {
		got := l.try("get", "pods", "-l", selector, "-o", "json")
		var list corev1.PodList
		if err := json.Unmarshal([]byte(got.out), &list); got.code != 0 || err != nil {
			return got.err
		}
		return cmp.Diff(want, spread(list.Items))
	})
}

// awaitNode waits until a node is in a state like "True AgentReady".
func (l *lab) awaitNode(limit time.Duration, node, want string) time.Duration {
	l.Helper()
	return l.await(limit, "node "+node, func() string {
		got := l.try("get", "node", node, "-o", "json")
		var n corev1.Node
		if err := json.Unmarshal([]byte(got.out), &n); got.code != 0 || err != nil {
			return got.err
		}
		return cmp.Diff(want, readiness(n))
	})
}

func contains(l *lab, what, text string, words ...string) {
	l.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			l.Errorf("%s: got\n%s\nwant %q in it", what, text, w)
		}
	}
}

// awaitEvents waits until the events have some words in them.
func (l *lab) awaitEvents(words ...string) {
	l.Helper()
	l.await(comeback, "the events tell", func() string {
		text := l.skein("events")
		for _, w := range words {
			if !strings.Contains(text, w) {
				return fmt.Sprintf("%q in\n%s", w, text)
			}
		}
		return ""
	})
}
