package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
)

// A diary is what containers did, in order.
type diary struct {
	mu    sync.Mutex
	began time.Time
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) read() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, ", ")
}

// told is a world whose containers do what their names are told to, and write it
// down.
func told(t *testing.T, what map[string]containertest.Process) (*world, *diary) {
	d := &diary{began: time.Now()}
	return newWorld(t, func(spec container.Spec) containertest.Process {
		d.note("%s starts at %v", spec.ID.Name, time.Since(d.began).Round(time.Second))
		p, known := what[spec.ID.Name]
		if !known {
			p = containertest.Process{Runs: containertest.Forever}
		}
		exec := p.Exec
		p.Exec = func(ctx context.Context, e container.ExecSpec) (int, error) {
			d.note("%s in %s at %v", strings.Join(e.Args, " "), spec.ID.Name, time.Since(d.began).Round(time.Second))
			if exec == nil {
				return 0, nil
			}
			return exec(ctx, e)
		}
		return p
	}), d
}

func withInit(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			c := corev1.Container{Name: name, Image: "web"}
			if strings.HasPrefix(name, "side") {
				always := corev1.ContainerRestartPolicyAlways
				c.RestartPolicy = &always
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
	}
}

func secondsLong(n int, code int) containertest.Process {
	return containertest.Process{Runs: time.Duration(n) * time.Second, Code: code}
}

func TestInitContainersRunOneAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{"one": secondsLong(3, 0), "two": secondsLong(2, 0)})
		stop := w.run()
		w.putObject(newPod("a", withInit("one", "two")))
		pass(time.Second)
		pod := w.get("a")
		if c := pod.Status.Conditions[slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodInitialized })]; pod.Status.Phase != corev1.PodPending ||
			c.Status != corev1.ConditionFalse || !strings.Contains(c.Message, "one, two") {
			t.Errorf("phase %q, condition %+v; want Pending, waiting for both", pod.Status.Phase, c)
		}
		if s := pod.Status.ContainerStatuses[0].State.Waiting; s == nil || s.Reason != "PodInitializing" {
			t.Errorf("the app is %+v, want PodInitializing", pod.Status.ContainerStatuses[0].State)
		}
		pass(3 * time.Second)
		stop() // what has succeeded is not run again by the next agent
		defer w.run()()
		pass(10 * time.Second)
		if got, want := d.read(), "one starts at 0s, two starts at 3s, c starts at 5s"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		pod = w.get("a")
		if pod.Status.Phase != corev1.PodRunning || len(pod.Status.InitContainerStatuses) != 2 || !pod.Status.InitContainerStatuses[0].Ready {
			t.Errorf("phase %q, init %+v", pod.Status.Phase, pod.Status.InitContainerStatuses)
		}
	})
}

func TestAnInitContainerThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for policy, want := range map[corev1.RestartPolicy]corev1.PodPhase{
			corev1.RestartPolicyAlways: corev1.PodPending, corev1.RestartPolicyOnFailure: corev1.PodPending, corev1.RestartPolicyNever: corev1.PodFailed,
		} {
			w, d := told(t, map[string]containertest.Process{"one": secondsLong(1, 3)})
			stop := w.run()
			w.putObject(newPod("a", withInit("one"), func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }))
			pass(time.Minute)
			pod := w.get("a")
			if pod.Status.Phase != want || strings.Contains(d.read(), "c starts") {
				t.Errorf("%s: phase %q, want %q; %s", policy, pod.Status.Phase, want, d.read())
			}
			if n := strings.Count(d.read(), "one starts"); (policy == corev1.RestartPolicyNever) != (n == 1) || n > 6 {
				t.Errorf("%s: the init container was started %d times in a minute", policy, n)
			}
			stop()
		}
	})
}

