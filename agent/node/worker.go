package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/container"
)

// A worker makes one Pod so. It looks again whenever it is woken, so that it
// does not matter why, and lives until nothing of the Pod is left here.
type worker struct {
	node    *Node
	uid     types.UID
	log     *slog.Logger
	woken   chan struct{}
	version uint64 // of the row that it was last woken for; owned by Node.look

	pulls  map[string]*pull      // by container name
	probes map[string]*prober    // by container name
	hooks  map[string]*hook      // postStart of newest attempts, by container name
	notes  map[string]*note      // by container name
	failed map[string]retryState // starts that failed, by container name
	ends   map[string]ending     // of newest attempts, by container name
	pod    *corev1.Pod           // as last seen

	keysBy  time.Time // until then Secrets with credentials are waited for; zero: all are here
	leaveIn int64     // the grace period of a Pod that is to go, in seconds
	leaveBy time.Time // when that is over

	making   sync.Mutex        // held while volumes are made
	stale    map[string]string // volumes that could not be brought up to date, by name, and why
	turn     int64             // the last news of ConfigMaps and Secrets that were looked at
	measured time.Time         // when its folders with a limit were measured
	evicted  string            // why it ends for good, once it takes more than it may

	expires time.Time // the Pod's active deadline, once it is known
}

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

func newWorker(n *Node, uid types.UID) *worker {
	return &worker{
		node: n, uid: uid,
		log:    n.log.With("uid", string(uid)),
		woken:  make(chan struct{}, 1),
		pulls:  map[string]*pull{},
		probes: map[string]*prober{},
		hooks:  map[string]*hook{},
		notes:  map[string]*note{},
		failed: map[string]retryState{},
		stale:  map[string]string{},
		ends:   map[string]ending{},
	}
}

func (w *worker) wake() {
	select {
	case w.woken <- struct{}{}:
	default: // it is about to look anyway
	}
}

func (w *worker) run(ctx context.Context) {
	defer w.stopProbes()
	defer w.stopHooks()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.woken:
		case <-timer.C:
		}
		next, done, err := w.look(ctx)
		if done {
			return
		}
		if err != nil && ctx.Err() == nil {
			w.log.Warn("pod is not as wanted", "err", err)
			next = time.Now().Add(time.Second)
		}
		if next.IsZero() {
			next = time.Now().Add(time.Hour)
		}
		timer.Reset(time.Until(next))
	}
}

// look compares and acts once. It returns when it wants to look again, and
// whether nothing of the Pod is left.
func (w *worker) look(ctx context.Context) (next time.Time, done bool, err error) {
	pod, err := w.node.pod(w.uid)
	if err != nil {
		return next, false, err
	}
	if pod == nil {
		if !w.node.cfg.Replica.Synced() {
			return time.Now().Add(time.Second), false, nil
		}
		if err := w.clean(ctx, w.lastGrace()); err != nil {
			return next, false, err
		}
		w.node.reports.forget(w.uid)
		return next, true, nil
	}
	if w.pod == nil {
		w.log = w.log.With("pod", pod.Namespace+"/"+pod.Name)
	}
	w.pod = pod
	if pod.DeletionTimestamp != nil {
		return w.delete(ctx, pod)
	}
	if finished(pod) {
		return next, false, w.stopLeft(ctx, pod)
	}
	return w.ensure(ctx, pod)
}

// stopLeft stops what runs of a Pod that has ended: the leader gave it up while
// this machine was away.
func (w *worker) stopLeft(ctx context.Context, pod *corev1.Pod) error {
	w.stopProbes()
	have := w.node.statuses(w.uid)
	if !slices.ContainsFunc(have, func(s container.Status) bool { return s.State == container.Running }) {
		return nil
	}
	w.event(pod, corev1.EventTypeNormal, "Killing", "stopping what is left: "+pod.Status.Reason)
	return w.stopAll(ctx, pod, have, 0)
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// delete stops the Pod within its grace period and tells the leader that
// nothing is left of it.
func (w *worker) delete(ctx context.Context, pod *corev1.Pod) (time.Time, bool, error) {
	for name := range w.probes {
		w.stopProbe(name)
	}
	grace := time.Until(w.goneBy(pod))
	if len(w.node.statuses(w.uid)) > 0 {
		w.event(pod, corev1.EventTypeNormal, "Killing", "stopping, with "+max(grace, 0).Round(time.Second).String()+" to finish")
	}
	if err := w.clean(ctx, grace); err != nil {
		return time.Time{}, false, err
	}
	w.node.reports.gone(pod)
	return time.Time{}, false, nil
}

// goneBy is by when a Pod has to be gone that is to go: its grace period counts
// from when this agent heard of it, by no other machine's clock. Where a shorter
// one is told later, the earlier end holds.
func (w *worker) goneBy(pod *corev1.Pod) time.Time {
	var grace int64
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		grace = *s
	}
	if by := time.Now().Add(time.Duration(grace) * time.Second); w.leaveBy.IsZero() || grace < w.leaveIn && by.Before(w.leaveBy) {
		w.leaveIn, w.leaveBy = grace, by
	}
	return w.leaveBy
}

