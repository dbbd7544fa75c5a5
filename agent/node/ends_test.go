package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
)

// An ended is the last run of a container of a Pod that ended.
func ended(t *testing.T, pod *corev1.Pod, name string) *corev1.ContainerStateTerminated {
	t.Helper()
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if s.Name == name && s.State.Terminated != nil {
			return s.State.Terminated
		}
		if s.Name == name && s.LastTerminationState.Terminated != nil {
			return s.LastTerminationState.Terminated
		}
	}
	t.Fatalf("%s has not ended: %+v", name, pod.Status)
	return nil
}

func TestLastWords(t *testing.T) {
	lines := func(n int, text string) (out []container.LogLine) {
		for i := range n {
			out = append(out, container.LogLine{Text: fmt.Appendf(nil, "%s %d", text, i)})
		}
		return out
	}
	synctest.Test(t, func(t *testing.T) {
		w, _ := told(t, map[string]containertest.Process{
			"says":    {Code: 1, Message: "the disk is full\n", Output: lines(3, "unheard")},
			"mute":    {Code: 2, Output: lines(100, "line")},
			"chatty":  {Code: 3, Output: lines(100, strings.Repeat("x", 100))},
			"content": {Code: 0, Output: lines(3, "fine")},
			"plain":   {Code: 4, Output: lines(3, "unheard")},
			"killed":  {Code: 137, OOMKilled: true},
		})
		stop := w.run()
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.RestartPolicy, p.Spec.Containers = corev1.RestartPolicyNever, nil
			for _, name := range []string{"says", "mute", "chatty", "content", "plain", "killed"} {
				c := corev1.Container{Name: name, Image: "web", TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError}
				if name == "plain" {
					c.TerminationMessagePolicy = ""
				}
				p.Spec.Containers = append(p.Spec.Containers, c)
			}
		}))
		pass(time.Second)
		first := w.get("a")
		for name, want := range map[string]string{"says": "the disk is full", "content": "", "plain": "", "killed": "killed for using more memory than its limit"} {
			if got := ended(t, first, name).Message; got != want {
				t.Errorf("%s: message %q, want %q", name, got, want)
			}
		}
		if got := ended(t, first, "mute").Message; !strings.HasPrefix(got, "line 20\n") || !strings.HasSuffix(got, "\nline 99") {
			t.Errorf("mute: message %q, want its last 80 lines", got)
		}
		if got := ended(t, first, "chatty").Message; len(got) > maxLogWords || !strings.HasSuffix(got, "x 99") {
			t.Errorf("chatty: %d bytes, want its last %d", len(got), maxLogWords)
		}
		stop()
		defer w.run()() // the next agent says the same
		pass(time.Second)
		if got, want := ended(t, w.get("a"), "mute").Message, ended(t, first, "mute").Message; got != want {
			t.Errorf("another agent: %q, want %q", got, want)
		}
	})
}

func TestLastWordsAreBoundedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process {
			return containertest.Process{Code: 1, Message: strings.Repeat("x", 9000)}
		})
		defer w.run()()
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.RestartPolicy, p.Spec.Containers = corev1.RestartPolicyNever, nil
			for i := range 24 {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: "web"})
			}
		}))
		w.putObject(newPod("b", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		pass(time.Second)
		all := 0
		for _, s := range w.get("a").Status.ContainerStatuses {
			all += len(s.State.Terminated.Message)
		}
		if all != maxWords {
			t.Errorf("24 containers say %d bytes, want %d", all, maxWords)
		}
		if got := len(ended(t, w.get("b"), "c").Message); got != container.MaxMessage {
			t.Errorf("one says %d bytes, want %d", got, container.MaxMessage)
		}
	})
}

