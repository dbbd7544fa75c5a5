package leader

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// The machines of a world, and the network between them.

func (w *world) observers(node string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, name := range sortedKeys(w.machines) {
		if name != node && len(out) < 4 {
			out = append(out, name)
		}
	}
	return out
}

func (w *world) ProbeSelf(ctx context.Context, node string, _ uint64) skeinv1.ProbeResult {
	w.mu.Lock()
	m := w.machines[node]
	power, agent := m != nil && m.power, m != nil && m.agent
	w.mu.Unlock()
	switch {
	case !power:
		select { // it takes time to hear nothing
		case <-ctx.Done():
		case <-time.After(120 * time.Millisecond):
		}
		return skeinv1.ProbeResult_PROBE_RESULT_SILENT
	case !agent:
		return skeinv1.ProbeResult_PROBE_RESULT_AGENT_GONE
	default:
		return skeinv1.ProbeResult_PROBE_RESULT_ALIVE
	}
}

func (w *world) Probe(ctx context.Context, helper, node string, epoch uint64) (skeinv1.ProbeResult, error) {
	w.mu.Lock()
	m := w.machines[helper]
	up := m != nil && m.power && m.agent
	w.mu.Unlock()
	if !up {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return w.ProbeSelf(ctx, node, epoch), nil
}

// join brings a machine into the cluster.
func (w *world) join(name string, change ...func(*corev1.Node)) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("node-" + name), Labels: map[string]string{}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, c := range change {
		c(n)
	}
	w.put(n)
	w.mu.Lock()
	w.machines[name] = &machine{name: name, power: true, agent: true}
	w.mu.Unlock()
	w.startAgent(name)
}

func (w *world) startAgent(name string) {
	ctx, end := context.WithCancel(w.ctx)
	w.mu.Lock()
	m := w.machines[name]
	m.power, m.agent, m.end = true, true, end
	w.mu.Unlock()
	w.lead.StreamOpened(name)
	go w.work(ctx, name)
	w.lead.Heard(name)
}

// cut takes a machine's power. Its observers notice after a while, and go on
// saying so.
func (w *world) cut(name string) {
	w.mu.Lock()
	m := w.machines[name]
	m.power, m.agent = false, false
	m.end()
	ctx, end := context.WithCancel(w.ctx)
	m.end = end
	w.mu.Unlock()
	go func() {
		for wait := 450 * time.Millisecond; ; wait = time.Second {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			for _, by := range w.observers(name)[:2] {
				w.lead.Suspect(by, &skeinv1.SuspectRequest{Node: name})
			}
		}
	}()
}

// crash ends a machine's agent and nothing else.
func (w *world) crash(name string) {
	w.mu.Lock()
	m := w.machines[name]
	m.agent = false
	m.end()
	w.mu.Unlock()
	w.lead.StreamClosed(name)
}

// restore brings an agent back.
func (w *world) restore(name string) {
	w.mu.Lock()
	w.machines[name].end()
	w.mu.Unlock()
	w.startAgent(name)
}

// work runs a machine's Pods: they start in 100 ms and stop in 200 ms, and those
// of an image called bad never get ready.
func (w *world) work(ctx context.Context, name string) {
	watch := w.store.Changed(state.Selector{Kind: object.KindPod, Index: object.NodeIndex(name)})
	defer watch.Close()
	for {
		next := time.Hour
		for _, row := range w.store.List(object.KindPod, "", object.NodeIndex(name)) {
			p, err := object.Decode[corev1.Pod](row)
			if err != nil {
				w.t.Error(err)
				return
			}
			var op *logv1.Op
			switch {
			case p.DeletionTimestamp != nil:
				op = object.Delete(row.Key, row.Version)
				wait(ctx, 200*time.Millisecond)
			case p.Status.Phase == corev1.PodPending:
				wait(ctx, 100*time.Millisecond)
				p.Status.Phase = corev1.PodRunning
				status := corev1.ConditionTrue
				if strings.HasSuffix(p.Spec.Containers[0].Image, "bad") {
					status = corev1.ConditionFalse
				}
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
					Type: corev1.PodReady, Status: status, LastTransitionTime: stamp(time.Now()),
				})
				op, err = object.Put(p, row.Version)
				if err != nil {
					w.t.Error(err)
				}
			default:
				continue
			}
			next = 0
			_, _ = w.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{op}}) // a conflict is looked at again
		}
		if next == 0 && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-watch.C():
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
