//go:build lab

package labtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestANodeIsCordonedDrainedAndUncordoned(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	_, node := l.leader()
	want := map[string]int{"n1": 3, "n2": 3, "n3": 3}
	delete(want, node)
	contains(l, "cordon", l.skein("node", "cordon", node), "node/"+node+" cordoned")
	l.skein("scale", "deploy/web", "--replicas", "8")
	if got := spread(l.pods("app=web")); got[node] != 2 {
		t.Errorf("after cordon and scaling up %v, want nothing new on %s", got, node)
	}
	begin := time.Now()
	contains(l, "drain", l.skein("node", "drain", node, "--timeout", "60s"), "node/"+node+" drained")
	t.Logf("drained in %.2f s", time.Since(begin).Seconds())
	want = map[string]int{"n1": 4, "n2": 4, "n3": 4}
	delete(want, node)
	l.awaitSpread(time.Second, "app=web", want)
	if got := processes(t, node); len(got) > 0 {
		t.Errorf("%s was drained, and still runs %v", node, got)
	}
	l.skein("node", "uncordon", node)
	l.skein("scale", "deploy/web", "--replicas", "10")
	if got := spread(l.pods("app=web")); got[node] != 2 {
		t.Errorf("after uncordon %v, want the new Pods on %s", got, node)
	}

	l.apply(onePod("lonely", "Always", "sleep"))
	on := l.pod("lonely").Spec.NodeName
	l.refused(5, "belongs to no Deployment", "node", "drain", on)
}

func TestOnlyALostNodeIsRemovedAndThenItOpensNothing(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "3")
	leader, node := l.leader()
	l.refused(5, node, "node", "rm", node)
	l.refused(5, leader, "node", "rm", leader)
	l.lab("kill", node)
	l.awaitNode(comeback, node, "Unknown NodeLost")
	l.await(20*time.Second, "it is removed", func() string {
		if got := l.try("node", "rm", node); got.code != 0 {
			return fmt.Sprintf("exit code %d: %s", got.code, got.err)
		}
		return ""
	})
	l.refused(1, node, "get", "node", node)
	l.lab("heal")
	l.awaitRemoved(node)
	if n := len(l.nodes()); n != 2 {
		t.Errorf("there are %d nodes, want 2: it must not come back by itself", n)
	}
	l.awaitReplaced(node, 3)
}

// other is the one of n1, n2 and n3 that is none of these.
func (l *lab) other(nodes ...string) string {
	l.Helper()
	for _, n := range []string{"n1", "n2", "n3"} {
		if !slices.Contains(nodes, n) {
			return n
		}
	}
	l.Fatalf("no node but %v", nodes)
	return ""
}

// awaitReplaced waits until all Pods of web run elsewhere.
func (l *lab) awaitReplaced(node string, want int) {
	l.Helper()
	l.await(comeback, "its Pods are replaced", func() string {
		got := spread(l.pods("app=web"))
		sum := 0
		for _, n := range got {
			sum += n
		}
		if got[node] > 0 || sum != want {
			return fmt.Sprint(got)
		}
		return ""
	})
}

// awaitRemoved waits until a node has ended because it was removed, and checks
// that it left nothing behind and does not begin anew.
func (l *lab) awaitRemoved(node string) {
	l.Helper()
	l.await(comeback, "it ends, and its Pods", func() string {
		if got := processes(l.T, node); len(got) > 0 {
			return fmt.Sprint(got)
		}
		if log := l.agentLog(node); !strings.Contains(log, "not started again: this node was removed") {
			return log[max(0, len(log)-500):]
		}
		return ""
	})
	if n := strings.Count(l.agentLog(node), "this node was removed from the cluster: its Pods end"); n != 1 {
		l.Errorf("its log says %d times that it was removed, want once", n)
	}
	contains(l, "status", l.do(l.command("skeind", "lab", "status", "--name", name)).out, "removed")
	if got := l.do(l.command("skeind", "lab", "start", node, "--name", name)); got.code == 0 || !strings.Contains(got.err, "was removed from the cluster") {
		l.Errorf("start: exit code %d, %s", got.code, got.err)
	}
	l.skeind("lab", "up", "--name", name) // without it
	if pid := l.agentPID(node); pid != 0 {
		l.Errorf("it has an agent again, process %d", pid)
	}
}

func TestANodeThatIsRemovedWhileItRunsEnds(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "3")
	_, node := l.leader()
	l.skein("node", "rm", node, "--force")
	begin := time.Now()
	l.awaitRemoved(node)
	t.Logf("a removed node had ended, with its Pods, after %.2f s", time.Since(begin).Seconds())
	l.awaitReplaced(node, 3)
}

func TestANodeThatIsCutOffIsNotTakenForRemoved(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "3")
	_, node := l.leader()
	l.lab("partition", node, l.other(node)+","+l.other(node, l.other(node)))
	l.awaitNode(comeback, node, "Unknown NodeLost")
	l.lab("heal")
	l.awaitNode(comeback, node, "True AgentReady")
	if log := l.agentLog(node); strings.Contains(log, "was removed") {
		t.Errorf("it was told that it is removed:\n%s", log)
	}
}
