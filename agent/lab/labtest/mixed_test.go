//go:build lab

package labtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// built is a build of skeind of another version, which reads one more format.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "skeind")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=next -X main.format=3", "-o", path, "./agent/skeind")
	cmd.Dir, cmd.Env = "../../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// take has a node's keeper take another build into use.
func (l *lab) take(node, program string) result {
	l.Helper()
	data := filepath.Join(l.dir, node, "data")
	path := filepath.Join(data, "keeper", "reload")
	argv, err := os.ReadFile(path)
	if err != nil {
		l.Fatal(err)
	}
	_, rest, _ := bytes.Cut(argv, []byte{0})
	if err := os.WriteFile(path, append([]byte(program+"\x00"), rest...), 0o600); err != nil {
		l.Fatal(err)
	}
	cmd := l.command("skeind", "reload", "--data-dir", data)
	cmd.Path, cmd.Args[0] = program, program
	return l.do(cmd)
}

// reload takes a build into use, which must work, and waits for its node.
func (l *lab) reload(node, program, version string) {
	l.Helper()
	if got := l.take(node, program); got.code != 0 {
		l.Fatalf("reload %s: exit code %d\n%s%s", node, got.code, got.out, got.err)
	}
	l.await(comeback, node+" runs "+version, func() string {
		n := l.nodes()[node]
		return cmp.Diff(version+" True AgentReady", n.Status.NodeInfo.KubeletVersion+" "+readiness(n))
	})
}

// keepWriting makes objects one after the other until stopped, and returns the names
// of those that were acknowledged.
func (l *lab) keepWriting() (stop func() []string) {
	done := make(chan struct{})
	var names []string
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			name := fmt.Sprintf("w%d", i)
			if got := l.tryApply("{apiVersion: v1, kind: Namespace, metadata: {name: " + name + "}}"); got.code == 0 {
				names = append(names, name)
			}
		}
	})
	return func() []string { close(done); writer.Wait(); return names }
}

func (l *lab) raisedFormats() string {
	var out []string
	for _, node := range []string{"n1", "n2", "n3"} {
		if text, err := os.ReadFile(filepath.Join(l.dir, node, "data", "format")); err == nil {
			out = append(out, node+" "+strings.TrimSpace(string(text)))
		}
	}
	return strings.Join(out, ",")
}

func TestNodesAreUpgradedOneByOneAndGoBackUntilAllAreNew(t *testing.T) {
	l := raise(t, 3)
	old, next := filepath.Join(bin, "skeind"), built(t)
	version := l.nodes()["n1"].Status.NodeInfo.KubeletVersion
	runWeb(l, "6")
	containers, restarts := pids(t, "n1", "n2", "n3"), l.restarts()
	stop := l.keepWriting()
	l.reload("n1", next, "next")
	l.reload("n2", next, "next")
	contains(l, "get nodes", l.skein("get", "nodes", "-o", "wide"), "next", version)
	l.reload("n2", old, version) // while one is old, any may go back
	l.reload("n1", old, version)
	if got := l.raisedFormats(); strings.Contains(got, " 3") {
		t.Errorf("the format was raised with an old build in the cluster: %s", got)
	}
	for _, node := range []string{"n3", "n1", "n2"} {
		l.reload(node, next, "next")
	}
	l.await(comeback, "the format is raised", func() string { return cmp.Diff("n1 3,n2 3,n3 3", l.raisedFormats()) })
	agent := l.agentPID("n2")
	got := l.take("n2", old)
	if got.code == 0 || !strings.Contains(got.err, "has format 3, and this build reads up to 2") {
		t.Errorf("the old build: exit code %d, want a refusal\n%s%s", got.code, got.out, got.err)
	}
	t.Log(strings.TrimSpace(got.err))
	if now := l.agentPID("n2"); now != agent {
		t.Errorf("the agent that ran was changed by it: pid %d, was %d", now, agent)
	}
	names := stop()
	have := l.skein("get", "namespaces", "-o", "name")
	for _, name := range names {
		if !strings.Contains(have+"\n", "/"+name+"\n") {
			t.Errorf("the acknowledged %s is not there", name)
		}
	}
	t.Logf("%d writes were acknowledged meanwhile", len(names))
	if len(names) < 20 {
		t.Errorf("only %d writes went through meanwhile", len(names))
	}
	if diff := cmp.Diff(containers, pids(t, "n1", "n2", "n3")); diff != "" {
		t.Errorf("processes in containers (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(restarts, l.restarts()); diff != "" {
		t.Errorf("restarts (-before +after):\n%s", diff)
	}
}
