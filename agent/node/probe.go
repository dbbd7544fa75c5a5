package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
)

// A prober asks one run of a container how it is, until it is told to stop.
type prober struct {
	id     container.ID
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	health health
	dead   bool // startup or liveness has given up
	fatal  *corev1.Probe
	last   string // transcript of the last failure, for people
}

func (p *prober) unhealthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *prober) state() health {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.health
}

// syncProbes gives each running container the prober that its probes ask for,
// and stops those of containers that no longer run.
func (w *worker) syncProbes(ctx context.Context, pod *corev1.Pod, have []container.Status) {
	for _, m := range membersOf(pod) {
		c := m.Container
		attempts := attemptsOf(c.Name, have)
		if len(attempts) == 0 || attempts[0].State != container.Running {
			w.stopProbe(c.Name)
			continue
		}
		if pending, err := w.hooked(attempts[0].ID); pending || err != nil {
			continue // it is asked nothing before its postStart is over
		}
		if p := w.probes[c.Name]; p != nil {
			if p.id == attempts[0].ID {
				continue
			}
			w.stopProbe(c.Name)
		}
		if c.StartupProbe == nil && c.ReadinessProbe == nil && c.LivenessProbe == nil {
			continue
		}
		w.probes[c.Name] = w.startProbe(ctx, pod, c, attempts[0])
	}
}

func (w *worker) stopProbe(name string) {
	if p := w.probes[name]; p != nil {
		p.cancel()
		<-p.done
		delete(w.probes, name)
	}
}

func (w *worker) stopProbes() {
	for name := range w.probes {
		w.stopProbe(name)
	}
}

// startProbe begins with what an earlier agent had found of the same run, so
// that a restart of the agent makes no Pod unready.
func (w *worker) startProbe(ctx context.Context, pod *corev1.Pod, c *corev1.Container, run container.Status) *prober {
	ctx, cancel := context.WithCancel(ctx)
	p := &prober{id: run.ID, cancel: cancel, done: make(chan struct{})}
	p.health = health{started: c.StartupProbe == nil, ready: c.StartupProbe == nil && c.ReadinessProbe == nil}
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if s.Name == c.Name && s.ContainerID == "runc://"+run.ID.String() && s.State.Running != nil {
			p.health.started = p.health.started || (s.Started != nil && *s.Started)
			p.health.ready = p.health.started && (p.health.ready || s.Ready)
		}
	}
	target := target{driver: w.node.cfg.Driver, addr: w.place().podIP, pod: pod, container: c, id: run.ID}
	started := w.node.ago(run.StartedAt)
	go func() {
		defer close(p.done)
		defer cancel()
		w.probe(ctx, p, target, started)
	}()
	return p
}

// probe runs the startup probe to its end and then the other two side by side.
func (w *worker) probe(ctx context.Context, p *prober, t target, since time.Time) {
	p.mu.Lock()
	started := p.health.started
	p.mu.Unlock()
	if s := t.container.StartupProbe; s != nil && !started {
		ok := w.rounds(ctx, p, t, s, since, func(ok bool) bool { return ok })
		if ctx.Err() != nil {
			return
		}
		if !ok {
			w.giveUp(p, t, "startup", s)
			return
		}
		p.set(func(h *health) { *h = health{started: true, ready: t.container.ReadinessProbe == nil} })
		w.wake()
	}
	var both sync.WaitGroup
	if r := t.container.ReadinessProbe; r != nil {
		both.Go(func() {
			w.rounds(ctx, p, t, r, since, func(ok bool) bool {
				if ok {
					if p.set(func(h *health) { h.ready, h.why = true, "" }) {
						w.wake()
					}
				} else if p.set(func(h *health) { h.ready, h.why, h.told = false, cmp.Or(h.why, p.last), true }) {
					w.tellUnready(p, t)
				}
				return false
			})
		})
	}
	if l := t.container.LivenessProbe; l != nil {
		both.Go(func() {
			ok := w.rounds(ctx, p, t, l, since, func(bool) bool { return false })
			if !ok && ctx.Err() == nil {
				w.giveUp(p, t, "liveness", l)
			}
		})
	}
	both.Wait()
}