func TestRestarts(t *testing.T) {
	always, onFailure, never := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever
	in, notIn := corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes},
		}}
	}
	tests := map[string]struct {
		pod    corev1.RestartPolicy
		own    *corev1.ContainerRestartPolicy
		rules  []corev1.ContainerRestartRule
		before bool // an init container
		stale  bool
		want   string // the codes of 0, 1, 42 and -1 that it is restarted after
	}{
		"as the Pod says, Always":             {pod: "Always", want: "0 1 42 -1"},
		"as the Pod says, OnFailure":          {pod: "OnFailure", want: "1 42 -1"},
		"as the Pod says, Never":              {pod: "Never"},
		"its own Never":                       {pod: "Always", own: &never},
		"its own OnFailure":                   {pod: "Never", own: &onFailure, want: "1 42 -1"},
		"its own Always":                      {pod: "Never", own: &always, want: "0 1 42 -1"},
		"a rule on top of Never":              {pod: "Never", own: &never, rules: rule(in, 42), want: "42"},
		"all codes but one":                   {pod: "Never", own: &never, rules: rule(notIn, 0, 1), want: "42 -1"},
		"a rule about 255 is about unknown":   {pod: "Never", own: &never, rules: rule(in, 255), want: "-1"},
		"a rule takes nothing away":           {pod: "Always", own: &onFailure, rules: rule(in, 42), want: "1 42 -1"},
		"two rules":                           {pod: "Never", own: &never, rules: append(rule(in, 1), rule(in, 42)...), want: "1 42"},
		"before others, Always":               {pod: "Always", before: true, want: "1 42 -1"},
		"before others, Never":                {pod: "Never", before: true},
		"before others, its own Never":        {pod: "Always", own: &never, before: true},
		"before others, its own OnFailure":    {pod: "Never", own: &onFailure, before: true, want: "1 42 -1"},
		"a sidecar":                           {pod: "Never", own: &always, before: true, want: "0 1 42 -1"},
		"before others, of a lost sandbox":    {pod: "OnFailure", before: true, stale: true, want: "0 1 42 -1"},
		"before others, lost, but Never":      {pod: "Never", before: true, stale: true},
		"of a lost sandbox, but it succeeded": {pod: "OnFailure", stale: true, want: "1 42 -1"},
	}
	for name, tt := range tests {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.pod}}
		c := []corev1.Container{{Name: "c", RestartPolicy: tt.own, RestartPolicyRules: tt.rules}}
		if pod.Spec.Containers = c; tt.before {
			pod.Spec.InitContainers, pod.Spec.Containers = c, nil
		}
		var got []string
		for _, code := range []int{0, 1, 42, -1} {
			if restarts(pod, membersOf(pod)[0], container.Status{State: container.Exited, ExitCode: code, Stale: tt.stale}) {
				got = append(got, fmt.Sprint(code))
			}
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: restarted after %q, want %q", name, got, tt.want)
		}
	}
}

func TestAPodWhoseContainersDoNotRestartEnds(t *testing.T) {
	never := corev1.ContainerRestartPolicyNever
	synctest.Test(t, func(t *testing.T) {
		for code, want := range map[int]corev1.PodPhase{0: corev1.PodSucceeded, 1: corev1.PodFailed} {
			w, _ := told(t, map[string]containertest.Process{"c": secondsLong(1, code)})
			stop := w.run()
			w.putObject(newPod("a", func(p *corev1.Pod) { p.Spec.Containers[0].RestartPolicy = &never })) // the Pod's is Always
			pass(10 * time.Second)
			if got := w.get("a").Status.Phase; got != want {
				t.Errorf("exit code %d: phase %q, want %q", code, got, want)
			}
			stop()
		}
	})
}

func TestInitContainersRunAgainInANewSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
			w, d := told(t, map[string]containertest.Process{"one": secondsLong(3, 0)})
			stop := w.run()
			w.putObject(newPod("a", withInit("one"), func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }))
			pass(10 * time.Second)
			stop()
			w.driver.Reboot() // the power is gone, and comes back
			stop = w.run()
			pass(2 * time.Second)
			pod := w.get("a")
			want := "one starts at 0s, c starts at 3s"
			if policy == corev1.RestartPolicyAlways {
				if pod.Status.Phase != corev1.PodPending || pod.Status.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
					t.Errorf("phase %q, app %+v; want it to wait", pod.Status.Phase, pod.Status.ContainerStatuses[0].State)
				}
				want += ", one starts at 10s, c starts at 13s"
			} else if pod.Status.Phase != corev1.PodFailed {
				t.Errorf("Never: phase %q, want Failed", pod.Status.Phase)
			}
			pass(10 * time.Second)
			if got := d.read(); got != want {
				t.Errorf("%s: got  %s\nwant %s", policy, got, want)
			}
			stop()
		}
	})
}

func TestAnInitContainerThatFailsForGoodEndsItsPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{
			"one": secondsLong(2, 3), "side": {Runs: containertest.Forever, TermTime: 4 * time.Second},
		})
		defer w.run()()
		w.putObject(newPod("a", withInit("side", "one"), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		pass(4 * time.Second)
		if len(w.running("a")) != 1 {
			t.Error("the sidecar had no time to end")
		}
		pass(4 * time.Second)
		if got := w.get("a").Status.Phase; got != corev1.PodFailed || len(w.running("a")) > 0 || strings.Contains(d.read(), "c starts") {
			t.Errorf("phase %q, %d run: %s", got, len(w.running("a")), d.read())
		}
	})
}

func TestImagesComeWhileInitContainersRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{"one": secondsLong(5, 0)})
		asked := map[string]int{}
		w.ensure = func(ask ImageAsk) error {
			w.mu.Lock()
			asked[ask.Reference]++
			w.mu.Unlock()
			time.Sleep(4 * time.Second)
			return nil
		}
		defer w.run()()
		w.putObject(newPod("a", withInit("one"), func(p *corev1.Pod) { p.Spec.Containers[0].Image = "app" }))
		pass(time.Second)
		if s := w.get("a").Status.ContainerStatuses[0].State.Waiting; s == nil || s.Reason != "PodInitializing" {
			t.Errorf("the app is %+v, want PodInitializing", w.get("a").Status.ContainerStatuses[0].State)
		}
		pass(19 * time.Second)
		if got, want := d.read(), "one starts at 4s, c starts at 9s"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if asked["web"] != 1 || asked["app"] != 1 {
			t.Errorf("images asked for: %v, want each once", asked)
		}
	})
}

