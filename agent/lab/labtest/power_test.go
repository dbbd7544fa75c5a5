//go:build lab

package labtest

import (
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// comeback is the longest that Pods may be missing after their machine was lost.
// The promise is 3 s; a machine that runs other things too gets some more.
const comeback = 10 * time.Second

func runWeb(l *lab, replicas string) {
	l.Helper()
	l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", replicas, "--port", "8080", "--timeout", "30s")
}

func TestADeploymentRunsEvenlyOnEveryNode(t *testing.T) {
	l := raise(t, 3)
	begin := time.Now()
	runWeb(l, "6")
	t.Logf("six replicas were ready after %.2f s", time.Since(begin).Seconds())
	if diff := cmp.Diff(map[string]int{"n1": 2, "n2": 2, "n3": 2}, spread(l.pods("app=web"))); diff != "" {
		t.Errorf("Pods on nodes (-want +got):\n%s", diff)
	}
	voters := 0
	for _, n := range l.nodes() {
		if n.Labels["skein.dev/voter"] == "true" {
			voters++
		}
	}
	if voters != 3 {
		t.Errorf("%d nodes vote, want 3", voters)
	}
	contains(l, "status", l.skein("status"), "6 of 6", "Everything is as wanted", "survives the loss of 1 machine")
	l.skein("scale", "deploy/web", "--replicas", "3")
	l.awaitSpread(10*time.Second, "app=web", map[string]int{"n1": 1, "n2": 1, "n3": 1})
}

func TestThePodsOfAFollowerWithoutPowerRunElsewhere(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	leader, victim := l.leader()
	before := l.pods("app=web")
	begin := time.Now()
	l.lab("kill", victim)
	want := map[string]int{"n1": 3, "n2": 3, "n3": 3}
	delete(want, victim)
	l.awaitSpread(comeback, "app=web", want)
	t.Logf("a follower lost power: all Pods were ready elsewhere after %.2f s", time.Since(begin).Seconds())
	l.awaitNode(time.Second, victim, "Unknown NodeLost")
	text := l.skein("describe", "node", victim)
	contains(l, "describe node", text, "NodeLost", "missed its beats", "verified", leader)
	l.awaitEvents("NodeLost", "Replaced", "node/"+victim)
	after := map[string]string{}
	for _, p := range l.pods("app=web") {
		after[p.Name] = p.Spec.NodeName
	}
	for _, p := range before {
		if p.Spec.NodeName != victim && after[p.Name] != p.Spec.NodeName {
			t.Errorf("Pod %s was on %s and is on %q now: it had no reason to move", p.Name, p.Spec.NodeName, after[p.Name])
		}
	}

	l.lab("heal")
	took := l.awaitNode(comeback, victim, "True AgentReady")
	t.Logf("it was ready again %.2f s after its agent answered", took.Seconds())
	if got := processes(t, victim); len(got) != 0 {
		t.Errorf("%s came back with surplus containers: %v", victim, got)
	}
	if diff := cmp.Diff(want, spread(l.pods("app=web"))); diff != "" {
		t.Errorf("Pods have moved back (-want +got):\n%s", diff)
	}
}

func TestWritesGoOnAfterTheLeaderLostPower(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	leader, _ := l.leader()
	begin := time.Now()
	l.lab("kill", leader)
	l.await(comeback, "a write is accepted", func() string {
		if got := l.try("label", "deploy/web", "seen=after"); got.code != 0 {
			return got.err + "."
		}
		return ""
	})
	t.Logf("the leader lost power: a write was accepted after %.2f s", time.Since(begin).Seconds())
	want := map[string]int{"n1": 3, "n2": 3, "n3": 3}
	delete(want, leader)
	l.awaitSpread(comeback, "app=web", want)
	t.Logf("all Pods were ready elsewhere after %.2f s", time.Since(begin).Seconds())
	l.lab("heal")
	l.awaitNode(comeback, leader, "True AgentReady")
	l.await(20*time.Second, "three nodes vote", func() string {
		var list corev1.NodeList
		got := l.try("get", "nodes", "-o", "json")
		if err := json.Unmarshal([]byte(got.out), &list); err != nil {
			return got.err
		}
		voters := map[string]bool{}
		for _, n := range list.Items {
			if n.Labels["skein.dev/voter"] == "true" {
				voters[n.Name] = true
			}
		}
		return cmp.Diff(map[string]bool{"n1": true, "n2": true, "n3": true}, voters)
	})
}

func TestAClusterThatLostAllPowerComesBackWithAllItHad(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	l.skein("label", "deploy/web", "kept=yes")
	uids := func() map[string]string {
		out := map[string]string{}
		for _, kind := range []string{"deployments", "nodes", "namespaces", "revisions"} {
			var list struct {
				Items []struct {
					Metadata struct{ Name, UID string }
				}
			}
			l.object(&list, kind)
			for _, i := range list.Items {
				out[kind+"/"+i.Metadata.Name] = i.Metadata.UID
			}
		}
		return out
	}
	before := uids()
	for _, n := range []string{"n1", "n2", "n3"} {
		l.lab("kill", n)
	}
	begin := time.Now()
	l.lab("up")
	l.await(30*time.Second, "six Pods are ready", func() string {
		total := 0
		for n := range maps.Values(spread(l.pods("app=web"))) {
			total += n
		}
		return cmp.Diff(6, total)
	})
	t.Logf("after the power came back, six Pods were ready in %.2f s", time.Since(begin).Seconds())
	if diff := cmp.Diff(before, uids()); diff != "" {
		t.Errorf("objects (-before +after):\n%s", diff)
	}
	contains(l, "labels", l.skein("get", "deploy", "web", "-o", "yaml"), "kept: \"yes\"")
	for _, p := range l.pods("app=web") {
		contains(l, "logs of "+p.Name, l.skein("logs", p.Name), "listens on")
	}
}

func TestOfTwoNodesOnlyTheVoterJudges(t *testing.T) {
	l := raise(t, 2)
	runWeb(l, "4")
	voter, other := l.leader()
	begin := time.Now()
	l.lab("kill", other)
	l.awaitSpread(comeback+3*time.Second, "app=web", map[string]int{voter: 4})
	took := time.Since(begin)
	t.Logf("of two nodes, the one without a vote lost power: its Pods were ready elsewhere after %.2f s", took.Seconds())
	if took < 3*time.Second {
		t.Errorf("judged after %v, want 3 s of silence at least", took)
	}
	l.lab("heal")
	l.awaitNode(comeback, other, "True AgentReady")
	l.skein("scale", "deploy/web", "--replicas", "6")
	l.awaitSpread(comeback, "app=web", map[string]int{voter: 4, other: 2})
	before := processes(t, other)

	l.lab("kill", voter)
	l.refused(7, "led the cluster and does not answer", "scale", "deploy/web", "--replicas", "1", "--timeout", "3s")
	l.refused(7, "cannot tell without one whose token this is", "get", "pods") // its root it knows
	contains(l, "get pods by the socket", l.at(other, "get", "pods").out, "web-")
	if diff := cmp.Diff(before, processes(t, other)); diff != "" || len(before) != 2 {
		t.Errorf("containers on the survivor (-before +after), want the two that it had, %v:\n%s", before, diff)
	}
}
