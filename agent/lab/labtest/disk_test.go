//go:build lab

package labtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// What is done to a disk, and what its node then says of it.
var diskFaults = []struct {
	state     string
	condition corev1.NodeConditionType
	words     string
	writes    bool // a cluster of this node alone takes writes all the same
}{
	{"full", corev1.NodeDiskPressure, "is full", true},
	{"slow", "DiskSlow", "is slow", true},
	{"hang", "DiskSlow", "hangs", false},
	{"ro", "DiskReadOnly", "is read-only", false},
}

// writers write all along through one node, each write a label of its own.
type writers struct {
	l    *lab
	node string
	stop context.CancelFunc
	all  sync.WaitGroup

	mu    sync.Mutex
	acked []string // labels
}

func (l *lab) write(node string) *writers {
	ctx, cancel := context.WithCancel(l.Context())
	w := &writers{l: l, node: node, stop: cancel}
	begun := time.Now().UnixMilli()
	for who := range 2 {
		w.all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				label := fmt.Sprintf("w%d-%d-%d", begun, who, i) // one that is there already would be no write
				one, done := context.WithTimeout(ctx, 6*time.Second)
				cmd := l.command("skein", "--socket", l.dir+"/"+node+"/skein.sock", "label", "deploy/web", label+"=x")
				if err := cmd.Start(); err == nil {
					ended := make(chan error, 1)
					go func() { ended <- cmd.Wait() }()
					select {
					case err = <-ended:
					case <-one.Done():
						_ = cmd.Process.Kill()
						err = <-ended
					}
					if err == nil {
						w.mu.Lock()
						w.acked = append(w.acked, label)
						w.mu.Unlock()
					}
				}
				done()
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	l.Cleanup(w.end)
	return w
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *writers) end() {
	w.stop()
	w.all.Wait()
}

// verify ends them and looks that every acknowledged write is there.
func (w *writers) verify() {
	w.l.Helper()
	w.end()
	var web struct {
		Metadata struct{ Labels map[string]string }
	}
	w.l.object(&web, "deploy", "web")
	lost := slices.DeleteFunc(slices.Clone(w.acked), func(label string) bool { return web.Metadata.Labels[label] == "x" })
	if len(lost) > 0 {
		w.l.Errorf("of %d acknowledged writes %d are lost: %v", len(w.acked), len(lost), lost)
	}
	w.l.Logf("%d acknowledged writes through %s, all there", len(w.acked), w.node)
}

// condition is what a node says of itself, "" while it does not.
func condition(n corev1.Node, t corev1.NodeConditionType) string {
	for _, c := range n.Status.Conditions {
		if c.Type == t && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// seen asks one node about another.
func (l *lab) seen(by, node string) (n corev1.Node, why string) {
	got := l.at(by, "get", "node", node, "-o", "json")
	if err := json.Unmarshal([]byte(got.out), &n); got.code != 0 || err != nil {
		return n, got.err + "."
	}
	return n, ""
}

// spoil makes a disk bad, looks what comes of it, and makes it well.
func (l *lab) spoil(w *writers, victim, other string, fault int) {
	l.Helper()
	f := diskFaults[fault]
	before := w.count()
	l.lab("disk", victim, f.state)
	took := l.await(20*time.Second, "node "+victim+" says that its disk is bad", func() string {
		n, why := l.seen(other, victim)
		if why == "" && !strings.Contains(condition(n, f.condition), f.words) {
			why = fmt.Sprint(n.Status.Conditions)
		}
		return why
	})
	l.await(20*time.Second, "writes go on", func() string {
		if w.count() < before+10 {
			return fmt.Sprintf("%d since the disk of %s is bad", w.count()-before, victim)
		}
		return ""
	})
	l.Logf("%s %s: told after %.1f s", victim, f.state, took.Seconds())
	app := "extra-" + f.state + "-" + victim
	if got := l.at(other, "run", app, "--image", "skein/demo:v1", "--replicas", "3", "--port", "8080", "--timeout", "20s"); got.code != 0 {
		l.Errorf("Pods do not start elsewhere: exit code %d\n%s%s", got.code, got.out, got.err)
	}
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(l.at(other, "get", "pods", "-l", "app="+app, "-o", "json").out), &pods); err != nil {
		l.Error(err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName == victim {
			l.Errorf("Pod %s was placed on %s, whose disk is bad", p.Name, victim)
		}
	}
	contains(l, "status", l.at(other, "status").out, "node "+victim+" takes no new Pods", f.words)
	contains(l, "get nodes", l.at(other, "get", "nodes").out, string(f.condition))
	if n, why := l.seen(other, victim); why != "" || readiness(n) != "True AgentReady" {
		l.Errorf("node %s is %q, want it there all along (%s)", victim, readiness(n), why)
	}
	for _, word := range []string{"NodeLost", "Suspect"} {
		if events := l.at(other, "events").out; strings.Contains(events, word) {
			l.Errorf("%s of the node with the bad disk in the events:\n%s", word, events)
		}
	}
	l.at(other, "delete", "deploy", app)
}

// mend makes a disk well, by a start of the machine if nothing else helps, and
// waits until the node takes Pods again.
func (l *lab) mend(victim, state string) {
	l.Helper()
	if state == "ro" {
		l.lab("kill", victim)
		l.lab("heal")
	} else {
		l.lab("disk", victim, "heal")
	}
	took := l.await(30*time.Second, "node "+victim+" is well again", func() string {
		n, why := l.seen(victim, victim)
		if why == "" && readiness(n) != "True AgentReady" {
			why = readiness(n)
		}
		for _, f := range diskFaults {
			if c := condition(n, f.condition); c != "" {
				why = c
			}
		}
		return why
	})
	l.Logf("%s %s: well again after %.1f s", victim, state, took.Seconds())
}

func TestABadDiskCostsNoWriteAndNoNode(t *testing.T) {
	for _, role := range []string{"follower", "leader"} {
		t.Run(role, func(t *testing.T) {
			l := raise(t, 3, "--disk", "2G")
			runWeb(l, "3")
			l.awaitVoters(3)
			restarts := l.restarts()
			for i, f := range diskFaults {
				leader, victim := l.leader()
				if role == "leader" {
					leader, victim = victim, leader
				}
				names := slices.DeleteFunc([]string{"n1", "n2", "n3"}, func(n string) bool { return n == victim })
				w := l.write(names[0])
				l.await(comeback, "writes begin", func() string {
					if w.count() < 3 {
						return "none yet"
					}
					return ""
				})
				l.spoil(w, victim, names[1], i)
				if now, _ := l.leader(); role == "leader" && now == victim && (f.state == "hang" || f.state == "ro") {
					t.Errorf("%s still leads although nothing can be written there", victim)
				}
				if f.state == "ro" { // its containers die with the power that makes it well
					now := l.restarts()
					maps.DeleteFunc(now, func(pod string, _ int32) bool { return strings.HasPrefix(pod, "extra") })
					if diff := cmp.Diff(restarts, now); diff != "" {
						t.Errorf("containers were restarted (-before +after):\n%s", diff)
					}
				}
				l.mend(victim, f.state)
				w.verify()
				if t.Failed() {
					return
				}
			}
		})
	}
}

func TestASingleNodeOutlivesABadDisk(t *testing.T) {
	l := raise(t, 1, "--disk", "2G")
	runWeb(l, "2")
	for _, f := range diskFaults {
		w := l.write("n1")
		l.await(comeback, "writes begin", func() string {
			if w.count() < 3 {
				return "none yet"
			}
			return ""
		})
		l.lab("disk", "n1", f.state)
		l.Logf("%s since %s, %d writes before", f.state, time.Now().Format(time.TimeOnly), w.count())
		took := l.await(20*time.Second, "status says that the disk is bad", func() string {
			if got := l.at("n1", "status"); !strings.Contains(got.out, f.words) {
				return got.out + got.err
			}
			return ""
		})
		l.Logf("n1 %s: told after %.1f s, at %s", f.state, took.Seconds(), time.Now().Format(time.TimeOnly))
		before := w.count()
		begin := time.Now()
		if got := l.at("n1", "get", "pods"); got.code != 0 || strings.Contains(got.err, "age") {
			t.Errorf("a read: exit code %d\n%s", got.code, got.err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("a read took %v on a disk that is %s", took, f.state)
		}
		l.await(20*time.Second, "writes go on if they can", func() string {
			if f.writes && w.count() < before+3 {
				return fmt.Sprintf("%d since its disk is %s", w.count()-before, f.state)
			}
			return ""
		})
		if pods := processes(t, "n1"); len(pods) != 2 {
			t.Errorf("of two containers %v run", pods)
		}
		l.mend("n1", f.state)
		l.await(20*time.Second, "writes go on", func() string {
			if w.count() < before+3 {
				return fmt.Sprintf("%d since its disk was bad", w.count()-before)
			}
			return ""
		})
		w.verify()
		if t.Failed() {
			return
		}
	}
	if found, _ := filepath.Glob(filepath.Join(l.dir, "n1", "data", ".reserve")); len(found) == 0 {
		t.Error("the reserve was not made again")
	}
}