// lastGrace is how long a Pod whose row has vanished gets to stop.
func (w *worker) lastGrace() time.Duration {
	if w.pod == nil || w.pod.DeletionTimestamp != nil {
		return 0
	}
	return graceOf(w.pod)
}

// clean removes all of the Pod from this machine. It returns early, with an
// error, when a shorter grace period comes in meanwhile.
func (w *worker) clean(ctx context.Context, grace time.Duration) error {
	w.stopProbes()
	w.stopHooks()
	for name, p := range w.pulls {
		p.cancel()
		delete(w.pulls, name)
	}
	list, err := w.node.cfg.Driver.List(ctx)
	if err != nil {
		return err
	}
	var mine []container.Status
	for _, s := range list {
		if s.ID.Pod == string(w.uid) {
			mine = append(mine, s)
		}
	}
	if err := w.stopAll(ctx, w.pod, mine, max(grace, 0)); err != nil {
		return err
	}
	var errs []error
	for _, s := range mine {
		errs = append(errs, w.remove(ctx, s.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if w.node.cfg.Volumes != nil { // while the sandbox is there, nobody forgets that there may be some
		if err := w.node.cfg.Volumes.Remove(string(w.uid)); err != nil {
			return err
		}
	}
	return w.node.cfg.Driver.RemoveSandbox(ctx, string(w.uid))
}

// stopAll stops the containers side by side, and then the sidecars.
func (w *worker) stopAll(ctx context.Context, pod *corev1.Pod, list []container.Status, grace time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := time.Now().Add(grace)
	result := make(chan error, 1)
	go func() { result <- w.stopInOrder(ctx, pod, list, deadline) }()
	for {
		select {
		case err := <-result:
			return err
		case <-w.woken:
			if at, ok := w.mustStopBy(); ok && at.Before(deadline.Add(-time.Second)) {
				cancel()
				if err := <-result; err == nil {
					return nil // it had just stopped
				}
				w.wake()
				return errors.New("grace period was cut short")
			}
		}
	}
}

func (w *worker) stopInOrder(ctx context.Context, pod *corev1.Pod, list []container.Status, by time.Time) error {
	least := time.Duration(0)
	if time.Until(by) > 0 {
		least = lastMoment // a sidecar is not killed because others took their time
	}
	for i, together := range lapses(pod, list) {
		var group errgroup.Group
		for _, s := range together {
			if s.State == container.Running {
				grace := max(time.Until(by), 0)
				if i > 0 {
					grace = max(grace, least)
				}
				group.Go(func() error { return w.end(ctx, pod, s.ID, grace) })
			}
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// mustStopBy tells by when the Pod has to be gone according to the store.
func (w *worker) mustStopBy() (time.Time, bool) {
	pod, err := w.node.pod(w.uid)
	if err != nil {
		return time.Time{}, false
	}
	if pod == nil {
		return time.Now(), w.node.cfg.Replica.Synced() && w.pod != nil && w.pod.DeletionTimestamp != nil
	}
	if pod.DeletionTimestamp == nil {
		return time.Time{}, false
	}
	return w.goneBy(pod), true
}

func (w *worker) remove(ctx context.Context, id container.ID) error {
	if err := w.node.cfg.Driver.Remove(ctx, id); err != nil {
		return err
	}
	select {
	case w.node.litter <- struct{}{}:
	default:
	}
	if w.node.cfg.Volumes != nil {
		if err := w.node.cfg.Volumes.Release(id.Pod, boxName(id)); err != nil {
			return err
		}
	}
	return w.node.cfg.Images.Release(ctx, id.String())
}

// ensure brings every container of the Pod where it should be.
func (w *worker) ensure(ctx context.Context, pod *corev1.Pod) (time.Time, bool, error) {
	if err := w.node.cfg.Driver.Prepare(ctx, sandboxOf(pod)); err != nil {
		return time.Time{}, false, fmt.Errorf("create sandbox: %w", err)
	}
	var (
		next time.Time
		mu   sync.Mutex
		errs []error
		wait sync.WaitGroup

		outcomes []outcome
	)
	have := w.relist(ctx, w.node.statuses(w.uid)) // those were listed for all Pods, perhaps before our last start
	members := membersOf(pod)
	expires, expired := w.expiry(pod)
	next = earlier(expires, w.measure(pod, time.Now()))
	if over(pod, have) || expired || w.evicted != "" {
		return time.Time{}, false, w.finish(ctx, pod, have)
	}
	w.retryConfig()
	if len(have) > 0 {
		w.refreshVolumes(pod)
	}
	acted := false
	for _, m := range members[:due(members, have, w.isUp(have))] {
		if m.role == roleInit && succeeded(m.Name, have) {
			continue
		}
		act := w.prepare(ctx, pod, m, have)
		next = earlier(next, act.at)
		if act.run == nil {
			continue
		}
		acted = true
		wait.Go(func() {
			out := act.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			outcomes = append(outcomes, out)
		})
	}
	wait.Wait()
	for _, out := range outcomes {
		next = earlier(next, w.settle(ctx, pod, out))
		errs = append(errs, out.err)
	}
	if acted {
		have = w.relist(ctx, have)
	}
	w.syncProbes(ctx, pod, have)
	w.report(pod, have)
	return next, false, errors.Join(errs...)
}

// finish stops the sidecars of a Pod whose own containers have ended for good, and
// says how it ended.
func (w *worker) finish(ctx context.Context, pod *corev1.Pod, have []container.Status) error {
	w.stopProbes()
	w.stopHooks()
	err := w.stopAll(ctx, pod, have, graceOf(pod))
	w.report(pod, w.relist(ctx, have))
	return err
}

// expiry tells when the time of a Pod is up that may be active for so long only, and
// whether it is. It counts from when this machine first had the Pod.
func (w *worker) expiry(pod *corev1.Pod) (at time.Time, expired bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return time.Time{}, false
	}
	if w.expires.IsZero() {
		w.expires = w.node.ago(pod.Status.StartTime.Time).Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
	}
	return w.expires, !time.Now().Before(w.expires)
}

func graceOf(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// isUp returns what tells whether a sidecar is up, so that others may start: it
// runs, its postStart is over, and its startup probe has succeeded.
func (w *worker) isUp(have []container.Status) func(name string) bool {
	return func(name string) bool {
		attempts := attemptsOf(name, have)
		if len(attempts) == 0 || attempts[0].State != container.Running {
			return false
		}
		if pending, err := w.hooked(attempts[0].ID); pending || err != nil {
			return false
		}
		c := containerNamed(w.pod, name)
		if c == nil || c.StartupProbe == nil {
			return true
		}
		p := w.probes[name]
		return p != nil && p.id == attempts[0].ID && p.state().started
	}
}

// relist reads the Pod's containers anew after they were acted on.
func (w *worker) relist(ctx context.Context, old []container.Status) []container.Status {
	list, err := w.node.cfg.Driver.List(ctx)
	if err != nil {
		return old // the next look tells
	}
	var mine []container.Status
	for _, s := range list {
		if s.ID.Pod == string(w.uid) {
			mine = append(mine, s)
		}
	}
	return mine
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
	s := planContainer(policyOf(pod, m.role), attempts, unhealthy, w.endOf(c.Name, attempts), now)
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
	if spec.Security.Privileged && !w.node.sources.allows(pod.Namespace, object.AnnotationPrivileged) {
		return reasonConfig, fmt.Errorf("the namespace %q does not allow securityContext.privileged (annotation %s)", pod.Namespace, object.AnnotationPrivileged)
	}
	spec.StopSignal = stopSignal(c, img)
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
	if err := w.node.cfg.Driver.Start(ctx, spec); err != nil {
		return "RunContainerError", err
	}
	return "", nil
}

// labelImage keeps the digest a container was started from.
const labelImage = "image"

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// event tells the leader of something worth a person's attention.
func (w *worker) event(pod *corev1.Pod, kind, reason, message string) {
	w.node.reports.event(pod, w.node.cfg.Name, kind, reason, message)
}
