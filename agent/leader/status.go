package leader

import (
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
)

// Reasons of a Deployment's conditions.
const (
	reasonAvailable   = "MinimumReplicasAvailable"
	reasonUnavailable = "MinimumReplicasUnavailable"
	reasonComplete    = "NewRevisionAvailable"
	reasonProgress    = "RevisionUpdated"
	reasonTooSlow     = "ProgressDeadlineExceeded"
)

// status writes into the Deployment how far it is once the draft is written. It
// answers when that changes by time alone, 0 for never.
func (e *edit) status() time.Duration {
	s := appsv1.DeploymentStatus{
		ObservedGeneration: e.d.Generation,
		CollisionCount:     e.d.Status.CollisionCount,
		Conditions:         e.d.Status.Conditions,
	}
	gone := make(map[*pod]bool, len(e.deed.remove))
	for _, r := range e.deed.remove {
		gone[r.pod] = true
	}
	e.counts = map[string]*object.RevisionStatus{}
	for side, pods := range [][]*pod{e.cast.current, e.cast.old} {
		for _, p := range pods {
			if gone[p] || !p.active() {
				continue
			}
			of := e.countsOf(p.owner)
			s.Replicas++
			of.Replicas++
			if side == 0 {
				s.UpdatedReplicas++
			}
			if p.ready {
				s.ReadyReplicas++
				of.ReadyReplicas++
			}
			if ok, _ := p.available(e.wish.minReady, time.Now()); ok {
				s.AvailableReplicas++
				of.AvailableReplicas++
			}
		}
	}
	s.Replicas += int32(e.deed.create)
	s.UpdatedReplicas += int32(e.deed.create)
	if e.current != nil && e.current.hash != e.hash {
		s.UpdatedReplicas = 0 // paused before its new template
	}
	s.UnavailableReplicas = max(0, max(int32(e.wish.replicas), s.Replicas)-s.AvailableReplicas)
	again := e.conditions(&s)
	e.d.Status = s
	if e.number > 0 {
		if e.d.Annotations == nil {
			e.d.Annotations = map[string]string{}
		}
		e.d.Annotations[object.AnnotationRevision] = strconv.FormatInt(e.number, 10)
	}
	return again
}

func (e *edit) countsOf(uid string) *object.RevisionStatus {
	of := e.counts[uid]
	if of == nil {
		of = &object.RevisionStatus{}
		e.counts[uid] = of
	}
	return of
}

// revisionStatus drafts the status of the Revisions whose Pods have changed.
func (e *edit) revisionStatus() error {
	if e.made != nil {
		e.countsOf(string(e.made.UID)).Replicas += int32(e.deed.create)
	}
	for _, rev := range e.revisions {
		want := *e.countsOf(rev.uid)
		if e.trimmed[rev.uid] || e.made != nil && e.made.Name == rev.key.Name || want == rev.status {
			continue
		}
		full, err := e.read(rev)
		if err != nil {
			return err
		}
		full.Status = want
		if err := e.put(full, rev.version); err != nil {
			return err
		}
	}
	if e.made == nil {
		return nil
	}
	want := *e.countsOf(string(e.made.UID))
	expect := object.Version(e.made)
	if want == e.made.Status && !e.changed {
		e.out.ops = append(e.out.ops, object.Check(object.KeyOf(e.made), expect))
		return nil
	}
	e.made.Status = want
	return e.put(e.made, expect)
}

func (e *edit) conditions(s *appsv1.DeploymentStatus) time.Duration {
	available := appsv1.DeploymentCondition{
		Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, Reason: reasonAvailable,
		Message: "enough replicas are available",
	}
	if least := max(0, e.wish.replicas-e.wish.unavailable); int(s.AvailableReplicas) < least {
		available.Status, available.Reason = corev1.ConditionFalse, reasonUnavailable
		available.Message = fmt.Sprintf("fewer than %d replicas are available", least)
	}
	e.condition(s, available, false)

	have := conditionOf(s.Conditions, appsv1.DeploymentProgressing)
	progress := appsv1.DeploymentCondition{
		Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonProgress,
		Message: "replicas are being made or replaced",
	}
	want := int32(e.wish.replicas)
	if s.Replicas == want && s.UpdatedReplicas == want && s.AvailableReplicas == want {
		progress.Reason, progress.Message = reasonComplete, "all replicas are of the newest revision and available"
		e.condition(s, progress, false)
		return 0
	}
	old := e.d.Status
	moved := have == nil || have.Reason == reasonComplete || s.ObservedGeneration != old.ObservedGeneration ||
		s.UpdatedReplicas > old.UpdatedReplicas || s.ReadyReplicas > old.ReadyReplicas ||
		s.AvailableReplicas > old.AvailableReplicas || s.Replicas < old.Replicas
	limit := 10 * time.Minute
	if e.d.Spec.ProgressDeadlineSeconds != nil {
		limit = time.Duration(*e.d.Spec.ProgressDeadlineSeconds) * time.Second
	}
	left := limit
	switch {
	case moved:
	case have.Reason == reasonTooSlow:
		left = 0 // until it moves
	default:
		left = have.LastUpdateTime.Add(limit).Sub(e.now)
	}
	if left <= 0 && !e.wish.paused {
		progress.Status, progress.Reason = corev1.ConditionFalse, reasonTooSlow
		progress.Message = fmt.Sprintf("no progress for %s", limit)
		e.condition(s, progress, false)
		return 0
	}
	e.condition(s, progress, moved)
	return left + time.Second
}

// condition sets one. Its times change only with it, or when it is touched.
func (e *edit) condition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition, touched bool) {
	c.LastUpdateTime, c.LastTransitionTime = stamp(e.now), stamp(e.now)
	out := make([]appsv1.DeploymentCondition, 0, 2)
	for _, have := range s.Conditions {
		if have.Type != c.Type {
			out = append(out, have)
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
			if have.Reason == c.Reason && !touched {
				c.LastUpdateTime = have.LastUpdateTime
			}
		}
	}
	if c.Type == appsv1.DeploymentAvailable {
		out = append([]appsv1.DeploymentCondition{c}, out...)
	} else {
		out = append(out, c)
	}
	s.Conditions = out
}

func conditionOf(list []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}
