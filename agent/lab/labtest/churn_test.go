//go:build lab

package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// agentOf is the process of a node's agent.
func agentOf(t *testing.T, node string) int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		args := strings.Split(string(text), "\x00")
		if err == nil && len(args) > 1 && filepath.Base(args[0]) == "skeind" && args[1] == "agent" && strings.Contains(string(text), "/lab/"+name+"/"+node+"/") {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no agent runs on %s", node)
	return 0
}

// holdings counts what an agent and its machine hold: descriptors by what they
// are, and the mounts and cgroups of the lab. Others may mount meanwhile what
// is none of its business.
func holdings(t *testing.T, node string) map[string]int {
	t.Helper()
	pid := agentOf(t, node)
	out := map[string]int{"cgroups": len(cgroups(t))}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/lab/"+name+"/") {
			out["mounts"]++
		}
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			continue // closed meanwhile
		}
		kind, _, _ := strings.Cut(to, ":")
		if filepath.IsAbs(to) {
			kind = "files"
		}
		out[kind]++
	}
	return out
}

// abandon begins calls of people and kills who made them.
func (l *lab) abandon(pod string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.Context()), 2*time.Second)
	defer cancel()
	var calls sync.WaitGroup
	for _, args := range [][]string{
		{"get", "pods", "-w"}, {"get", "nodes", "-w"}, {"logs", "-f", pod}, {"exec", pod, "--", "/bin/demo", "sleep"}, {"wait", "pod/" + pod, "--for", "delete"},
	} {
		for range 4 {
			calls.Go(func() {
				cmd := exec.CommandContext(ctx, filepath.Join(bin, "skein"), args...)
				cmd.Env = append(os.Environ(), "SKEIN_CONFIG="+l.config)
				_ = cmd.Run() // it is killed in the middle
			})
		}
	}
	calls.Wait()
}

// crash kills a node's agent and waits until its keeper has started another.
func (l *lab) crash(node string) {
	l.Helper()
	agent := l.agentPID(node)
	if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
		l.Fatal(err)
	}
	l.await(comeback, "the agent of "+node+" is back", func() string {
		if got := l.agentPID(node); got == agent || got == 0 {
			return "there is no new process"
		}
		return l.try("get", "nodes").err
	})
	l.awaitNode(comeback, node, "True AgentReady")
}

func TestWhatIsHeldReturnsToItsCountAfterChurn(t *testing.T) {
	l := raise(t, 1)
	churn := func(replicas, calls int) {
		l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", fmt.Sprint(replicas), "--timeout", "60s")
		for range calls {
			l.abandon(l.pods("app=web")[0].Name)
		}
		l.skein("delete", "deploy/web")
	}
	churn(2, 1) // what is opened once and kept
	before := holdings(t, "n1")
	churn(25, 1)
	l.crash("n1")
	churn(25, 1)
	l.crash("n1")
	churn(2, 1) // what the new one opens once and keeps
	l.await(30*time.Second, "descriptors, mounts and cgroups", func() string {
		after := holdings(t, "n1")
		delete(after, "socket") // those of people come and go: see below
		want := map[string]int{}
		for k, n := range before {
			if k != "socket" {
				want[k] = n
			}
		}
		return cmp.Diff(want, after)
	})
	l.await(30*time.Second, "sockets", func() string {
		if have := holdings(t, "n1")["socket"]; have > before["socket"]+8 {
			return fmt.Sprintf("%d are open, %d were before 40 calls were abandoned and 50 Pods had been there", have, before["socket"])
		}
		return ""
	})
	t.Logf("before %v, after %v", before, holdings(t, "n1"))
}
