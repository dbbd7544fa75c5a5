package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// maxPods is how many Pods one transaction makes or removes. More follow in the
// next, so that nobody waits long for the turn.
const maxPods = 256

// lookAtAll is how often every Deployment is looked at, changed or not.
const lookAtAll = 5 * time.Minute

// rollouts makes the Pods of Deployments what they should be.
type rollouts struct {
	*reign
	due map[state.Key]due // Deployments to look at again without a change
	all time.Time         // when all were last looked at
}

// due is when to look again, and how often looking has failed in a row.
type due struct {
	at       time.Time
	failures int
}

// do looks at every Deployment that something has changed about, or that fell
// due. One that fails does not hold up the others.
func (r *rollouts) do(ctx context.Context) error {
	now := time.Now()
	if now.Sub(r.all) >= lookAtAll {
		r.all = now
		r.model.soilAll() // whatever a lost wake-up has left behind
	}
	for key, d := range r.due {
		if !d.at.After(now) {
			r.model.soil(key)
		}
	}
	keys := r.model.takeDirty()
	for i, key := range keys {
		if failing := r.due[key]; failing.failures > 0 && failing.at.After(now) {
			continue
		}
		again, err := r.look(ctx, key)
		switch {
		case errors.Is(err, consensus.ErrNotLeader) || ctx.Err() != nil:
			for _, left := range keys[i:] {
				r.model.soil(left)
			}
			return err
		case err != nil:
			d := due{failures: r.due[key].failures + 1}
			d.at = time.Now().Add(min(reconcile.FirstPause<<min(d.failures-1, 12), reconcile.LastPause))
			r.due[key] = d
			r.log.Warn("deployment is not reconciled", "deployment", key.Namespace+"/"+key.Name, "err", err)
		case again > 0:
			r.due[key] = due{at: time.Now().Add(again)}
		default:
			delete(r.due, key)
		}
	}
	return r.next()
}

// next says when the earliest falls due.
func (r *rollouts) next() error {
	var first time.Time
	for _, d := range r.due {
		if first.IsZero() || d.at.Before(first) {
			first = d.at
		}
	}
	if first.IsZero() {
		return nil
	}
	return reconcile.After(max(time.Until(first), time.Millisecond))
}

// look brings one Deployment a step further, and says when to look again if
// nothing changes meanwhile.
func (r *rollouts) look(ctx context.Context, key state.Key) (again time.Duration, err error) {
	for range 10 {
		if again, err = r.step(ctx, key); !conflict(err) {
			return again, err
		}
		r.model.stir(ctx)
	}
	return 0, err
}

func (r *rollouts) step(ctx context.Context, key state.Key) (time.Duration, error) {
	release, err := r.take(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	draft, err := r.draft(key, nil, r.Now())
	if err != nil || draft == nil {
		return 0, err
	}
	if _, err := r.commit(ctx, draft.ops); err != nil {
		return 0, err
	}
	draft.tell(r.events)
	return draft.again, nil
}

// A draft is one step of one Deployment, ready to be written.
type draft struct {
	ops   []*logv1.Op
	again time.Duration
	tales []tale      // events, once it is written
	about about       // the Deployment
	made  []place.Pod // new Pods that have a node
}

// tale is an event that has not been told yet.
type tale struct {
	about  about
	kind   string // Normal or Warning
	reason string
	text   string
}

func (d *draft) tell(events *recorder) {
	for _, t := range d.tales {
		events.add(t)
	}
}

func (d *draft) note(about about, kind, reason, text string, args ...any) {
	d.tales = append(d.tales, tale{about, kind, reason, fmt.Sprintf(text, args...)})
}

// draft plans the next step of a Deployment, as if the Pods in without were
// gone already. It is nil when the Deployment is gone.
func (r *reign) draft(key state.Key, without map[state.Key]bool, now time.Time) (*draft, error) {
	row, ok := r.store.Get(key)
	if !ok {
		return nil, nil
	}
	d, err := object.Decode[appsv1.Deployment](row)
	if err != nil {
		return nil, err
	}
	if d.DeletionTimestamp != nil {
		return nil, nil
	}
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	e := &edit{reign: r, d: d, row: row, now: now, wish: wishOf(d)}
	e.out.about = aboutObject(d)
	e.gather(without)
	if err := e.write(); err != nil {
		return nil, err
	}
	return &e.out, nil
}
