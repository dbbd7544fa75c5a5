package leader

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// Bounds of placement.
const (
	placeBatch  = 512              // Pods in one transaction
	retellAfter = 10 * time.Second // a refusal whose figures alone have changed is written this rarely
	loadsEvery  = time.Second
)

// placement binds the Pods that wait.
type placement struct {
	*reign
	tried  map[*pod]bool // those that did not fit when the view was at gained
	gained uint64
}

// do goes on until it has tried everything that waits.
func (p *placement) do(ctx context.Context) error {
	for {
		more, err := p.batch(ctx)
		if conflict(err) {
			p.model.stir(ctx)
			continue
		}
		if err != nil || !more {
			return err
		}
	}
}

// batch binds some of the Pods that wait, and tells whether there are more. What
// was refused is tried again only once there is room that there was not.
func (p *placement) batch(ctx context.Context) (more bool, err error) {
	release, err := p.take(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	pods, choices, more := p.choose()
	if len(pods) == 0 {
		return false, nil
	}
	ops, tales, err := p.bind(pods, choices, p.Now())
	if err != nil {
		return false, err
	}
	if _, err := p.commit(ctx, ops); err != nil {
		return false, err
	}
	for _, t := range tales {
		p.events.add(t)
	}
	return more, nil
}

func (p *placement) choose() (waiting []*pod, choices []place.Choice, more bool) {
	m := p.model
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.tried == nil || m.view.Gained() != p.gained {
		p.tried, p.gained = map[*pod]bool{}, m.view.Gained()
	}
	for _, one := range m.waiting {
		if !p.tried[one] && !m.ending[one.key.Namespace] {
			waiting = append(waiting, one)
		}
	}
	slices.SortFunc(waiting, func(a, b *pod) int {
		return cmp.Or(a.created.Compare(b.created), a.key.Compare(b.key))
	})
	if more = len(waiting) > placeBatch; more {
		waiting = waiting[:placeBatch]
	}
	p.loads()
	asked := make([]place.Pod, len(waiting))
	for i, one := range waiting {
		asked[i] = one.placed()
	}
	choices = place.Choose(m.view, asked)
	for i, c := range choices {
		if c.Refused != nil {
			p.tried[waiting[i]] = true
		}
	}
	return waiting, choices, more
}

// bind drafts what was chosen. A Pod that has changed meanwhile is left out: the
// change wakes this loop again.
func (r *reign) bind(pods []*pod, choices []place.Choice, now time.Time) (ops []*logv1.Op, tales []tale, err error) {
	for i, p := range pods {
		c := choices[i]
		if c.Refused != nil && p.refused != "" && (p.refused == c.Refused.String() || now.Sub(p.told) < retellAfter) {
			continue
		}
		row, ok := r.store.Get(p.key)
		if !ok || row.Version != p.version {
			continue
		}
		full, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return nil, nil, err
		}
		if !settle(full, c, now) {
			continue
		}
		op, err := object.Put(full, row.Version)
		if err != nil {
			return nil, nil, err
		}
		ops = append(ops, op)
		t := tale{aboutPod(p), corev1.EventTypeNormal, "Scheduled", "placed on " + c.Node}
		if c.Refused != nil {
			t.kind, t.reason, t.text = corev1.EventTypeWarning, "FailedScheduling", c.Refused.String()
		}
		tales = append(tales, t)
	}
	return ops, tales, nil
}

// loads tells the view how busy the nodes are, from time to time. The model is
// locked.
func (r *reign) loads() {
	m := r.model
	if r.Load == nil || time.Since(m.loaded) < loadsEvery {
		return
	}
	m.loaded = time.Now()
	for name := range m.nodes {
		if load, ok := r.Load(name); ok {
			m.view.SetLoad(name, load)
		}
	}
}
