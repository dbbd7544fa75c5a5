//go:build lab

package labtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// agentPID is the process of a node's agent, 0 while there is none.
func (l *lab) agentPID(node string) int {
	l.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, node, "data", "keeper", "agent.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		l.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		l.Fatal(err)
	}
	return pid
}

// pids are the processes in all containers of the lab.
func pids(t *testing.T, nodes ...string) map[string]map[string][]int {
	t.Helper()
	out := map[string]map[string][]int{}
	for _, n := range nodes {
		out[n] = processes(t, n)
	}
	return out
}

func (l *lab) restarts() map[string]int32 {
	l.Helper()
	out := map[string]int32{}
	for _, p := range l.pods("") {
		out[p.Name+" on "+p.Spec.NodeName] = first(&p).RestartCount
	}
	return out
}

func TestAKilledAgentAdoptsWhatItRan(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	leader, follower := l.leader()
	for _, node := range []string{follower, leader} {
		containers, restarts, agent := pids(t, "n1", "n2", "n3"), l.restarts(), l.agentPID(node)
		if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		took := l.await(comeback, "the agent of "+node+" is back", func() string {
			if got := l.agentPID(node); got == agent || got == 0 {
				return "there is no new process"
			}
			if got := l.try("get", "node", node, "-o", "json"); got.code != 0 || !strings.Contains(got.out, `"AgentReady"`) {
				return got.err + "not ready."
			}
			return ""
		})
		t.Logf("the agent of %s was killed: back and ready after %.2f s", node, took.Seconds())
		l.awaitSpread(comeback, "app=web", map[string]int{"n1": 2, "n2": 2, "n3": 2})
		if diff := cmp.Diff(containers, pids(t, "n1", "n2", "n3")); diff != "" {
			t.Errorf("processes in containers (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(restarts, l.restarts()); diff != "" {
			t.Errorf("Pods and their restarts (-before +after):\n%s", diff)
		}
	}
}

// fetchInside asks a server on the loopback of the network namespace of a process.
func fetchInside(t *testing.T, pid int, url string) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with us
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(ns, unix.CLONE_NEWNET)
			_ = unix.Close(ns)
		}
		if err != nil {
			failed <- err
			return
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: 8080, Addr: [4]byte{127, 0, 0, 1}})
		}
		if err == nil {
			_, err = unix.Write(fd, []byte("GET "+url+" HTTP/1.0\r\n\r\n"))
		}
		if err == nil {
			_, err = io.ReadAll(os.NewFile(uintptr(fd), "connection"))
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Logf("GET %s: %v", url, err) // it may have ended before it answered
	}
}

func TestAnEndWhileTheAgentWasAwayIsToldWithItsCode(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	_, node := l.leader()
	var doomed string
	var uid string
	for _, p := range l.pods("app=web") {
		if p.Spec.NodeName == node {
			doomed, uid = p.Name, string(p.UID)
		}
	}
	containers := pids(t, "n1", "n2", "n3")
	l.lab("stop", node)
	l.awaitNode(comeback, node, "Unknown AgentGone")
	fetchInside(t, containers[node][uid+"/web.0"][0], "/exit?code=7")
	l.await(5*time.Second, "the container ends", func() string {
		if left := processes(t, node)[uid+"/web.0"]; len(left) > 0 {
			return fmt.Sprint(left)
		}
		return ""
	})
	l.lab("start", node)
	l.await(comeback, "the end is told", func() string {
		s := first(l.pod(doomed))
		if end := s.LastTerminationState.Terminated; end == nil || end.ExitCode != 7 || s.RestartCount != 1 || s.State.Running == nil {
			return string(marshal(t, s))
		}
		return ""
	})
	after := pids(t, "n1", "n2", "n3")
	delete(containers[node], uid+"/web.0")
	delete(after[node], uid+"/web.1")
	if diff := cmp.Diff(containers, after); diff != "" {
		t.Errorf("processes in the other containers (-before +after):\n%s", diff)
	}
	l.awaitSpread(comeback, "app=web", map[string]int{"n1": 2, "n2": 2, "n3": 2})
}

func TestAnAgentAwayForLongerThanItsGraceLosesItsPods(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	_, node := l.leader()
	begin := time.Now()
	l.lab("stop", node)
	want := map[string]int{"n1": 3, "n2": 3, "n3": 3}
	delete(want, node)
	l.awaitSpread(45*time.Second, "app=web", want)
	took := time.Since(begin)
	t.Logf("an agent was away: its Pods were ready elsewhere after %.2f s", took.Seconds())
	if took < 29*time.Second {
		t.Errorf("its Pods were replaced after %v, want 30 s of grace", took)
	}
	if got := processes(t, node); len(got) != 2 {
		t.Errorf("without its agent %s runs %v, want its two containers untouched", node, got)
	}
	l.lab("start", node)
	l.awaitNode(comeback, node, "True AgentReady")
	l.await(comeback, "it sheds what is surplus", func() string {
		if got := processes(t, node); len(got) > 0 {
			return fmt.Sprint(got)
		}
		return ""
	})
	if diff := cmp.Diff(want, spread(l.pods("app=web"))); diff != "" {
		t.Errorf("Pods on nodes (-want +got):\n%s", diff)
	}
}
