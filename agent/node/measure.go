package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skein-dev/skein/runtime/container"
)

const (
	// measureEvery is how often what a Pod has on disk is measured, if it has a limit.
	measureEvery = 10 * time.Second
	// maxEntries bounds what is looked at: whoever makes more files than that in a
	// folder with a limit is over it.
	maxEntries = 200_000

	reasonEvicted = "Evicted"
)

// A measurement is one look at what a Pod has on disk.
type measurement struct {
	w   *worker
	ctx context.Context //nolint:containedctx // of one look
	pod *corev1.Pod
}

// measure finds out whether the Pod has outgrown a limit of its ephemeral storage.
// One that has is ended, as Kubernetes does it: for a volume that is more than its
// sizeLimit, for a container that has written more than its limit, and for all
// containers and volumes that are together more than the sum of the limits. What is
// in memory does not count, nor does the output, which is bounded by itself.
func (w *worker) measure(ctx context.Context, pod *corev1.Pod, have []container.Status, now time.Time) (next time.Time) {
	if w.evicted != "" || !limited(pod) {
		return time.Time{}
	}
	if now.Before(w.measured.Add(measureEvery)) {
		return w.measured.Add(measureEvery)
	}
	w.measured = now
	m := measurement{w: w, ctx: ctx, pod: pod}
	if why := m.judge(have); why != "" && ctx.Err() == nil {
		w.evict(pod, why)
	}
	return now.Add(measureEvery)
}

// judge says what is more than it may be; empty: nothing.
func (m measurement) judge(have []container.Status) string {
	var all, most int64
	for i := range m.pod.Spec.Volumes {
		v := &m.pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium == corev1.StorageMediumMemory {
			continue
		}
		used, why := m.volume(v)
		if why != "" {
			return why
		}
		all += used
	}
	counted := false
	for _, c := range membersOf(m.pod) {
		limit, has := c.Resources.Limits[corev1.ResourceEphemeralStorage]
		counted, most = counted || has, most+limit.Value()
		attempts := attemptsOf(c.Name, have)
		if len(attempts) == 0 {
			continue
		}
		used, over := m.container(attempts[0].ID)
		switch {
		case !has:
		case over:
			return fmt.Sprintf("container %s has written more than %d files, and has a limit of ephemeral-storage", c.Name, maxEntries)
		case used > limit.Value():
			return fmt.Sprintf("container %s has written %d bytes, more than its limit of ephemeral-storage, %s", c.Name, used, limit.String())
		}
		all += used
	}
	if counted && all > most {
		return fmt.Sprintf("containers and emptyDir volumes hold %d bytes together, more than the limits of ephemeral-storage, %s",
			all, resource.NewQuantity(most, resource.BinarySI).String())
	}
	return ""
}

func (m measurement) volume(v *corev1.Volume) (used int64, why string) {
	if m.w.node.cfg.Volumes == nil {
		return 0, ""
	}
	used, over, err := m.w.node.cfg.Volumes.Used(string(m.w.uid), v.Name, maxEntries)
	limit := v.EmptyDir.SizeLimit
	switch {
	case err != nil:
		m.w.log.Warn("cannot measure a volume", "volume", v.Name, "err", err)
	case limit == nil:
	case over:
		return used, fmt.Sprintf("the emptyDir volume %q holds more than %d files and folders, and has a limit", v.Name, maxEntries)
	case used > limit.Value():
		return used, fmt.Sprintf("the emptyDir volume %q holds %d bytes, more than its limit of %s", v.Name, used, limit.String())
	}
	return used, ""
}

// container measures what a container has written besides its volumes.
func (m measurement) container(id container.ID) (used int64, over bool) {
	used, over, err := m.w.node.cfg.Images.Used(m.ctx, id.String(), maxEntries)
	if err != nil && m.ctx.Err() == nil {
		m.w.log.Warn("cannot measure what a container has written", "container", id.String(), "err", err)
	}
	return used, over
}

// limited tells whether anything that the Pod has on disk has a limit.
func limited(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.SizeLimit != nil && e.Medium != corev1.StorageMediumMemory {
			return true
		}
	}
	for _, c := range membersOf(pod) {
		if _, has := c.Resources.Limits[corev1.ResourceEphemeralStorage]; has {
			return true
		}
	}
	return false
}

// evict ends a Pod for good that takes more than it may.
func (w *worker) evict(pod *corev1.Pod, why string) {
	if w.evicted == "" {
		w.evicted = why
		w.event(pod, corev1.EventTypeWarning, reasonEvicted, why)
	}
}
