package leader

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// newRevision makes a Revision of a Deployment's template.
func newRevision(d *appsv1.Deployment, hash string, number int64, uid string, now time.Time) *object.Revision {
	r := &object.Revision{
		ObjectMeta: metav1.ObjectMeta{
			Name: object.RevisionName(d.Name, hash), Namespace: d.Namespace, UID: types.UID(uid),
			CreationTimestamp: stamp(now), Generation: 1,
			OwnerReferences: []metav1.OwnerReference{object.Controls(d)},
			Labels:          withHash(d.Spec.Template.Labels, hash),
		},
		Spec: object.RevisionSpec{Number: number, Template: *d.Spec.Template.DeepCopy()},
	}
	r.Spec.Template.Labels = withHash(r.Spec.Template.Labels, hash)
	return r
}

func withHash(labels map[string]string, hash string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		out[k] = v
	}
	out[object.LabelTemplateHash] = hash
	return out
}

// newPod makes a Pod of a Revision. It is not placed yet.
func newPod(r *object.Revision, random uint64, uid string, now time.Time) *corev1.Pod {
	template := r.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: object.PodName(r.Name, random), Namespace: r.Namespace, UID: types.UID(uid),
			CreationTimestamp: stamp(now), Generation: 1,
			Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{object.Controls(r)},
		},
		Spec:   template.Spec,
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

// stamp is a time as Kubernetes' JSON has it, in whole seconds.
func stamp(t time.Time) metav1.Time { return metav1.Time{Time: t.Truncate(time.Second)} }

// settle writes into a Pod what placement decided. It answers whether that
// changed the Pod.
func settle(p *corev1.Pod, c place.Choice, now time.Time) bool {
	cond := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: stamp(now)}
	if c.Refused != nil {
		cond.Status, cond.Reason, cond.Message = corev1.ConditionFalse, corev1.PodReasonUnschedulable, c.Refused.String()
		cond.LastProbeTime = stamp(now)
	}
	p.Spec.NodeName = c.Node
	for i := range p.Status.Conditions {
		have := &p.Status.Conditions[i]
		if have.Type != cond.Type {
			continue
		}
		if have.Status == cond.Status {
			cond.LastTransitionTime = have.LastTransitionTime
		}
		if have.Status == cond.Status && have.Message == cond.Message && have.Reason == cond.Reason {
			return false
		}
		*have = cond
		return true
	}
	p.Status.Conditions = append(p.Status.Conditions, cond)
	return true
}

// stopPod returns the change that asks a Pod to go: with its grace period where
// it runs, at once where it does not. nil means that it is going already or has
// changed under our eyes.
func stopPod(store *state.Store, p *pod, now time.Time) (*logv1.Op, error) {
	if p.node == "" || p.finished() && !p.exclusive {
		return object.Delete(p.key, p.version), nil
	}
	row, ok := store.Get(p.key)
	if !ok || row.Version != p.version {
		return nil, &state.ConflictError{Key: p.key, Want: p.version}
	}
	full, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	if full.DeletionTimestamp != nil {
		return nil, nil
	}
	grace := int64(30)
	if full.Spec.TerminationGracePeriodSeconds != nil {
		grace = *full.Spec.TerminationGracePeriodSeconds
	}
	due := stamp(now.Add(time.Duration(grace) * time.Second))
	full.DeletionTimestamp, full.DeletionGracePeriodSeconds = &due, &grace
	return object.Put(full, row.Version)
}

// failPod returns the change that ends a Pod which nobody makes again.
func failPod(store *state.Store, p *pod, reason, message string) (*logv1.Op, error) {
	row, ok := store.Get(p.key)
	if !ok || row.Version != p.version {
		return nil, &state.ConflictError{Key: p.key, Want: p.version}
	}
	full, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	full.Status.Phase, full.Status.Reason, full.Status.Message = corev1.PodFailed, reason, message
	for i := range full.Status.Conditions {
		if c := &full.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
		}
	}
	for i := range full.Status.ContainerStatuses {
		full.Status.ContainerStatuses[i].Ready = false
	}
	return object.Put(full, row.Version)
}
