//go:build lab

package labtest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAClusterWhoseMachinesAllGotOtherAddressesFindsItself(t *testing.T) {
	l := raise(t, 4) // one of them without a vote
	runWeb(l, "4")
	l.skein("label", "deploy/web", "kept=yes")
	l.lab("renumber")
	begin := time.Now()
	for i := range 4 {
		l.awaitNode(60*time.Second, fmt.Sprintf("n%d", i+1), "True AgentReady")
	}
	t.Logf("all nodes were ready %.2f s after their agents answered", time.Since(begin).Seconds())
	l.skein("label", "deploy/web", "seen=after")
	contains(l, "the Deployment", l.skein("get", "deploy", "web", "-o", "yaml"), "kept: \"yes\"", "seen: after")
	l.await(20*time.Second, "every Node tells its new address", func() string {
		text := l.skein("get", "nodes", "-o", "yaml")
		for i := range 4 {
			if !strings.Contains(text, fmt.Sprintf("10.213.0.%d:7373", 101+i)) {
				return text
			}
		}
		return ""
	})
	l.await(30*time.Second, "four Pods are ready", func() string {
		total := 0
		for _, n := range spread(l.pods("app=web")) {
			total += n
		}
		if total != 4 {
			return fmt.Sprintf("%d are", total)
		}
		return ""
	})
}
