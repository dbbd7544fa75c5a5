package leader

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// maxLost is how many Pods of lost nodes one transaction deals with.
const maxLost = 256

// lose writes that nodes are lost, and why, takes their Pods away and makes new
// ones that are placed already, all in one transaction where that is not too
// large: every step through the log in between would be added to the time for
// which the Pods are missing.
func (r *reign) lose(ctx context.Context, evidence map[string]string) error {
	for try := 0; ; try++ {
		// Whatever keeps changing must not hold up the verdict: then the loops
		// make the new Pods.
		more, err := r.replace(ctx, evidence, try < 3)
		if conflict(err) && try < 10 {
			r.model.stir(ctx)
			continue
		}
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
		evidence = nil // is written; the rest is what sweep does
		if err := r.sweep(ctx); err != nil {
			return err
		}
	}
}

// sweep deals with what is left on lost nodes and on those that are no more: of
// a verdict that an earlier leader wrote, a Pod that was bound meanwhile, or
// what the budget of moves had no room for.
func (r *reign) sweep(ctx context.Context) error {
	for try := 0; ; {
		more, err := r.replace(ctx, nil, true)
		switch {
		case conflict(err) && try < 5:
			try++
			r.model.stir(ctx)
		case err != nil:
			return err
		case !more:
			r.leasesOver()
			wait := time.Duration(0)
			if due := r.leaseDue(); !due.IsZero() {
				wait = max(time.Until(due), time.Millisecond)
			}
			if r.brakes.holds(brakeMoves) && (wait == 0 || movesPause < wait) {
				wait = movesPause
			}
			if wait > 0 {
				return reconcile.After(wait)
			}
			return nil
		}
	}
}

