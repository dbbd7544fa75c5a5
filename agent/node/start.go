package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
)

// An ending is when an attempt ended, by the clock that durations are measured with.
type ending struct {
	id container.ID
	at time.Time
}

// A note is what the status says about a container that does not run.
type note struct{ reason, message string }

// A retryState spaces out attempts at what does not work.
type retryState struct {
	tries int
	at    time.Time
}

// An action is one step of one container: what to run now, side by side with
// the other containers', and when to look again.
type action struct {
	run func(context.Context) outcome
	at  time.Time
}

// An outcome is what came of an action. Actions run beside each other, so they
// leave it to settle to change the worker.
type outcome struct {
	container string
	started   bool
	id        container.ID // of what was started
	note      *note        // why it could not be started
	err       error        // for the log, tried again in a second
}

// prepare decides, in the worker's own goroutine, what a container needs.
func (w *worker) prepare(ctx context.Context, pod *corev1.Pod, m member, have []container.Status) action {
	now, c := time.Now(), m.Container
	attempts := attemptsOf(c.Name, have)
	unhealthy := false
	if p := w.probes[c.Name]; p != nil && len(attempts) > 0 && p.id == attempts[0].ID {
		unhealthy = p.unhealthy()
	}
	if len(attempts) > 0 {
		_, err := w.hooked(attempts[0].ID)
		unhealthy = unhealthy || err != nil
	}
	s := planContainer(func(last container.Status) bool { return restarts(pod, m, last) }, attempts, unhealthy, w.endOf(c.Name, attempts), now)
	switch s.do {
	case doNothing:
		delete(w.notes, c.Name)
		return action{}
	case doWait:
		w.notes[c.Name] = &note{"CrashLoopBackOff", fmt.Sprintf("restarting in %s, after %d early ends in a row",
			s.at.Sub(now).Round(time.Second), s.streak)}
		return action{at: s.at}
	case doRestart:
		return action{run: func(ctx context.Context) outcome { return w.restart(ctx, pod, c, attempts[0].ID) }}
	case doStart:
	}
	if at := w.node.mayStart(now); !at.IsZero() {
		return action{at: at}
	}
	if !w.node.leases.mayStart(pod) {
		w.notes[c.Name] = &note{"WaitingForLease", "no leader with a quorum has granted this Pod's lease yet"}
		return action{at: now.Add(time.Second)}
	}
	if f := w.failed[c.Name]; now.Before(f.at) {
		return action{at: f.at}
	}
	digest, again := w.image(ctx, pod, c)
	if digest == "" {
		return action{at: again}
	}
	return action{run: func(ctx context.Context) outcome { return w.start(ctx, pod, c, s, digest) }}
}

// endOf is when the newest attempt ended, which is asked again and again and must
// not move with the wall clock.
func (w *worker) endOf(name string, attempts []container.Status) time.Time {
	if len(attempts) == 0 || attempts[0].State == container.Running {
		delete(w.ends, name)
		return time.Time{}
	}
	last := attempts[0]
	end := w.ends[name]
	if end.id != last.ID {
		end = ending{last.ID, w.node.ago(last.FinishedAt)}
		w.ends[name] = end
	}
	return end.at
}

func (w *worker) restart(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id container.ID) outcome {
	grace, why := graceOf(pod), "failed its probe"
	if p := w.probes[c.Name]; p != nil && p.id == id {
		grace = p.grace(grace)
	}
	if _, err := w.hooked(id); err != nil {
		why = "failed its postStart"
	}
	w.event(pod, corev1.EventTypeNormal, "Killing", "container "+c.Name+" "+why+" and will be stopped")
	return outcome{container: c.Name, err: w.end(ctx, pod, id, grace)}
}

// start runs one attempt. What goes wrong is told in the status.
func (w *worker) start(ctx context.Context, pod *corev1.Pod, c *corev1.Container, s step, digest string) outcome {
	out := outcome{container: c.Name}
	for _, id := range s.remove {
		if err := w.remove(ctx, id); err != nil {
			w.log.Warn("cannot remove an old container", "container", id.String(), "err", err)
		}
	}
	reason, err := w.startOnce(ctx, pod, c, s, digest)
	switch {
	case err == nil:
		out.started, out.id = true, container.ID{Pod: string(w.uid), Name: c.Name, Attempt: s.attempt}
	case ctx.Err() != nil:
		out.err = ctx.Err()
	default:
		out.note = &note{reason, err.Error()}
	}
	return out
}

// settle takes note of what came of an action, and returns when to try again.
func (w *worker) settle(ctx context.Context, pod *corev1.Pod, out outcome) time.Time {
	switch {
	case out.started:
		delete(w.failed, out.container)
		delete(w.notes, out.container)
		w.event(pod, corev1.EventTypeNormal, "Started", "started container "+out.container)
		w.startHook(ctx, pod, containerNamed(pod, out.container), out.id)
	case out.note != nil:
		f := w.failed[out.container]
		f.tries++
		f.at = time.Now().Add(max(time.Second, backoff(f.tries)))
		w.failed[out.container] = f
		w.notes[out.container] = out.note
		w.event(pod, corev1.EventTypeWarning, out.note.reason, out.note.message)
		return f.at
	}
	return time.Time{}
}

func (w *worker) startOnce(ctx context.Context, pod *corev1.Pod, c *corev1.Container, s step, digest string) (reason string, err error) {
	img, err := w.node.cfg.Images.Config(ctx, digest)
	if err != nil {
		return "InvalidImage", fmt.Errorf("read the configuration of image %s: %w", c.Image, err)
	}
	spec, err := containerSpec(pod, c, img, w.place())
	if err != nil {
		return reasonConfig, err
	}
	spec.Security.Allowed = w.node.sources.allowed(pod.Namespace)
	if err := permit(pod.Namespace, spec); err != nil {
		return reasonConfig, err
	}
	spec.StopSignal = stopSignal(c, img)
	spec.MessagePath = cmp.Or(c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	spec.ID = container.ID{Pod: string(w.uid), Name: c.Name, Attempt: s.attempt}
	spec.Labels[labelStreak] = strconv.Itoa(s.streak)
	spec.Labels[labelImage] = digest
	if err := w.mountVolumes(pod, c, &spec); err != nil {
		return reasonConfig, err
	}
	if spec.RootFS, err = w.node.cfg.Images.Mounts(ctx, spec.ID.String(), digest); err != nil {
		return "CreateContainerError", fmt.Errorf("unpack image %s: %w", c.Image, err)
	}
	if !w.node.leases.mayStart(pod) { // unpacking may have taken long
		return "WaitingForLease", errors.New("the Pod's lease has run out meanwhile")
	}
	err = w.node.cfg.Driver.Start(ctx, spec)
	switch {
	case errors.Is(err, container.ErrNoProfile):
		return reasonConfig, err
	case err != nil:
		return "RunContainerError", err
	}
	return "", nil
}

// labelImage keeps the digest a container was started from.
const labelImage = "image"
