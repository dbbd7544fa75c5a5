package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

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

	pulls  map[string]*pull        // by container name
	probes map[string]*prober      // by container name
	hooks  map[string]*hook        // postStart of newest attempts, by container name
	notes  map[string]*note        // by container name
	failed map[string]retryState   // starts that failed, by container name
	words  map[container.ID]string // last ones of those that have ended
	ends   map[string]ending       // of newest attempts, by container name
	pod    *corev1.Pod             // as last seen

	keysBy  time.Time // until then Secrets with credentials are waited for; zero: all are here
	leaveIn int64     // the grace period of a Pod that is to go, in seconds
	leaveBy time.Time // when that is over

	released bool // nobody sends it anything new

	parted   sync.Map          // ids of runs whose preStop is over
	making   sync.Mutex        // held while volumes are made
	stale    map[string]string // volumes that could not be brought up to date, by name, and why
	turn     int64             // the last news of ConfigMaps and Secrets that were looked at
	measured time.Time         // when its folders with a limit were measured
	evicted  string            // why it ends for good, once it takes more than it may

	expires time.Time // the Pod's active deadline, once it is known
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

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// ensure brings every container of the Pod where it should be.
func (w *worker) ensure(ctx context.Context, pod *corev1.Pod) (time.Time, bool, error) {
	addr, err := w.node.address(pod)
	if err != nil {
		return w.unwired(ctx, pod, err), false, nil
	}
	delete(w.notes, "")
	if err := w.node.cfg.Driver.Prepare(ctx, sandboxOf(pod, w.place())); err != nil {
		return time.Time{}, false, fmt.Errorf("create sandbox: %w", err)
	}
	if addr.IsValid() {
		if err := w.node.cfg.Network.Admit(ctx, pod, addr); err != nil {
			return time.Time{}, false, fmt.Errorf("let it onto the network: %w", err)
		}
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
	next = earlier(expires, w.measure(ctx, pod, have, time.Now()))
	if over(pod, have) || stuck(pod, have) || expired || w.evicted != "" {
		return time.Time{}, false, w.finish(ctx, pod, have)
	}
	w.retryConfig()
	if len(have) > 0 {
		w.refreshVolumes(pod)
	}
	acted := false
	n := due(members, have, w.isUp(have))
	next = earlier(next, w.fetchAhead(ctx, pod, members[n:], have))
	for _, m := range members[:n] {
		if m.role == roleInit && m.succeeded(have) {
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
	w.report(ctx, pod, have)
	return next, false, errors.Join(errs...)
}

// unwired says of a Pod why it has no network yet, and returns when to look again.
func (w *worker) unwired(ctx context.Context, pod *corev1.Pod, why error) time.Time {
	if old := w.notes[""]; old == nil || old.message != why.Error() {
		w.event(pod, corev1.EventTypeWarning, reasonNetwork, why.Error())
		w.notes[""] = &note{reasonNetwork, why.Error()}
	}
	for _, m := range membersOf(pod) {
		w.notes[m.Name] = &note{reasonNetwork, why.Error()}
	}
	w.report(ctx, pod, w.node.statuses(w.uid))
	return time.Now().Add(time.Second)
}

// reasonNetwork is why containers wait that have no network yet, as Kubernetes has
// it of nodes.
const reasonNetwork = "NetworkNotReady"

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
