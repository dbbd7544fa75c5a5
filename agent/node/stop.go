package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
)

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

// delete stops the Pod within its grace period and tells the leader that
// nothing is left of it.
func (w *worker) delete(ctx context.Context, pod *corev1.Pod) (time.Time, bool, error) {
	for name := range w.probes {
		w.stopProbe(name)
	}
	grace := time.Until(w.goneBy(pod))
	if len(w.node.statuses(w.uid)) > 0 {
		w.event(pod, corev1.EventTypeNormal, "Killing", "stopping, with "+max(grace, 0).Round(time.Second).String()+" to finish")
		w.release(ctx, pod)
		grace = time.Until(w.goneBy(pod))
	}
	if err := w.clean(ctx, grace); err != nil {
		return time.Time{}, false, err
	}
	w.node.reports.gone(pod)
	return time.Time{}, false, nil
}

// releasePatience bounds how long a Pod that is to go waits for a leader that lets
// the others let go of it.
const releasePatience = 6 * time.Second

// release waits until nobody sends the Pod anything new: only then is it told to end,
// so no request is lost. Its grace period counts from then. A Pod that must go at
// once does not wait.
func (w *worker) release(ctx context.Context, pod *corev1.Pod) {
	if w.released || time.Until(w.goneBy(pod)) <= 0 || w.node.cfg.Network == nil {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, releasePatience)
	defer cancel()
	for ctx.Err() == nil {
		err := w.node.cfg.Network.Release(ctx, pod)
		if err == nil {
			break
		}
		if time.Since(began) > leaderlessPatience {
			w.log.Debug("nobody has let the Pod go", "err", err)
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(releaseRetry):
		}
	}
	w.released = true
	w.leaveBy = w.leaveBy.Add(time.Since(began))
}

const releaseRetry = 50 * time.Millisecond

// leaderlessPatience is how long it tries where there is no leader to ask: then the
// others hear of nothing new, and waiting helps nobody.
const leaderlessPatience = 250 * time.Millisecond

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
	if err := w.node.cfg.Driver.RemoveSandbox(ctx, string(w.uid)); err != nil {
		return err
	}
	if w.node.cfg.Network != nil {
		if err := w.node.cfg.Network.Dismiss(ctx, string(w.uid)); err != nil {
			return err
		}
	}
	w.node.addresses.give(string(w.uid))
	return nil
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

// finish stops the sidecars of a Pod whose own containers have ended for good, and
// says how it ended.
func (w *worker) finish(ctx context.Context, pod *corev1.Pod, have []container.Status) error {
	w.stopProbes()
	w.stopHooks()
	err := w.stopAll(ctx, pod, have, graceOf(pod))
	w.report(ctx, pod, w.relist(ctx, have))
	return err
}

func graceOf(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}
