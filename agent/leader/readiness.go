package leader

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// readiness returns the change to a Node that gives it the condition Ready, and
// whether it is one.
func readiness(row *state.Row, status corev1.ConditionStatus, reason, message string, now time.Time) (op *logv1.Op, changed bool, err error) {
	n, err := object.Decode[corev1.Node](row)
	if err != nil {
		return nil, false, err
	}
	cond := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: status, Reason: reason, Message: message,
		LastHeartbeatTime: stamp(now), LastTransitionTime: stamp(now),
	}
	found := false
	for i := range n.Status.Conditions {
		have := &n.Status.Conditions[i]
		if have.Type != corev1.NodeReady {
			continue
		}
		if have.Status == status && have.Reason == reason {
			return nil, false, nil
		}
		*have, found = cond, true
	}
	if !found {
		n.Status.Conditions = append(n.Status.Conditions, cond)
	}
	op, err = object.Put(n, row.Version)
	return op, err == nil, err
}

// setReady writes the condition Ready of one node, unless it is so already or
// the Node is gone.
func (r *reign) setReady(ctx context.Context, name string, status corev1.ConditionStatus, reason, message string) error {
	for try := 0; ; try++ {
		row, ok := r.store.Get(state.Key{Kind: object.KindNode, Name: name})
		if !ok {
			return nil
		}
		op, changed, err := readiness(row, status, reason, message, r.Now())
		if err != nil || !changed {
			return err
		}
		if _, err = r.commit(ctx, []*logv1.Op{op}); conflict(err) && try < 10 {
			continue
		}
		if err == nil {
			kind := corev1.EventTypeNormal
			if status != corev1.ConditionTrue {
				kind = corev1.EventTypeWarning
			}
			r.events.eventf(aboutNode(name, row.UID), kind, reason, "%s", message)
		}
		return err
	}
}
