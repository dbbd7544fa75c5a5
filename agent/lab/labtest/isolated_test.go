//go:build lab

package labtest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// isolation is a Deployment with a policy for nodes that are cut off.
func isolation(policy string) string {
	return strings.NewReplacer("writer", policy, "replicas: 1", "replicas: 3", "skein.dev/exclusive: \"true\"", "skein.dev/when-isolated: "+policy).Replace(single)
}

func TestOnlyWhatIsToStopStopsOnANodeThatIsCutOff(t *testing.T) {
	l := raise(t, 3)
	l.apply(isolation("stop"), "--timeout", "30s")
	l.apply(isolation("keep"), "--timeout", "30s")
	policy := map[string]string{} // by uid
	for _, app := range []string{"stop", "keep"} {
		for _, p := range l.pods("app=" + app) {
			policy[string(p.UID)] = app
		}
	}
	runs := func(node string) map[string]int {
		n := map[string]int{}
		for key := range processes(t, node) {
			uid, _, _ := strings.Cut(key, "/")
			n[policy[uid]]++
		}
		return n
	}
	restarts := l.restarts()
	l.lab("partition", "n1", "n2", "n3") // nobody has a quorum, so nobody replaces anything
	cut := time.Now()
	for _, node := range []string{"n1", "n2", "n3"} {
		l.await(30*time.Second, node+" stops what is to stop", func() string {
			n := runs(node)
			if n["keep"] != 1 {
				t.Fatalf("%v run on %s %.1f s after the cut, want what is to be kept", n, node, time.Since(cut).Seconds())
			}
			if n["stop"] != 0 {
				return fmt.Sprint(n)
			}
			return ""
		})
	}
	if took := time.Since(cut); took < 8*time.Second || took > 13*time.Second {
		t.Errorf("stopped %v after the cut, want 9 to 11 s", took)
	}
	l.lab("heal")
	l.await(comeback, "all run again", func() string {
		for _, app := range []string{"stop", "keep"} {
			ready := 0
			for _, p := range l.pods("app=" + app) {
				if _, same := policy[string(p.UID)]; same && isReady(&p) {
					ready++
				}
				if end := first(&p).LastTerminationState.Terminated; app == "stop" && (end == nil || end.Reason != "LeaseLost") {
					return fmt.Sprintf("%s ended with %+v", p.Name, end)
				}
			}
			if ready != 3 {
				return fmt.Sprintf("%d of %s are ready", ready, app)
			}
		}
		return ""
	})
	for pod, n := range l.restarts() {
		if strings.HasPrefix(pod, "keep") && n != restarts[pod] {
			t.Errorf("%s was restarted", pod)
		}
	}
}
