//go:build lab

package labtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const single = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: writer}
spec:
  replicas: 1
  selector: {matchLabels: {app: writer}}
  template:
    metadata:
      labels: {app: writer}
      annotations: {skein.dev/exclusive: "true"}
    spec:
      containers:
      - {name: c, image: "skein/demo:v1"}
`

// sharedAfter is how long an exclusive Pod may take to come back: 11 s after its
// last lease, which is up to a second old, and what a start takes here. A leader
// that is elected meanwhile, as on a busy machine one may be more than once,
// waits anew.
const sharedAfter = 60 * time.Second

// A lookout counts, every 20 ms, on how many nodes a process of a container is.
type lookout struct {
	stop, done chan struct{}

	mu    sync.Mutex
	twice []string
	since map[string]time.Time // when a node was last seen to run something after it ran nothing
	last  map[string]time.Time
}

func (l *lab) lookOut() *lookout {
	o := &lookout{stop: make(chan struct{}), done: make(chan struct{}), since: map[string]time.Time{}, last: map[string]time.Time{}}
	l.Cleanup(o.end)
	go func() {
		defer close(o.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-o.stop:
				return
			case <-tick.C:
			}
			o.look(l.T)
		}
	}()
	return o
}

func (o *lookout) look(t *testing.T) {
	var runs []string
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range []string{"n1", "n2", "n3"} {
		if len(processes(t, n)) == 0 {
			delete(o.since, n)
			continue
		}
		runs = append(runs, n)
		if o.since[n].IsZero() {
			o.since[n] = now
		}
		o.last[n] = now
	}
	if len(runs) > 1 {
		o.twice = append(o.twice, fmt.Sprint(now.Format("15:04:05.000"), runs))
	}
}

func (o *lookout) end() {
	select {
	case <-o.stop:
	default:
		close(o.stop)
	}
	<-o.done
}

func (o *lookout) times(node string) (since, last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.since[node], o.last[node]
}

// runsOn waits until the one Pod is ready on one of the nodes.
func (l *lab) runsOn(nodes ...string) string {
	l.Helper()
	on := ""
	l.await(sharedAfter, "the Pod is ready on "+fmt.Sprint(nodes), func() string {
		var list corev1.PodList
		got := l.try("get", "pods", "-l", "app=writer", "-o", "json")
		if err := json.Unmarshal([]byte(got.out), &list); err != nil {
			return got.err // who was asked may be the one whose agent was killed
		}
		for _, p := range list.Items {
			if on = p.Spec.NodeName; p.DeletionTimestamp == nil && isReady(&p) && slices.Contains(nodes, on) {
				return ""
			}
		}
		return "it is on " + on + "."
	})
	return on
}

// move makes sure that the Pod is on a node, which is then one that votes.
func (l *lab) move(to string) {
	l.Helper()
	for _, n := range []string{"n1", "n2", "n3"} {
		if n != to {
			l.skein("node", "cordon", n)
		}
	}
	l.skein("restart", "deploy/writer", "--timeout", "30s")
	l.runsOn(to)
	for _, n := range []string{"n1", "n2", "n3"} {
		if n != to {
			l.skein("node", "uncordon", n)
		}
	}
}

func TestAnExclusivePodNeverRunsTwice(t *testing.T) {
	signal := func(sig syscall.Signal) func(*lab, string) {
		return func(l *lab, node string) {
			l.Helper()
			if err := syscall.Kill(l.agentPID(node), sig); err != nil {
				l.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		leader bool // the node that is cut off leads
		then   func(l *lab, lone string)
		after  func(l *lab, lone string)
	}{
		"a follower is cut off":                      {},
		"the leader is cut off":                      {leader: true},
		"and its agent is killed":                    {then: signal(syscall.SIGKILL)},
		"and its agent stands still":                 {then: signal(syscall.SIGSTOP), after: signal(syscall.SIGCONT)},
		"the leader, and its agent stands still":     {leader: true, then: signal(syscall.SIGSTOP), after: signal(syscall.SIGCONT)},
		"and those who remain change the leader too": {then: changeLeader},
	} {
		t.Run(name, func(t *testing.T) {
			l := raise(t, 3)
			l.apply(single, "--timeout", "30s")
			leader, lone := l.leader()
			if test.leader {
				lone = leader
			}
			o := l.lookOut()
			l.move(lone)
			var rest []string
			for _, n := range []string{"n1", "n2", "n3"} {
				if n != lone {
					rest = append(rest, n)
				}
			}
			cut := time.Now()
			l.lab("partition", rest[0]+","+rest[1], lone)
			if test.then != nil {
				test.then(l, lone)
			}
			on := l.runsOn(rest...)
			since, _ := o.times(on)
			_, last := o.times(lone)
			t.Logf("cut off: killed after %.2f s, started on %s after %.2f s", last.Sub(cut).Seconds(), on, since.Sub(cut).Seconds())
			if last.Sub(cut) < 7*time.Second || since.Sub(last) < 100*time.Millisecond {
				t.Errorf("killed after %v, started %v later", last.Sub(cut), since.Sub(last))
			}
			if test.after != nil {
				test.after(l, lone)
			}
			l.lab("heal")
			l.awaitNode(comeback, lone, "True AgentReady")
			l.runsOn(rest...)
			o.end()
			if len(o.twice) > 0 {
				t.Errorf("it ran twice at once: %d times, first at %s", len(o.twice), o.twice[0])
			}
		})
	}
}

// changeLeader kills the agent of the leader while another node is cut off.
func changeLeader(l *lab, lone string) {
	l.Helper()
	leader, _ := l.leader()
	if leader == lone {
		l.Fatal("the lonely side has a leader")
	}
	if err := syscall.Kill(l.agentPID(leader), syscall.SIGKILL); err != nil {
		l.Fatal(err)
	}
}

func TestAFencedPodThatIsNotReplacedSaysWhyItEnded(t *testing.T) {
	l := raise(t, 1)
	l.apply(single, "--timeout", "30s")
	pods := l.pods("app=writer")
	if len(pods) != 1 {
		t.Fatalf("%d Pods, want 1", len(pods))
	}
	before := processes(t, "n1")
	// An agent that stands still renews nothing; once it goes on it finds the Pod
	// killed, and starts it again under a new lease.
	if err := syscall.Kill(l.agentPID("n1"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for len(processes(t, "n1")) > 0 && time.Since(begin) < sharedAfter {
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
	took := time.Since(begin)
	if err := syscall.Kill(l.agentPID("n1"), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if took < 8*time.Second || took > 11*time.Second {
		t.Errorf("%v was killed after %v, want 9 to 10 s", before, took)
	}
	l.await(sharedAfter, "it runs again and tells why it ended", func() string {
		p := l.pods("app=writer")[0]
		end := first(&p).LastTerminationState.Terminated
		if !isReady(&p) || end == nil || end.Reason != "LeaseLost" {
			return fmt.Sprintf("ready %v, %+v", isReady(&p), end)
		}
		return ""
	})
}