// set changes the health and tells whether it is another now.
func (p *prober) set(f func(*health)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.health
	f(&p.health)
	return p.health != before
}

func (w *worker) tellUnready(p *prober, t target) {
	w.event(t.pod, corev1.EventTypeWarning, "Unhealthy", "container "+t.container.Name+" is not ready: "+p.state().why)
	w.wake()
}

// explain keeps the first failure of a container that is not ready, for its
// status, and tells whether this is it.
func (p *prober) explain() bool {
	return p.set(func(h *health) {
		if !h.ready {
			h.why = cmp.Or(h.why, p.last)
		}
	})
}

// grace is how long a container gets to stop that failed its probe: what that probe
// says, else its Pod's.
func (p *prober) grace(pod time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fatal != nil && p.fatal.TerminationGracePeriodSeconds != nil {
		return time.Duration(*p.fatal.TerminationGracePeriodSeconds) * time.Second
	}
	return pod
}

func (w *worker) giveUp(p *prober, t target, which string, probe *corev1.Probe) {
	p.mu.Lock()
	p.dead, p.fatal = true, probe
	p.health.ready = false
	why := p.last
	p.mu.Unlock()
	w.event(t.pod, corev1.EventTypeWarning, "Unhealthy",
		fmt.Sprintf("container %s failed its %s probe: %s", t.container.Name, which, why))
	w.wake()
}

// rounds probes until ctx ends, tell says that it has heard enough, or the
// failure threshold of a startup or liveness probe is reached; then it returns
// false. tell hears every verdict: thresholds have been counted.
func (w *worker) rounds(ctx context.Context, p *prober, t target, probe *corev1.Probe, since time.Time, tell func(ok bool) bool) bool {
	fatal := probe != t.container.ReadinessProbe
	timer := time.NewTimer(time.Until(since.Add(seconds(probe.InitialDelaySeconds, 0))))
	defer timer.Stop()
	count := counter{period: seconds(probe.PeriodSeconds, 10)}
	for {
		select {
		case <-ctx.Done():
			return true
		case <-timer.C:
		}
		err := t.check(ctx, probe)
		if ctx.Err() != nil {
			return true
		}
		if err != nil {
			p.mu.Lock()
			p.last = err.Error()
			p.mu.Unlock()
		}
		wait := count.add(err == nil, time.Now())
		if count.good >= max(1, probe.SuccessThreshold) && tell(true) {
			return true
		}
		if count.bad >= min(2, max(1, probe.FailureThreshold)) && p.explain() { // the first may only have come too early
			w.wake()
		}
		if count.bad >= max(1, probe.FailureThreshold) && (tell(false) || fatal) {
			return false
		}
		timer.Reset(wait)
	}
}

// A counter counts successes and failures in a row. Until the first success a
// container is asked more often than its period, so that one which is ready
// after 60 ms need not wait out ten seconds; failures still count once a period.
type counter struct {
	period    time.Duration
	good, bad int32
	answered  bool
	early     time.Duration
	counted   time.Time // the last failure that counted
}

// add takes a result and returns how long to wait before the next.
func (c *counter) add(ok bool, now time.Time) time.Duration {
	if ok {
		c.good, c.bad, c.answered = c.good+1, 0, true
		return c.period
	}
	c.good = 0
	if c.answered {
		c.bad++
		return c.period
	}
	if c.counted.IsZero() || now.Sub(c.counted) >= c.period {
		c.bad, c.counted = c.bad+1, now
	}
	c.early = min(c.period, max(50*time.Millisecond, c.early*3/2))
	return min(c.early, c.counted.Add(c.period).Sub(now))
}

func seconds(n int32, otherwise int32) time.Duration {
	if n <= 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}