// slowly is a preStop that takes so long, and counts how often it begins and ends.
func slowly(takes time.Duration, begins, ends *int) func(context.Context, container.ExecSpec) (int, error) {
	return func(ctx context.Context, _ container.ExecSpec) (int, error) {
		*begins++
		select {
		case <-time.After(takes):
			*ends++
			return 0, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func TestAnAgentThatGoesDuringPreStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begins, ends int
		w, _ := told(t, map[string]containertest.Process{"c": {Runs: containertest.Forever, Exec: slowly(10*time.Second, &begins, &ends)}})
		stop := w.run()
		w.putObject(newPod("a", hooks(nil, doing("pre"))))
		pass(time.Second)
		w.delete("a", 30)
		pass(5 * time.Second)
		stop()
		pass(time.Second)
		if len(w.running("a")) != 1 {
			t.Error("it was told to end before its preStop was over")
		}
		defer w.run()()
		pass(9 * time.Second)
		if len(w.running("a")) != 1 {
			t.Error("the next agent did not wait for preStop")
		}
		pass(2 * time.Second)
		if len(w.running("a")) > 0 || begins != 2 || ends != 1 || w.get("a") != nil {
			t.Errorf("%d run, preStop begun %d times and ended %d times, Pod %v", len(w.running("a")), begins, ends, w.get("a"))
		}
	})
}

func TestAPreStopThatIsOverIsNotRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begins, ends int
		w, _ := told(t, map[string]containertest.Process{
			"c": {Runs: containertest.Forever, Stubborn: true, Exec: slowly(2*time.Second, &begins, &ends)},
		})
		defer w.run()()
		w.putObject(newPod("a", hooks(nil, doing("pre"))))
		pass(time.Second)
		w.delete("a", 600)
		pass(10 * time.Second)
		w.delete("a", 3) // somebody is impatient
		pass(4 * time.Second)
		if begins != 1 || ends != 1 || len(w.running("a")) > 0 {
			t.Errorf("preStop begun %d times, ended %d times, %d run; want it once, and none", begins, ends, len(w.running("a")))
		}
	})
}

func TestNoGraceMeansNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begins, ends int
		w, _ := told(t, map[string]containertest.Process{
			"c": {Runs: containertest.Forever, TermTime: time.Second, Exec: slowly(time.Second, &begins, &ends)},
		})
		defer w.run()()
		w.putObject(newPod("a", hooks(nil, doing("pre"))))
		pass(time.Second)
		w.delete("a", 0)
		pass(100 * time.Millisecond)
		if begins != 0 || len(w.running("a")) > 0 {
			t.Errorf("preStop begun %d times, %d run; want it killed at once", begins, len(w.running("a")))
		}
	})
}

func TestALivenessProbeHasAGraceOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{"c": {Runs: containertest.Forever, Stubborn: true, Exec: func(_ context.Context, e container.ExecSpec) (int, error) {
			return len(e.Args) - 1, nil // "pre" succeeds, "alive? no" does not
		}}})
		defer w.run()()
		grace := int64(5)
		w.putObject(newPod("a", hooks(nil, doing("pre")), func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"alive?", "no"}}},
				PeriodSeconds: 1, FailureThreshold: 2, TerminationGracePeriodSeconds: &grace,
			}
		}))
		pass(10 * time.Second)
		lines := d.read()
		if runs := strings.Split(lines, "c starts at "); len(runs) != 3 || strings.Count(runs[1], "pre in c at 1s") != 1 || !strings.HasPrefix(runs[2], "6s") {
			t.Errorf("want two runs in 10 s, and its preStop between: %s", lines)
		}
		if e := ended(t, w.get("a"), "c"); e.ExitCode != 137 || e.FinishedAt.Sub(e.StartedAt.Time) > 8*time.Second {
			t.Errorf("it ended so: %+v, want killed after 5 s of its own grace", e)
		}
	})
}

// What exits at once forever takes no more and no more of the machine.
func TestWhatExitsAtOnceForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := told(t, map[string]containertest.Process{"c": secondsLong(0, 1), "one": secondsLong(0, 0)})
		defer w.run()()
		w.putObject(newPod("a", withInit("one")))
		most := 0
		for range 24 {
			pass(time.Hour)
			list, err := w.driver.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, len(list))
		}
		if n := strings.Count(d.read(), "c starts"); n < 24*11 || n > 24*12+10 {
			t.Errorf("started %d times in a day, want every five minutes", n)
		}
		if most > 4 {
			t.Errorf("up to %d containers are kept, want the init container and at most three runs", most)
		}
		if n := strings.Count(d.read(), "one starts"); n != 1 {
			t.Errorf("the init container was started %d times", n)
		}
	})
}
