package leader

import (
	"context"
	"errors"
	"time"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// collect removes what nobody owns, what is in a namespace that goes, Pods that
// are to go and run nowhere, and old events.
func (r *reign) collect(ctx context.Context) error {
	if err := errors.Join(r.collectOrphans(ctx), r.collectUnbound(ctx), r.collectNamespaces(ctx)); err != nil {
		return err
	}
	return r.trimIfDue(ctx)
}

// collectOrphans removes Revisions and Pods whose owner is gone. It looks only
// at those that something has happened to.
func (r *reign) collectOrphans(ctx context.Context) error {
	for {
		more, err := r.orphans(ctx)
		if err != nil || !more {
			return err
		}
	}
}

func (r *reign) orphans(ctx context.Context) (more bool, err error) {
	release, err := r.take(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	m := r.model
	m.mu.Lock()
	var ops []*logv1.Op
	var orphaned []*pod
	for key := range m.orphans {
		if len(ops)+len(orphaned) >= maxPods {
			more = true
			break
		}
		switch key.Kind {
		case object.KindRevision:
			rev := m.revisions[m.uids[key]]
			if rev != nil && rev.deployment != "" && m.deployments[rev.deployment] == nil {
				ops = append(ops, object.Delete(key, rev.version))
				continue
			}
		case object.KindPod:
			if p := m.pods[key]; p != nil && p.revision && m.revisions[p.owner] == nil && !p.deleting {
				orphaned = append(orphaned, p)
				continue
			}
		}
		delete(m.orphans, key) // it has an owner after all, or is going
	}
	m.mu.Unlock()
	return r.drop(ctx, ops, orphaned, more)
}

// drop asks Pods to go, together with other changes.
func (r *reign) drop(ctx context.Context, ops []*logv1.Op, pods []*pod, more bool) (bool, error) {
	for _, p := range pods {
		op, err := stopPod(r.store, p, r.Now())
		if conflict(err) {
			more = true // the model is about to hear of it
			continue
		}
		if err != nil {
			return false, err
		}
		if op != nil {
			ops = append(ops, op)
		}
	}
	if len(ops) == 0 {
		return false, nil
	}
	if _, err := r.commit(ctx, ops); err != nil {
		return false, err
	}
	return more, nil
}

// collectUnbound removes Pods that are to go and that no node holds. Those of a
// lost node are sweep's.
func (r *reign) collectUnbound(ctx context.Context) error {
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	m := r.model
	m.mu.Lock()
	var ops []*logv1.Op
	for key := range m.leaving {
		if p := m.pods[key]; p != nil && p.node == "" && len(ops) < maxPods {
			ops = append(ops, object.Delete(key, p.version))
		}
	}
	m.mu.Unlock()
	_, err = r.commit(ctx, ops)
	return err
}

// collectNamespaces empties the namespaces that are being deleted, and deletes
// those that are empty: owners first, so that nobody makes again what goes.
func (r *reign) collectNamespaces(ctx context.Context) error {
	r.model.mu.Lock()
	ending := sortedKeys(r.model.ending)
	r.model.mu.Unlock()
	for _, name := range ending {
		if err := r.endNamespace(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *reign) endNamespace(ctx context.Context, name string) error {
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	row, ok := r.store.Get(state.Key{Kind: object.KindNamespace, Name: name})
	if !ok {
		return nil
	}
	var ops []*logv1.Op
	left := 0
	for _, one := range r.store.List(state.AllKinds, name, "") {
		if one.Key.Kind == object.KindPod {
			left++
			continue
		}
		if len(ops) < 2*maxPods {
			ops = append(ops, object.Delete(one.Key, one.Version))
		}
	}
	if left == 0 && len(ops) < 2*maxPods {
		ops = append(ops, object.Delete(row.Key, row.Version))
		_, err := r.commit(ctx, ops)
		return err
	}
	m := r.model
	m.mu.Lock()
	var pods []*pod
	for key, p := range m.pods {
		if key.Namespace == name && !p.deleting && len(pods) < maxPods {
			pods = append(pods, p)
		}
	}
	m.mu.Unlock()
	more, err := r.drop(ctx, ops, pods, len(pods) == maxPods || len(ops) == 2*maxPods)
	if more {
		m.bells.garbage.Ring()
	}
	return err
}

// trimIfDue trims the events, a pass over all of them, once a minute or so.
func (r *reign) trimIfDue(ctx context.Context) error {
	if time.Since(r.trimmed) < trimEvery {
		return nil
	}
	r.trimmed = time.Now()
	return r.trimEvents(ctx)
}
