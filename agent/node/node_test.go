package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
)

func TestAnAssignedPodRunsAndIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		pod := w.get("a")
		if pod.Status.Phase != corev1.PodRunning || len(w.running("a")) != 1 {
			t.Fatalf("phase %q with %d containers, want one that runs", pod.Status.Phase, len(w.running("a")))
		}
		s := pod.Status.ContainerStatuses[0]
		if !s.Ready || s.RestartCount != 0 || s.ImageID != "sha256:web" {
			t.Errorf("status %+v, want ready, never restarted, of its image", s)
		}
	})
}

func TestANewAgentAdoptsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		stop := w.run()
		w.putObject(newPod("a"))
		pass(time.Second)
		before := w.running("a")
		stop()
		defer w.run()()
		pass(time.Minute)
		if after := w.running("a"); len(after) != 1 || after[0].PID != before[0].PID || w.driver.Starts(after[0].ID) != 1 {
			t.Errorf("containers %+v, want the one of before: %+v", after, before)
		}
	})
}

func TestAnEndWhileNoAgentRanIsReportedWithItsCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		stop := w.run()
		w.putObject(newPod("a", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		pass(time.Second)
		stop()
		w.driver.Exit(container.ID{Pod: "uid-a", Name: "c"}, 7)
		defer w.run()()
		pass(time.Second)
		pod := w.get("a")
		if end := pod.Status.ContainerStatuses[0].State.Terminated; pod.Status.Phase != corev1.PodFailed || end == nil || end.ExitCode != 7 {
			t.Errorf("phase %q, state %+v; want failed with exit code 7", pod.Status.Phase, pod.Status.ContainerStatuses[0].State)
		}
	})
}

func TestAnEmptyCopyStopsNothingBeforeItHasCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		stop := w.run()
		w.putObject(newPod("a"))
		pass(time.Second)
		stop()
		fresh := newWorld(t, containertest.RunForever) // its store knows no Pod
		fresh.driver, fresh.synced = w.driver, make(chan struct{})
		defer fresh.run()()
		pass(time.Hour)
		if len(w.running("a")) != 1 {
			t.Fatal("a Pod was stopped by an agent that knows nothing yet")
		}
		close(fresh.synced)
		pass(time.Minute)
		if len(w.running("a")) != 0 {
			t.Error("a Pod runs on that the cluster does not know")
		}
	})
}

func TestAReturningMachineAsksBeforeItStartsWhatItRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		w.synced = make(chan struct{})
		w.putObject(newPod("stays"))
		w.putObject(newPod("moved"))
		defer w.run()()
		pass(time.Second)
		if got := len(w.running("stays")) + len(w.running("moved")); got != 0 {
			t.Errorf("%d containers run before the cluster was heard, want none", got)
		}
		w.commit(object.Delete(state.Key{Kind: object.KindPod, Namespace: "default", Name: "moved"}, object.Version(w.get("moved"))))
		close(w.synced)
		pass(100 * time.Millisecond)
		if len(w.running("stays")) != 1 || len(w.running("moved")) != 0 {
			t.Errorf("running: %v and %v, want the Pod that is still here, and not the one that has moved", w.running("stays"), w.running("moved"))
		}
	})
}

func TestAReturningMachineThatHearsNobodyStartsWhatItRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		w.synced = make(chan struct{})
		w.putObject(newPod("a"))
		defer w.run()()
		pass(alonePatience + 100*time.Millisecond)
		if got := len(w.running("a")); got != 1 {
			t.Errorf("%d containers run after %v alone, want 1", got, alonePatience)
		}
	})
}

func TestADeletedPodIsStoppedAndThenGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Runs: containertest.Forever, TermTime: 3 * time.Second}
		})
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		w.delete("a", 30)
		pass(2 * time.Second)
		if w.get("a") == nil || len(w.running("a")) != 1 {
			t.Fatal("the Pod did not get the time that it asked for")
		}
		pass(2 * time.Second)
		if w.get("a") != nil || len(w.running("a")) != 0 {
			t.Error("the Pod has not gone after it had ended")
		}
	})
}

func TestAPodHasItsGraceWhateverTheClockOfWhoDeletesIt(t *testing.T) {
	for _, theirs := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(container.Spec) containertest.Process {
				return containertest.Process{Runs: containertest.Forever, Stubborn: true}
			})
			w.theirs = theirs
			defer w.run()()
			w.putObject(newPod("a"))
			pass(time.Second)
			w.delete("a", 30)
			pass(28 * time.Second)
			if len(w.running("a")) != 1 {
				t.Errorf("deleted by a clock that is ahead by %s, the Pod did not get its 30 s", theirs)
			}
			pass(5 * time.Second)
			if w.get("a") != nil || len(w.running("a")) != 0 {
				t.Errorf("deleted by a clock that is ahead by %s, the Pod outlives its 30 s", theirs)
			}
		})
	}
}

func TestAClockThatIsSetBackHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Runs: 100 * time.Millisecond, Code: 1}
		})
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		w.clock.Store(-int64(time.Hour))
		pass(12 * time.Second)
		if s := w.get("a").Status.ContainerStatuses[0]; s.RestartCount != 2 {
			t.Errorf("%d restarts, want 2", s.RestartCount)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		stop := w.run()
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
				InitialDelaySeconds: 10, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
			}
		}))
		pass(time.Second)
		w.clock.Store(-int64(time.Hour))
		stop() // the next agent asks the wall clock how long ago it started
		defer w.run()()
		pass(12 * time.Second)
		if !w.get("a").Status.ContainerStatuses[0].Ready {
			t.Error("the Pod is not ready, 12 s after an agent found it with a delay of 10 s")
		}
	})
}

func TestAShorterGraceCutsTheLongerOneShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Runs: containertest.Forever, Stubborn: true}
		})
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		w.delete("a", 600)
		pass(5 * time.Second)
		w.delete("a", 1)
		pass(5 * time.Second)
		if w.get("a") != nil || len(w.running("a")) != 0 {
			t.Error("a stubborn Pod still runs, 4 s after its grace was cut to 1 s")
		}
	})
}

func TestACrashingContainerIsRestartedLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Runs: 100 * time.Millisecond, Code: 1}
		})
		defer w.run()()
		w.putObject(newPod("a"))
		for _, step := range []struct {
			after    time.Duration
			restarts int32
		}{{time.Second, 1}, {5 * time.Second, 1}, {6 * time.Second, 2}, {15 * time.Second, 2}, {10 * time.Second, 3}} {
			pass(step.after)
			s := w.get("a").Status.ContainerStatuses[0]
			if s.RestartCount != step.restarts {
				t.Fatalf("%d restarts, want %d", s.RestartCount, step.restarts)
			}
			if s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.LastTerminationState.Terminated.ExitCode != 1 {
				t.Errorf("state %+v, want CrashLoopBackOff after exit code 1", s.State)
			}
		}
	})
}

func TestAnImageThatCannotBeHadIsSaidAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		w.absent["web"] = &PullError{Reason: "ErrImagePull", Err: errors.New("no machine has it")}
		defer w.run()()
		w.putObject(newPod("a"))
		pass(20 * time.Second)
		wait := w.get("a").Status.ContainerStatuses[0].State.Waiting
		if wait == nil || wait.Reason != "ImagePullBackOff" || !strings.Contains(wait.Message, "no machine has it") {
			t.Fatalf("waits for %+v, want ImagePullBackOff with the reason", wait)
		}
		want := []string{"ErrImagePull", "ImagePullBackOff", "ImagePullBackOff", "ImagePullBackOff"} // at 0, 2, 6 and 14 s
		if got := w.warnings(t); !slices.Equal(got, want) {
			t.Errorf("events %q, want one of each attempt: %q", got, want)
		}
		w.mu.Lock()
		delete(w.absent, "web")
		w.mu.Unlock()
		pass(time.Minute)
		if len(w.running("a")) != 1 {
			t.Error("the Pod does not run although its image is there")
		}
	})
}

// warnings lists the reasons of the warnings that were told.
func (w *world) warnings(t *testing.T) (reasons []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, req := range w.reports {
		for _, body := range req.GetEvents() {
			var e corev1.Event
			if err := json.Unmarshal(body, &e); err != nil {
				t.Fatal(err)
			}
			if e.Type == corev1.EventTypeWarning {
				reasons = append(reasons, e.Reason)
			}
		}
	}
	return reasons
}

func TestWithoutALeaderPodsRunOnAndTheNextOneHearsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		w.mu.Lock()
		w.deaf = true
		w.mu.Unlock()
		w.driver.Exit(container.ID{Pod: "uid-a", Name: "c"}, 3)
		pass(10 * time.Minute)
		if len(w.running("a")) != 1 {
			t.Fatal("a container that ended was not restarted without a leader")
		}
		w.mu.Lock()
		w.deaf = false
		w.mu.Unlock()
		pass(10 * time.Second)
		if got := w.get("a").Status.ContainerStatuses[0].RestartCount; got != 1 {
			t.Errorf("the new leader heard of %d restarts, want 1", got)
		}
	})
}

