package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
)

// A hook is the postStart of one run of a container, beside the worker that waits
// for it.
type hook struct {
	id     container.ID
	cancel context.CancelFunc
	ended  chan struct{}

	mu   sync.Mutex
	done bool
	err  error
}

func (h *hook) state() (done bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done, h.err
}

// runHook does once what a lifecycle handler says, in the container's own Pod: as
// a probe does, it can name no other host.
func (t target) runHook(ctx context.Context, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return t.exec(ctx, h.Exec.Command)
	case h.HTTPGet != nil:
		return t.httpGet(ctx, h.HTTPGet)
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("the hook says nothing to do")
}

// startHook begins a container's postStart. An agent that died over one does not
// begin it again.
func (w *worker) startHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id container.ID) {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &hook{id: id, cancel: cancel, ended: make(chan struct{})}
	w.hooks[c.Name] = h
	t := target{driver: w.node.cfg.Driver, addr: w.place().podIP, pod: pod, container: c, id: id}
	w.node.gone.Go(func() {
		defer close(h.ended)
		defer cancel()
		err := t.runHook(ctx, c.Lifecycle.PostStart)
		if err != nil && ctx.Err() == nil {
			w.event(pod, corev1.EventTypeWarning, "FailedPostStartHook", "container "+c.Name+": "+err.Error())
		}
		h.mu.Lock()
		h.done, h.err = true, err
		h.mu.Unlock()
		w.wake()
	})
}

// hooked tells whether a run's postStart is still under way, or has failed.
func (w *worker) hooked(id container.ID) (pending bool, err error) {
	h := w.hooks[id.Name]
	if h == nil || h.id != id {
		return false, nil
	}
	done, err := h.state()
	return !done, err
}

func (w *worker) stopHooks() {
	for name, h := range w.hooks {
		h.cancel()
		<-h.ended
		delete(w.hooks, name)
	}
}

// lastMoment is what a container has to end in that used all its grace period for
// its preStop: what Kubernetes gives it, too.
const lastMoment = 2 * time.Second

// end stops one container: its preStop first, within the grace period, then its
// stop signal for what is left of that.
func (w *worker) end(ctx context.Context, pod *corev1.Pod, id container.ID, grace time.Duration) error {
	by := time.Now().Add(grace)
	_, said := w.parted.Load(id) // before its time was cut short
	if c := containerNamed(pod, id.Name); c != nil && grace > 0 && !said && c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		t := target{driver: w.node.cfg.Driver, addr: w.place().podIP, pod: pod, container: c, id: id}
		hctx, cancel := context.WithDeadline(ctx, by)
		err := t.runHook(hctx, c.Lifecycle.PreStop)
		cut := hctx.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err() // it was not told to end yet: whoever comes next begins anew
		case cut:
			w.event(pod, corev1.EventTypeWarning, "FailedPreStopHook", fmt.Sprintf("container %s: no end within the grace period of %s", c.Name, grace.Round(time.Second)))
		case err != nil && !errors.Is(err, container.ErrNotFound):
			w.event(pod, corev1.EventTypeWarning, "FailedPreStopHook", "container "+c.Name+": "+err.Error())
		}
		w.parted.Store(id, true)
		grace = max(time.Until(by), lastMoment)
	}
	return w.node.cfg.Driver.Stop(ctx, id, grace)
}

// containerNamed finds a container of a Pod, which may be nil.
func containerNamed(pod *corev1.Pod, name string) *corev1.Container {
	if pod == nil {
		return nil
	}
	for _, m := range membersOf(pod) {
		if m.Name == name {
			return m.Container
		}
	}
	return nil
}
