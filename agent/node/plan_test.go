package node

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/skein-dev/skein/runtime/container"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// ran is one attempt that ended after the given time with a code.
func ran(attempt, streak int, lasted time.Duration, code int) container.Status {
	return container.Status{
		ID: container.ID{Pod: "p", Name: "c", Attempt: attempt}, State: container.Exited,
		StartedAt: t0.Add(-lasted), FinishedAt: t0, ExitCode: code,
		Labels: map[string]string{labelStreak: strconv.Itoa(streak)},
	}
}

func runs(attempt int) container.Status {
	return container.Status{ID: container.ID{Pod: "p", Name: "c", Attempt: attempt}, State: container.Running, PID: 7, StartedAt: t0}
}

func TestPlanContainer(t *testing.T) {
	always, onFailure, never := corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	tests := map[string]struct {
		policy    corev1.RestartPolicy
		have      []container.Status
		unhealthy bool
		after     time.Duration
		want      step
	}{
		"starts what never ran":             {policy: always, want: step{do: doStart}},
		"leaves alone what runs":            {policy: always, have: []container.Status{runs(0)}, want: step{}},
		"restarts what its probe gave up":   {policy: always, have: []container.Status{runs(3)}, unhealthy: true, want: step{do: doRestart, attempt: 3}},
		"restarts at once the first time":   {policy: always, have: []container.Status{ran(0, 0, time.Second, 1)}, want: step{do: doStart, attempt: 1, streak: 1, at: t0}},
		"waits the second time":             {policy: always, have: []container.Status{ran(1, 1, time.Second, 1)}, want: step{do: doWait, attempt: 2, streak: 2, at: t0.Add(10 * time.Second)}},
		"starts after the wait":             {policy: always, have: []container.Status{ran(1, 1, time.Second, 1)}, after: 10 * time.Second, want: step{do: doStart, attempt: 2, streak: 2, at: t0.Add(10 * time.Second)}},
		"doubles the wait":                  {policy: always, have: []container.Status{ran(3, 3, time.Second, 0)}, want: step{do: doWait, attempt: 4, streak: 4, at: t0.Add(40 * time.Second)}},
		"never waits longer than the most":  {policy: always, have: []container.Status{ran(30, 30, time.Second, 0)}, want: step{do: doWait, attempt: 31, streak: 31, at: t0.Add(300 * time.Second)}},
		"forgives after a long run":         {policy: always, have: []container.Status{ran(9, 9, 10*time.Minute, 0)}, want: step{do: doStart, attempt: 10, streak: 1, at: t0}},
		"does not restart a success":        {policy: onFailure, have: []container.Status{ran(0, 0, time.Second, 0)}, want: step{}},
		"restarts a failure":                {policy: onFailure, have: []container.Status{ran(0, 0, time.Second, 2)}, want: step{do: doStart, attempt: 1, streak: 1, at: t0}},
		"restarts an end nobody saw":        {policy: onFailure, have: []container.Status{ran(0, 0, time.Second, -1)}, want: step{do: doStart, attempt: 1, streak: 1, at: t0}},
		"never restarts":                    {policy: never, have: []container.Status{ran(0, 0, time.Second, 2)}, want: step{}},
		"drops all but two attempts":        {policy: always, have: []container.Status{ran(1, 0, 0, 1), runs(3), ran(2, 0, 0, 1), ran(0, 0, 0, 1)}, want: step{attempt: 3, remove: []container.ID{{Pod: "p", Name: "c", Attempt: 1}, {Pod: "p", Name: "c", Attempt: 0}}}},
		"a restart does not depend on luck": {policy: always, have: []container.Status{ran(0, 0, 0, 0), ran(1, 1, time.Hour, 0)}, want: step{do: doStart, attempt: 2, streak: 1, at: t0}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.policy, Containers: []corev1.Container{{Name: "c"}}}}
			again := func(last container.Status) bool { return restarts(pod, membersOf(pod)[0], last) }
			got := planContainer(again, tt.have, tt.unhealthy, t0, t0.Add(tt.after))
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(step{})); diff != "" {
				t.Errorf("planContainer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 10_000).Draw(t, "n")
		a, b := backoff(n), backoff(n+1)
		if a > b || b > backoffMax {
			t.Fatalf("backoff(%d) = %s, backoff(%d) = %s", n, a, n+1, b)
		}
	})
}

func TestCounterAsksOftenOnlyUntilTheFirstAnswer(t *testing.T) {
	c := counter{period: 10 * time.Second}
	now, asked := t0, 0
	for now.Before(t0.Add(30 * time.Second)) {
		now = now.Add(c.add(false, now))
		asked++
	}
	if c.bad != 3 {
		t.Errorf("30 s of failures count %d times, want once a period: 3", c.bad)
	}
	if asked < 10 {
		t.Errorf("asked %d times in 30 s before the first answer, want more often", asked)
	}
	if got := c.add(true, now); got != c.period || c.good != 1 || c.bad != 0 {
		t.Errorf("after a success: wait %s, good %d, bad %d", got, c.good, c.bad)
	}
	if got := c.add(false, now); got != c.period || c.bad != 1 {
		t.Errorf("a failure after a success: wait %s, bad %d; want a whole period and 1", got, c.bad)
	}
}
