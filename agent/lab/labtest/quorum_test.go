//go:build lab

package labtest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// at runs skein as root of one node, by its socket.
func (l *lab) at(node string, args ...string) result {
	l.Helper()
	return l.try(append([]string{"--socket", l.dir + "/" + node + "/skein.sock"}, args...)...)
}

func TestWithoutAQuorumPodsGoOnReadsTellTheirAgeAndWritesExit7(t *testing.T) {
	l := raise(t, 4)
	runWeb(l, "8")
	voters := l.awaitVoters(3)
	nodes := l.nodes()
	outside := ""
	for name := range nodes {
		if !slices.Contains(voters, name) {
			outside = name
		}
	}
	left := voters[0]
	l.lab("kill", voters[1])
	l.lab("kill", voters[2])

	for _, node := range []string{left, outside} {
		l.await(30*time.Second, node+" answers with the age of what it says", func() string {
			got := l.at(node, "get", "pods")
			if got.code != 0 || !strings.Contains(got.err, "warning: no leader; this answer is") {
				return fmt.Sprintf("exit code %d\n%s%s", got.code, got.out, got.err)
			}
			return ""
		})
		status := l.at(node, "status")
		contains(l, "status at "+node, status.out, "no leader", "nothing can be changed", "skeind recover")
		l.killed(node)
	}
	got := l.at(left, "scale", "deploy/web", "--replicas", "9", "--timeout", "3s")
	if got.code != 7 || !strings.Contains(got.err, "hint:") {
		t.Errorf("a write: exit code %d, want 7 and a hint\n%s", got.code, got.err)
	}
	l.lab("heal")
	l.await(30*time.Second, "a write is accepted", func() string {
		if got := l.try("label", "deploy/web", "seen=after"); got.code != 0 {
			return got.err + "."
		}
		return ""
	})
}

// killed kills a container's process and waits until another runs in its place.
func (l *lab) killed(node string) {
	l.Helper()
	before := processes(l.T, node)
	for key, pids := range before {
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
			l.Fatal(err)
		}
		took := l.await(comeback, "what died on "+node+" runs again", func() string {
			now := processes(l.T, node)
			if len(now) != len(before) || slices.Contains(now[key], pids[0]) {
				return fmt.Sprint(now)
			}
			return ""
		})
		l.Logf("on %s a container ran again %.2f s after it was killed", node, took.Seconds())
		return
	}
	l.Errorf("nothing runs on %s", node)
}

// awaitVoters waits until so many nodes vote, and names them.
func (l *lab) awaitVoters(want int) (names []string) {
	l.Helper()
	l.await(comeback, "nodes vote", func() string {
		names = nil
		for name, n := range l.nodes() {
			if n.Labels["skein.dev/voter"] == "true" {
				names = append(names, name)
			}
		}
		if slices.Sort(names); len(names) != want {
			return fmt.Sprint(names)
		}
		return ""
	})
	return names
}