// replace does so for the nodes of new verdicts and for those whose verdict is
// in the log, and tells whether there is more to do.
func (r *reign) replace(ctx context.Context, evidence map[string]string, refill bool) (more bool, err error) {
	release, err := r.take(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	l := &loss{reign: r, now: time.Now(), wall: r.Now(), without: map[state.Key]bool{}}
	for _, name := range sortedKeys(evidence) {
		if err := l.verdict(name, evidence[name]); err != nil {
			return false, err
		}
	}
	more = l.gather(evidence)
	l.brake(more)
	if len(l.ops) == 0 && len(l.pods) == 0 && len(l.held) == 0 {
		return false, nil
	}
	if err := l.end(); err != nil {
		return false, err
	}
	if refill {
		if err := l.refill(); err != nil {
			return false, err
		}
	}
	if _, err := r.commit(ctx, l.ops); err != nil {
		return false, err
	}
	r.budget.Spend(l.moves)
	if len(l.held) > 0 {
		r.model.bells.nodes.Ring() // sweep waits for their leases
	}
	for _, t := range l.tales {
		r.events.add(t)
	}
	return more, nil
}

// A loss is the work on one such transaction.
type loss struct {
	*reign
	now     time.Time
	wall    time.Time // now, by the wall clock
	pods    []*pod
	held    []*pod // exclusive ones that are to go once their leases have run out
	why     map[*pod]string
	without map[state.Key]bool
	ops     []*logv1.Op
	tales   []tale

	moves   int // of pods
	waiting int // Pods for which the budget has no room now
}

// verdict drafts the Node's new condition. A Node that is gone needs none.
func (l *loss) verdict(name, evidence string) error {
	row, ok := l.store.Get(state.Key{Kind: object.KindNode, Name: name})
	if !ok {
		return nil
	}
	op, changed, err := readiness(row, corev1.ConditionUnknown, object.ReasonNodeLost, evidence, l.wall)
	if err != nil || !changed {
		return err
	}
	l.ops = append(l.ops, op)
	l.tales = append(l.tales, tale{aboutNode(name, row.UID), corev1.EventTypeWarning, object.ReasonNodeLost, evidence})
	return nil
}

// gather lists the Pods that are lost with their nodes.
func (l *loss) gather(evidence map[string]string) (more bool) {
	m := l.model
	m.mu.Lock()
	defer m.mu.Unlock()
	l.why = map[*pod]string{}
	for name := range evidence {
		m.setDoubt(name, true)
	}
	left := l.budgeted()
	var names []string
	for name := range m.byNode {
		if _, fresh := evidence[name]; fresh || m.nodes[name] == nil || m.nodes[name].lost() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		why := "node " + name + " is lost"
		if m.nodes[name] == nil {
			why = "node " + name + " is not in the cluster"
		}
		for _, p := range m.byNode[name].sorted() {
			if !p.revision && p.finished() && !p.deleting {
				continue // what it came to is still worth reading
			}
			move := p.revision && !p.deleting && m.nodes[name] != nil // who removed a node has asked for it
			if move && l.moves == left {
				l.waiting++
				continue
			}
			if p.exclusive && p.deleting && !l.takeLease(p) {
				continue // sweep comes again when it falls due
			}
			if len(l.pods)+len(l.held) == maxLost {
				return true
			}
			if move {
				l.moves++
			}
			l.why[p] = why
			if p.exclusive && p.revision && !p.deleting {
				l.held = append(l.held, p)
				continue
			}
			l.pods = append(l.pods, p)
		}
	}
	return false
}

// end drafts what becomes of the lost Pods themselves.
func (l *loss) end() error {
	for _, p := range l.held {
		op, err := l.hold(p)
		if err != nil {
			return err
		}
		l.ops = append(l.ops, op)
	}
	for _, p := range l.pods {
		if p.revision || p.deleting {
			l.ops = append(l.ops, object.Delete(p.key, p.version))
			l.without[p.key] = true
			continue
		}
		op, err := failPod(l.store, p, object.ReasonNodeLost, l.why[p])
		if err != nil {
			return err
		}
		l.ops = append(l.ops, op)
		l.tales = append(l.tales, tale{
			aboutPod(p), corev1.EventTypeWarning, object.ReasonNodeLost,
			l.why[p] + ", and nobody owns this Pod, so nobody makes it again",
		})
	}
	return nil
}

// refill drafts the next step of every Deployment that lost something, as if
// that were gone. They see each other's new Pods, so that no node is given more
// than it has.
func (l *loss) refill() error {
	hit := map[state.Key]int{}
	reason := map[state.Key]string{}
	m := l.model
	m.mu.Lock()
	for _, p := range l.pods {
		if !l.without[p.key] {
			continue
		}
		m.view.RemovePod(p.placed().Key)
		if d := m.deploymentOf(p); d != nil && (p.active() || p.exclusive) {
			hit[d.key]++
			reason[d.key] = l.why[p]
		}
	}
	m.mu.Unlock()
	var made []string
	defer func() { l.restore(made) }()
	keys := make([]state.Key, 0, len(hit))
	for key := range hit {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, state.Key.Compare)
	for _, key := range keys {
		draft, err := l.draft(key, l.without, l.wall)
		if err != nil {
			return err
		}
		if draft == nil {
			continue
		}
		l.ops = append(l.ops, draft.ops...)
		l.tales = append(l.tales, tale{
			draft.about, corev1.EventTypeWarning, "Replaced", fmt.Sprintf("replaced %d Pods, as %s", hit[key], reason[key]),
		})
		l.tales = append(l.tales, draft.tales...)
		m.mu.Lock()
		for _, p := range draft.made {
			m.view.PutPod(p)
			made = append(made, p.Key)
		}
		m.mu.Unlock()
	}
	return nil
}

// restore makes the view what it was: until the log says so nothing has happened.
func (l *loss) restore(made []string) {
	m := l.model
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range made {
		m.view.RemovePod(key)
	}
	for _, p := range l.pods {
		if m.pods[p.key] == p && p.holds() {
			m.view.PutPod(p.placed())
		}
	}
}

// deploymentOf returns the Deployment that a Pod is of, nil if none.
func (m *model) deploymentOf(p *pod) *deployment {
	if r := m.revisions[p.owner]; r != nil {
		return m.deployments[r.deployment]
	}
	return nil
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
