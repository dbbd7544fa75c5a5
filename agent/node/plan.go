package node

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

// Restart back-off as Kubernetes has it, save that the first restart does not
// wait: 0 s, 10 s, 20 s, … 300 s, and from the start again once a run has
// lasted ten minutes.
const (
	backoffBase = 10 * time.Second
	backoffMax  = 300 * time.Second
	backoffGood = 10 * time.Minute
)

// labelStreak counts the runs that ended early before this one. It is kept with
// the container, so that a new agent goes on counting.
const labelStreak = "streak"

// A do is what a container needs next.
type do string

const (
	doNothing do = ""
	doStart   do = "start"   // run the attempt in step.attempt
	doWait    do = "wait"    // start it, but not before step.at
	doRestart do = "restart" // it runs and must not: stop it, the rest follows
)

// A step is what to do about one container of a Pod.
type step struct {
	do      do
	attempt int
	streak  int
	at      time.Time
	remove  []container.ID // attempts that nobody can ask for any more
}

// planContainer decides about one container. have holds its attempts, again tells
// whether it is to run after one that has ended, unhealthy
// says that its liveness or startup probe has given up on the newest one, ended is
// when that ended by the clock of now.
func planContainer(again func(container.Status) bool, have []container.Status, unhealthy bool, ended, now time.Time) step {
	if len(have) == 0 {
		return step{do: doStart}
	}
	have = slices.Clone(have)
	slices.SortFunc(have, func(a, b container.Status) int { return cmp.Compare(b.ID.Attempt, a.ID.Attempt) })
	last := have[0]
	s := step{attempt: last.ID.Attempt}
	for _, old := range have[min(2, len(have)):] {
		s.remove = append(s.remove, old.ID)
	}
	if last.State == container.Running {
		if unhealthy {
			s.do = doRestart
		}
		return s
	}
	if !again(last) {
		return s
	}
	s.attempt++
	s.streak = streak(last) + 1
	if last.FinishedAt.Sub(last.StartedAt) >= backoffGood {
		s.streak = 1
	}
	if last.LeaseLost || last.Stale {
		s.streak = 0 // not its own fault
	}
	s.do, s.at = doStart, ended.Add(backoff(s.streak))
	if now.Before(s.at) {
		s.do = doWait
	}
	return s
}

// backoff is how long the n-th early end in a row waits for its restart.
func backoff(n int) time.Duration {
	if n <= 1 {
		return 0
	}
	d := backoffBase
	for range n - 2 {
		if d *= 2; d >= backoffMax {
			return backoffMax
		}
	}
	return d
}

func streak(s container.Status) int {
	n, err := strconv.Atoi(s.Labels[labelStreak])
	if err != nil {
		return 0
	}
	return n
}

// attemptsOf picks the attempts of one container, newest first.
func attemptsOf(name string, have []container.Status) []container.Status {
	var out []container.Status
	for _, s := range have {
		if s.ID.Name == name {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b container.Status) int { return cmp.Compare(b.ID.Attempt, a.ID.Attempt) })
	return out
}
