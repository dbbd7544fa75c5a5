//go:build lab

package labtest

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// exitNoLeader is what a write ends with while nobody leads.
const exitNoLeader = 7

// dataDir is where a node of the lab keeps its state.
func (l *lab) dataDir(node string) string { return filepath.Join(l.dir, node, "data") }

// inNode runs a skeind command with a node's network and must work.
func (l *lab) inNode(node string, args ...string) result {
	l.Helper()
	return l.do(l.command("skeind", append([]string{"lab", "exec", "--name", name, node, "--", filepath.Join(bin, "skeind")}, args...)...))
}

func TestAClusterThatLostTwoOfThreeForGoodIsReformedOnTheThird(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "6")
	l.skein("label", "deploy/web", "kept=yes")
	l.lab("kill", "n2")
	l.lab("kill", "n3")
	l.await(comeback, "writes are refused", func() string { // the first may be in the log, and nobody knows
		if got := l.try("label", "deploy/web", "in=between"); got.code != exitNoLeader {
			return got.out + got.err + "."
		}
		return ""
	})
	before := processes(t, "n1")

	look := l.inNode("n1", "recover", "--data-dir", l.dataDir("n1"))
	contains(l, "recover without --yes", look.out, "last entry", "voters       n1, n2, n3", "What may be lost", "n2 and n3", "Nothing was changed")
	l.await(comeback, "writes are refused as before", func() string { // the agent starts again after it was read
		if got := l.try("label", "deploy/web", "in=between"); got.code != exitNoLeader {
			return got.out + got.err + "."
		}
		return ""
	})

	begin := time.Now()
	done := l.inNode("n1", "recover", "--data-dir", l.dataDir("n1"), "--yes")
	contains(l, "recover --yes", done.out, "n1 is the only voter of epoch 1", "n2 and n3 count as lost")
	l.await(20*time.Second, "a write is accepted", func() string {
		if got := l.try("label", "deploy/web", "seen=after"); got.code != 0 {
			return got.err + "."
		}
		return ""
	})
	t.Logf("a write was accepted %.2f s after the command", time.Since(begin).Seconds())
	contains(l, "the Deployment", l.skein("get", "deploy", "web", "-o", "yaml"), "kept: \"yes\"")
	l.awaitSpread(20*time.Second, "app=web", map[string]int{"n1": 6})
	after := processes(t, "n1")
	for id, pids := range before {
		if diff := cmp.Diff(pids, after[id]); diff != "" {
			t.Errorf("container %s of n1 did not live through the recovery (-before +after):\n%s", id, diff)
		}
	}

	// The dead come back together. They are a majority of the old epoch, and
	// must command nobody.
	l.lab("heal")
	l.awaitNode(40*time.Second, "n2", "True AgentReady")
	l.awaitNode(40*time.Second, "n3", "True AgentReady")
	l.await(40*time.Second, "three nodes vote", func() string {
		if got := l.try("status"); !strings.Contains(got.out, "survives the loss of 1 machine") {
			return got.out + got.err + "."
		}
		return ""
	})
	contains(l, "a label of the new epoch", l.skein("get", "deploy", "web", "-o", "yaml"), "seen: after")
	l.skein("scale", "deploy/web", "--replicas", "7")
	l.lab("kill", "n1")
	l.await(comeback, "a write is accepted without the one that re-formed it", func() string {
		if got := l.try("label", "deploy/web", "by=others"); got.code != 0 {
			return got.err + "."
		}
		return ""
	})
	contains(l, "the Deployment on the newcomers", l.skein("get", "deploy", "web", "-o", "yaml"), "seen: after", "by: others")
}
