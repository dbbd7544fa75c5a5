//go:build lab

package labtest

import (
	"fmt"
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
	_ = l.do(l.command("skeind", "lab", "heal", "--name", name)) // its agent may well refuse to go on
	l.await(comeback, "its certificate is refused", func() string {
		refusals := l.agentLog(leader)
		if !strings.Contains(refusals, `err="node \"`+node+`\": `) {
			return refusals[max(0, len(refusals)-500):]
		}
		return ""
	})
	if got := processes(t, node); len(got) > 0 {
		t.Errorf("a node that was removed runs %v", got)
	}
	if n := len(l.nodes()); n != 2 {
		t.Errorf("there are %d nodes, want 2: it must not come back by itself", n)
	}
}