func TestContainersOfAPodThatWasGivenUpAreStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		pod := w.get("a")
		pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "NodeLost"
		w.putObject(pod)
		pass(time.Second)
		if len(w.running("a")) != 0 {
			t.Error("a Pod that the leader gave up runs on")
		}
	})
}

// serve answers the probes of a container as handler does.
func serve(handler http.Handler) func(network, address string) (net.Conn, error) {
	return func(string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			l := &oneConn{conn: far, done: make(chan struct{})}
			_ = (&http.Server{Handler: handler, ReadHeaderTimeout: time.Second}).Serve(l)
		}()
		return near, nil
	}
}

// oneConn is a listener with one connection to accept.
type oneConn struct {
	conn net.Conn
	done chan struct{}
	once bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.once {
		l.once = true
		return l.conn, nil
	}
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func TestReadinessFollowsTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		healthy := make(chan bool, 1)
		healthy <- false
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Runs: containertest.Forever, Dial: serve(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				ok := <-healthy
				healthy <- ok
				if !ok {
					http.Error(rw, "warming up", http.StatusServiceUnavailable)
				}
			}))}
		})
		defer w.run()()
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
				PeriodSeconds: 10, TimeoutSeconds: 1, FailureThreshold: 3, SuccessThreshold: 1,
			}
		}))
		ready := func() bool { return w.get("a").Status.ContainerStatuses[0].Ready }
		pass(3 * time.Second)
		if ready() {
			t.Fatal("ready before its probe has succeeded")
		}
		why := func() string {
			for _, c := range w.get("a").Status.Conditions {
				if c.Type == corev1.PodReady {
					return c.Message
				}
			}
			return ""
		}
		pass(10 * time.Second)
		if want := "503 Service Unavailable: warming up"; !strings.Contains(why(), want) {
			t.Errorf("it is not ready because %q, want %q in it", why(), want)
		}
		<-healthy
		healthy <- true
		pass(11 * time.Second)
		if why() != "" {
			t.Errorf("it is ready, and still said not to be because %q", why())
		}
		if !ready() {
			t.Fatal("not ready although its probe succeeds")
		}
		<-healthy
		healthy <- false
		pass(15 * time.Second)
		if !ready() {
			t.Error("unready after fewer failures than its threshold")
		}
		pass(20 * time.Second)
		if ready() {
			t.Error("still ready after three failures")
		}
		if len(w.running("a")) != 1 || w.get("a").Status.ContainerStatuses[0].RestartCount != 0 {
			t.Error("a failing readiness probe has restarted the container")
		}
	})
}

func TestAFailingLivenessProbeRestartsTheContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(spec container.Spec) containertest.Process {
			return containertest.Process{Runs: containertest.Forever, Exec: func(context.Context, container.ExecSpec) (int, error) {
				if spec.ID.Attempt == 0 {
					return 1, nil
				}
				return 0, nil
			}}
		})
		defer w.run()()
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}},
				PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 3,
			}
		}))
		pass(10 * time.Second)
		s := w.get("a").Status.ContainerStatuses[0]
		if s.RestartCount != 1 || s.State.Running == nil {
			t.Fatalf("%d restarts, state %+v; want one restart, and healthy since", s.RestartCount, s.State)
		}
		pass(time.Hour)
		if got := w.get("a").Status.ContainerStatuses[0].RestartCount; got != 1 {
			t.Errorf("%d restarts after an hour of health, want 1", got)
		}
	})
}

func TestEachStartIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Runs: containertest.Forever, StartTime: 50 * time.Millisecond}
		})
		defer w.run()()
		const pods = 20
		for i := range pods {
			name := fmt.Sprint("p", i)
			w.putObject(newPod(name))
			pass(10 * time.Millisecond)
			w.putObject(newPod(name, func(p *corev1.Pod) { p.Labels = map[string]string{"changed": "while it starts"} }))
			pass(100 * time.Millisecond)
		}
		pass(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		told := map[string]int{}
		for _, r := range w.reports {
			for _, body := range r.GetEvents() {
				var ev corev1.Event
				if err := json.Unmarshal(body, &ev); err != nil {
					t.Fatal(err)
				}
				if ev.Reason == "Started" {
					told[ev.InvolvedObject.Name]++
				}
			}
		}
		for i := range pods {
			if name := fmt.Sprint("p", i); told[name] != 1 {
				t.Errorf("the one start of Pod %s was told %d times", name, told[name])
			}
		}
	})
}
