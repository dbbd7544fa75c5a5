package leader

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/lease"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// leases are those of one term. Whoever grants one looks at the log and at the
// table in one piece, so that none is granted of a Pod that was given away.
type leases struct {
	mu    sync.Mutex
	table *lease.Table
	due   time.Time // when the first of the Pods that wait is free, the zero time if none waits
}

// Lease grants a node the leases of its own Pods, by uid, and returns those that
// it was granted. A quorum confirms this leader after it was asked.
func (l *Leader) Lease(ctx context.Context, node string, pods []string) ([]string, error) {
	l.mu.Lock()
	r := l.now
	l.mu.Unlock()
	if r == nil {
		return nil, consensus.ErrNotLeader
	}
	if err := r.Consensus.Confirm(ctx); err != nil {
		return nil, err
	}
	r.leases.mu.Lock()
	defer r.leases.mu.Unlock()
	bound := map[string]bool{}
	for _, row := range r.store.List(object.KindPod, "", object.NodeIndex(node)) {
		bound[row.UID] = true
	}
	now := time.Now()
	var granted []string
	for _, pod := range pods {
		if bound[pod] && r.leases.table.Step(now, lease.Asked{Pod: pod}).OK {
			granted = append(granted, pod)
		}
	}
	return granted, nil
}

// takeLease tells whether another Pod may start in a Pod's place. If so, the Pod
// gets no lease any more.
func (r *reign) takeLease(p *pod) bool {
	r.leases.mu.Lock()
	defer r.leases.mu.Unlock()
	a := r.leases.table.Step(time.Now(), lease.Take{Pod: p.uid})
	if !a.OK && (r.leases.due.IsZero() || a.At.Before(r.leases.due)) {
		r.leases.due = a.At
	}
	return a.OK
}

// leaseDue returns when a Pod that waits is free, and forgets it.
func (r *reign) leaseDue() time.Time {
	r.leases.mu.Lock()
	defer r.leases.mu.Unlock()
	due := r.leases.due
	r.leases.due = time.Time{}
	return due
}

// leasesOver forgets the leases of Pods that are not in the log any more.
func (r *reign) leasesOver() {
	r.model.mu.Lock()
	over := r.model.over
	r.model.over = nil
	r.model.mu.Unlock()
	r.leases.mu.Lock()
	defer r.leases.mu.Unlock()
	for _, uid := range over {
		r.leases.table.Step(time.Now(), lease.Gone{Pod: uid})
	}
}

// hold drafts the end of an exclusive Pod whose node is lost: it is to go, and
// stays in the log, where nobody takes its place, until its lease has run out or
// its node has said that it is gone.
func (l *loss) hold(p *pod) (*logv1.Op, error) {
	row, ok := l.store.Get(p.key)
	if !ok || row.Version != p.version {
		return nil, &state.ConflictError{Key: p.key, Want: p.version}
	}
	full, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	l.reign.leases.mu.Lock()
	until := l.reign.leases.table.Until(p.uid)
	l.reign.leases.mu.Unlock()
	now, none := stamp(l.wall), int64(0)
	full.DeletionTimestamp, full.DeletionGracePeriodSeconds = &now, &none
	full.Status.Reason = object.ReasonLeaseHeld
	full.Status.Message = fmt.Sprintf("%s; its replacement waits until %s for the lease of node %s",
		l.why[p], until.UTC().Format("15:04:05.0"), p.node)
	for i := range full.Status.Conditions {
		if c := &full.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, full.Status.Reason, full.Status.Message
			c.LastTransitionTime = metav1.Time{Time: now.Time}
		}
	}
	l.tales = append(l.tales, tale{aboutPod(p), corev1.EventTypeWarning, object.ReasonLeaseHeld, full.Status.Message})
	return object.Put(full, row.Version)
}

// slotOf names what an exclusive Pod may be in only once: its Deployment, by
// name, so that one which is deleted and made again is the same.
func slotOf(p *corev1.Pod) string {
	owner := metav1.GetControllerOf(p)
	if owner == nil || owner.Kind != object.KindRevision {
		return ""
	}
	for i := len(owner.Name) - 1; i >= 0; i-- {
		if owner.Name[i] == '-' {
			return p.Namespace + "/" + owner.Name[:i]
		}
	}
	return p.Namespace + "/" + owner.Name
}

// planExclusive makes the one Pod only when there is no other left, not even one
// that is stopping: who has not been reported gone may still run.
func (w wish) planExclusive(d *deed, current, old part, present int) {
	d.removeAll(old.active, "its template is replaced")
	d.removeAll(surplus(current.active, len(current.active)-w.replicas), "fewer replicas are wanted")
	if present == 0 && !w.paused {
		d.create = min(w.replicas, 1)
	}
}

// occupied counts the Pods in the Deployment's slot, whoever made them.
func (e *edit) occupied(without map[state.Key]bool) int {
	n := 0
	for key := range e.model.slots[e.d.Namespace+"/"+e.d.Name] {
		if !without[key] {
			n++
		}
	}
	return n
}
