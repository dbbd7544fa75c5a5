package leader

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// Bounds of what events may cost.
const (
	eventPause  = 200 * time.Millisecond // what is told within it is written together
	eventBatch  = 128                    // events in one transaction
	eventQueue  = 1024                   // that wait to be written; of more, the Normal ones are dropped
	eventAge    = time.Hour
	trimEvery   = time.Minute
	eventsInAll = 2000
)

// about is the object that an event is about.
type about struct {
	kind, apiVersion, namespace, name, uid string
}

func aboutObject(obj object.Object) about {
	key := object.KeyOf(obj)
	a := about{kind: key.Kind, namespace: key.Namespace, name: key.Name, uid: string(obj.GetUID())}
	if k, ok := object.KindNamed(key.Kind); ok {
		a.apiVersion = k.APIVersion
	}
	return a
}

func aboutPod(p *pod) about {
	return about{kind: object.KindPod, apiVersion: "v1", namespace: p.key.Namespace, name: p.key.Name, uid: p.uid}
}

func aboutNode(name, uid string) about {
	return about{kind: object.KindNode, apiVersion: "v1", name: name, uid: uid}
}

// A recorder writes down what happened, some time after it did: nobody waits
// for it, and what is told again and again is counted in one Event.
type recorder struct {
	reign *reign
	bell  reconcile.Bell

	mu      sync.Mutex
	waiting map[tale]*told
	order   []tale // of waiting, oldest first
	dropped int
}

// told is how often and when something was told that is not written yet.
type told struct {
	count       int32
	first, last time.Time
}

func newRecorder(r *reign) *recorder {
	return &recorder{reign: r, bell: reconcile.NewBell(), waiting: map[tale]*told{}}
}

// eventf tells what happened to an object.
func (r *recorder) eventf(about about, kind, reason, text string, args ...any) {
	r.add(tale{about, kind, reason, fmt.Sprintf(text, args...)})
}

func (r *recorder) add(t tale) {
	now := r.reign.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.waiting[t]; w != nil {
		w.count, w.last = w.count+1, now
		return
	}
	if len(r.order) >= eventQueue && t.kind == corev1.EventTypeNormal || len(r.order) >= 2*eventQueue {
		r.dropped++
		return
	}
	r.waiting[t] = &told{count: 1, first: now, last: now}
	r.order = append(r.order, t)
	r.bell.Ring()
}

// flush writes what waits. It lets more gather first.
func (r *recorder) flush(ctx context.Context) error {
	r.mu.Lock()
	none := len(r.order) == 0
	r.mu.Unlock()
	if none {
		return nil
	}
	timer := time.NewTimer(eventPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	for {
		r.mu.Lock()
		batch := slices.Clone(r.order[:min(len(r.order), eventBatch)])
		counts := make([]told, len(batch))
		for i, t := range batch {
			counts[i] = *r.waiting[t]
		}
		dropped := r.dropped
		r.dropped = 0
		r.mu.Unlock()
		if dropped > 0 {
			r.reign.log.Warn("events dropped", "count", dropped)
		}
		if len(batch) == 0 {
			return nil
		}
		if err := r.write(ctx, batch, counts); err != nil {
			return err
		}
		r.done(batch, counts)
	}
}

// done forgets what was written, except what was told again meanwhile.
func (r *recorder) done(batch []tale, counts []told) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var again []tale
	for i, t := range batch {
		w := r.waiting[t]
		if w.count -= counts[i].count; w.count > 0 {
			again = append(again, t)
			continue
		}
		delete(r.waiting, t)
	}
	r.order = append(slices.Delete(r.order, 0, len(batch)), again...)
}

func (r *recorder) write(ctx context.Context, batch []tale, counts []told) error {
	var err error
	for range 5 {
		var ops []*logv1.Op
		for i, t := range batch {
			op, problem := r.op(t, counts[i])
			if problem != nil {
				return problem
			}
			if op != nil {
				ops = append(ops, op)
			}
		}
		if len(ops) == 0 {
			return nil
		}
		if _, err = r.reign.Consensus.Commit(ctx, &logv1.Txn{Ops: ops}); !conflict(err) {
			return err
		}
	}
	return err
}

// op counts a tale in the Event that tells it already, or makes one. The name
// depends on the tale alone, so that a leader finds its predecessor's. It is nil
// when the tale's namespace has gone meanwhile.
func (r *recorder) op(t tale, w told) (*logv1.Op, error) {
	namespace := cmp.Or(t.about.namespace, object.DefaultNamespace)
	if _, ok := r.reign.store.Get(state.Key{Kind: object.KindNamespace, Name: namespace}); namespace != object.DefaultNamespace &&
		(!ok || r.reign.model.isEnding(namespace)) {
		return nil, nil
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\x00%s", t.about.kind, t.about.uid, t.kind, t.reason, t.text)
	key := state.Key{Kind: object.KindEvent, Namespace: namespace, Name: fmt.Sprintf("%.200s.%016x", t.about.name, h.Sum64())}
	if row, ok := r.reign.store.Get(key); ok {
		e, err := object.Decode[corev1.Event](row)
		if err != nil {
			return nil, err
		}
		e.Count += w.count
		e.LastTimestamp = stamp(w.last)
		return object.Put(e, row.Version)
	}
	return object.Put(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name: key.Name, Namespace: namespace, UID: types.UID(r.reign.UID()), CreationTimestamp: stamp(w.first),
		},
		InvolvedObject: corev1.ObjectReference{
			Kind: t.about.kind, APIVersion: t.about.apiVersion, Namespace: t.about.namespace,
			Name: t.about.name, UID: types.UID(t.about.uid),
		},
		Type: t.kind, Reason: t.reason, Message: t.text, Count: w.count,
		FirstTimestamp: stamp(w.first), LastTimestamp: stamp(w.last),
		Source: corev1.EventSource{Component: "leader", Host: r.reign.Name},
	}, 0)
}

// trimEvents removes what is older than an hour, and the oldest of too many.
func (r *reign) trimEvents(ctx context.Context) error {
	rows := r.store.List(object.KindEvent, "", "")
	type aged struct {
		row  *state.Row
		last time.Time
	}
	all := make([]aged, 0, len(rows))
	for _, row := range rows {
		e, err := object.Decode[corev1.Event](row)
		if err != nil {
			return err
		}
		last := e.LastTimestamp.Time
		if e.CreationTimestamp.After(last) {
			last = e.CreationTimestamp.Time
		}
		all = append(all, aged{row, last})
	}
	slices.SortStableFunc(all, func(a, b aged) int { return a.last.Compare(b.last) })
	tooOld := r.Now().Add(-eventAge)
	var ops []*logv1.Op
	for i, e := range all {
		if e.last.After(tooOld) && len(all)-i <= eventsInAll {
			break
		}
		ops = append(ops, object.Delete(e.row.Key, object.AnyVersion))
	}
	for chunk := range slices.Chunk(ops, 512) {
		if _, err := r.Consensus.Commit(ctx, &logv1.Txn{Ops: chunk}); err != nil {
			return err
		}
	}
	return nil
}