func TestASidecarIsUpBeforeTheAppAndRestartsBesideIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(4 * time.Second)
		w, d := told(t, map[string]containertest.Process{
			"side": {Runs: containertest.Forever, TermTime: 2 * time.Second, Exec: func(context.Context, container.ExecSpec) (int, error) {
				if time.Now().Before(up) {
					return 1, nil
				}
				return 0, nil
			}},
			"one": secondsLong(1, 0),
		})
		defer w.run()()
		w.putObject(newPod("a", withInit("side", "one"), func(p *corev1.Pod) {
			p.Spec.InitContainers[0].StartupProbe = &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"up?"}}}, PeriodSeconds: 1, FailureThreshold: 10,
			}
		}))
		pass(10 * time.Second)
		lines := d.read()
		if !strings.HasPrefix(lines, "side starts at 0s") || !strings.Contains(lines, "one starts at 4s") && !strings.Contains(lines, "one starts at 5s") {
			t.Errorf("got %s", lines)
		}
		// It runs its restarts beside the app, which does not begin anew.
		w.driver.Exit(container.ID{Pod: "uid-a", Name: "side"}, 1)
		pass(5 * time.Second)
		lines = d.read()
		if len(w.running("a")) != 2 || strings.Count(lines, "side starts") != 2 || strings.Count(lines, "one starts") != 1 || strings.Count(lines, "c starts") != 1 {
			t.Errorf("%d containers run: %s", len(w.running("a")), lines)
		}
	})
}

func TestSidecarsEndAfterTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := told(t, map[string]containertest.Process{
			"side1": {Runs: containertest.Forever, TermTime: time.Second}, "side2": {Runs: containertest.Forever, TermTime: time.Second},
			"c": {Runs: containertest.Forever, TermTime: 3 * time.Second},
		})
		defer w.run()()
		w.putObject(newPod("a", withInit("side1", "side2")))
		pass(5 * time.Second)
		if n := len(w.running("a")); n != 3 {
			t.Fatalf("%d containers run, want 3", n)
		}
		w.delete("a", 30)
		var left []string
		for range 6 {
			var names []string
			for _, s := range w.running("a") {
				names = append(names, s.ID.Name)
			}
			slices.Sort(names)
			left = append(left, strings.Join(names, " "))
			pass(time.Second - 10*time.Millisecond)
		}
		want := "c side1 side2|c side1 side2|c side1 side2"
		if got := strings.Join(left, "|"); !strings.HasPrefix(got, want) || !strings.Contains(got, "|side1") || strings.Contains(got, "|side2") {
			t.Errorf("they ended so: %s", got)
		}
	})
}

func TestASidecarKeepsNoPodFromEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := told(t, map[string]containertest.Process{"c": secondsLong(5, 0), "side": {Runs: containertest.Forever, TermTime: time.Second}})
		defer w.run()()
		w.putObject(newPod("a", withInit("side"), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		pass(10 * time.Second)
		if pod := w.get("a"); pod.Status.Phase != corev1.PodSucceeded || len(w.running("a")) > 0 {
			t.Errorf("phase %q, %d containers run; want it to have succeeded", pod.Status.Phase, len(w.running("a")))
		}
	})
}

func hooks(start, stop *corev1.LifecycleHandler) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: start, PreStop: stop}
	}
}

func doing(command string) *corev1.LifecycleHandler {
	return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{command}}}
}

func TestHooksRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{"c": {Runs: containertest.Forever, Exec: func(context.Context, container.ExecSpec) (int, error) {
			time.Sleep(3 * time.Second)
			return 0, nil
		}}})
		defer w.run()()
		w.putObject(newPod("a", hooks(doing("post"), doing("pre"))))
		pass(time.Second)
		if s := w.get("a").Status.ContainerStatuses[0]; s.Ready || s.Started == nil || *s.Started {
			t.Errorf("ready %v, started %v during postStart", s.Ready, s.Started)
		}
		pass(4 * time.Second)
		if s := w.get("a").Status.ContainerStatuses[0]; !s.Ready {
			t.Errorf("not ready after postStart: %+v", s)
		}
		w.delete("a", 30)
		pass(time.Second)
		if len(w.running("a")) != 1 {
			t.Error("it was stopped before its preStop was over")
		}
		pass(5 * time.Second)
		if got, want := d.read(), "c starts at 0s, post in c at 0s, pre in c at 5s"; got != want || len(w.running("a")) > 0 {
			t.Errorf("got %s, want %s; %d run", got, want, len(w.running("a")))
		}
	})
}

func TestAPostStartThatFailsStopsItsContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{"c": {Runs: containertest.Forever, Exec: func(context.Context, container.ExecSpec) (int, error) {
			return 1, nil
		}}})
		defer w.run()()
		w.putObject(newPod("a", hooks(doing("post"), nil)))
		pass(time.Minute)
		pod := w.get("a")
		if n := strings.Count(d.read(), "starts"); n < 2 || n > 6 || pod.Status.ContainerStatuses[0].Ready {
			t.Errorf("started %d times, ready %v; want restarts with back-off", n, pod.Status.ContainerStatuses[0].Ready)
		}
		if !w.eventsHave("FailedPostStartHook") {
			t.Error("no event tells of it")
		}
	})
}

func TestAPreStopThatHangsIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := told(t, map[string]containertest.Process{"c": {Runs: containertest.Forever, Stubborn: true, Exec: func(ctx context.Context, _ container.ExecSpec) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}}})
		defer w.run()()
		w.putObject(newPod("a", hooks(nil, doing("pre"))))
		pass(time.Second)
		w.delete("a", 5)
		pass(6 * time.Second)
		if len(w.running("a")) != 1 {
			t.Error("it was killed before its last moment")
		}
		pass(2 * time.Second)
		if len(w.running("a")) > 0 || !w.eventsHave("FailedPreStopHook") {
			t.Errorf("%d containers run after the grace period and 2s", len(w.running("a")))
		}
	})
}

func TestAPodIsActiveForSoLongOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := told(t, nil)
		stop := w.run()
		limit := int64(20)
		w.putObject(newPod("a", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &limit }))
		pass(10 * time.Second)
		stop() // the next agent counts on
		defer w.run()()
		pass(8 * time.Second)
		if len(w.running("a")) != 1 {
			t.Fatal("it was stopped too early")
		}
		pass(4 * time.Second)
		pod := w.get("a")
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "DeadlineExceeded" || len(w.running("a")) > 0 {
			t.Errorf("phase %q, reason %q, %d run", pod.Status.Phase, pod.Status.Reason, len(w.running("a")))
		}
	})
}

// eventsHave tells whether an event with this reason was reported.
func (w *world) eventsHave(reason string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.reports {
		for _, e := range r.GetEvents() {
			if strings.Contains(string(e), reason) {
				return true
			}
		}
	}
	return false
}

func TestDue(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways,
		InitContainers: []corev1.Container{
			{Name: "one"}, {Name: "side", RestartPolicy: &always}, {Name: "two"},
		},
		Containers: []corev1.Container{{Name: "app"}},
	}}
	ended := func(name string, code int) container.Status {
		return container.Status{ID: container.ID{Name: name}, State: container.Exited, ExitCode: code}
	}
	running := func(name string) container.Status {
		return container.Status{ID: container.ID{Name: name}, State: container.Running}
	}
	tests := map[string]struct {
		have  []container.Status
		up    bool
		want  int
		waits string
	}{
		"nothing yet":              {nil, false, 1, "one side two"},
		"the first failed":         {[]container.Status{ended("one", 1)}, false, 1, "one side two"},
		"the first is over":        {[]container.Status{ended("one", 0)}, false, 2, "side two"},
		"the sidecar is up":        {[]container.Status{ended("one", 0), running("side")}, true, 3, "two"},
		"all is over":              {[]container.Status{ended("one", 0), running("side"), ended("two", 0)}, true, 4, ""},
		"the sidecar fails before": {[]container.Status{ended("one", 0), ended("side", 1), ended("two", 0)}, false, 2, "side"},
		"the sidecar fails later":  {[]container.Status{ended("one", 0), ended("side", 1), ended("two", 0), running("app")}, false, 4, ""},
	}
	for what, tt := range tests {
		started := func(string) bool { return tt.up }
		if got := due(membersOf(pod), tt.have, started); got != tt.want {
			t.Errorf("%s: %d may run, want %d", what, got, tt.want)
		}
		if got := strings.Join(waitsFor(membersOf(pod), tt.have, started), " "); got != tt.waits {
			t.Errorf("%s: waits for %q, want %q", what, got, tt.waits)
		}
	}
}
