//go:build lab

package labtest

import (
	"fmt"
	"testing"
	"time"
)

func TestACutOffNodeLosesItsPodsAndShedsThemWhenItReturns(t *testing.T) {
	for name, pick := range map[string]func(leader, follower string) string{
		"a follower": func(_, follower string) string { return follower },
		"the leader": func(leader, _ string) string { return leader },
	} {
		t.Run(name, func(t *testing.T) {
			l := raise(t, 3)
			runWeb(l, "6")
			lone := pick(l.leader())
			most, want := "", map[string]int{}
			for _, n := range []string{"n1", "n2", "n3"} {
				if n != lone {
					most += "," + n
					want[n] = 3
				}
			}
			begin := time.Now()
			l.lab("partition", most[1:], lone)
			l.await(comeback, "a write is accepted", func() string {
				if got := l.try("label", "--overwrite", "deploy/web", "cut="+lone); got.code != 0 {
					return got.err + "."
				}
				return ""
			})
			wrote := time.Since(begin)
			l.awaitSpread(comeback, "app=web", want)
			t.Logf("%s was cut off: a write was accepted after %.2f s, all Pods were ready elsewhere after %.2f s",
				name, wrote.Seconds(), time.Since(begin).Seconds())
			if got := processes(t, lone); len(got) != 2 {
				t.Errorf("on the lonely side %v runs, want its two containers", got)
			}
			if leader, _ := l.leader(); leader == lone {
				t.Errorf("%s still leads", lone)
			}
			l.lab("heal")
			l.awaitNode(comeback, lone, "True AgentReady")
			l.await(comeback, "it sheds what is surplus", func() string {
				if got := processes(t, lone); len(got) > 0 {
					return fmt.Sprint(got)
				}
				return ""
			})
			l.awaitSpread(time.Second, "app=web", want)
			contains(l, "status", l.skein("status"), "6 of 6")
		})
	}
}
