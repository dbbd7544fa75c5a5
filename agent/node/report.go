package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Pace of reports: what changes at once travels together, and a leader that is
// not there is asked again later and later.
const (
	reportEvery   = 50 * time.Millisecond
	reportRetry   = 200 * time.Millisecond
	reportSlowest = 2 * time.Second
	maxEvents     = 256 // that wait for a leader; the oldest go first
)

// reports gathers what this node has to say and says each thing until the
// leader has heard it.
type reports struct {
	to  Reporter
	log *slog.Logger

	woken chan struct{}

	mu     sync.Mutex
	pods   map[types.UID]*skeinv1.PodStatus // not heard yet
	heard  map[types.UID][]byte             // what the leader heard last
	node   []byte
	labels []byte
	events [][]byte
	first  int // the number of events[0], counted from the start
}

func newReports(to Reporter, log *slog.Logger) *reports {
	return &reports{
		to: to, log: log.With("component", "report"),
		woken: make(chan struct{}, 1),
		pods:  map[types.UID]*skeinv1.PodStatus{},
		heard: map[types.UID][]byte{},
	}
}

func (r *reports) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// pod says a Pod's status, unless the leader has heard just that.
func (r *reports) pod(pod *corev1.Pod, status corev1.PodStatus) {
	body, err := json.Marshal(status)
	if err != nil {
		r.log.Error("cannot encode a status", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return
	}
	stored, err := json.Marshal(pod.Status)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pods[pod.UID] == nil && bytes.Equal(r.heard[pod.UID], body) {
		return
	}
	if err == nil && bytes.Equal(stored, body) {
		delete(r.pods, pod.UID)
		r.heard[pod.UID] = body
		return
	}
	r.pods[pod.UID] = &skeinv1.PodStatus{Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID), Status: body}
	r.wake()
}

// gone says that nothing is left of a Pod that is being deleted.
func (r *reports) gone(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods[pod.UID] = &skeinv1.PodStatus{Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID), Gone: true}
	r.wake()
}

// forget drops what was known of a Pod that is no more.
func (r *reports) forget(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, uid)
	delete(r.heard, uid)
}

// self says this machine's own status and labels.
func (r *reports) self(status *corev1.NodeStatus, labels map[string]string) {
	body, err := json.Marshal(status)
	if err != nil {
		r.log.Error("cannot encode the node's status", "err", err)
		return
	}
	text, err := json.Marshal(labels)
	if err != nil {
		r.log.Error("cannot encode the node's labels", "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node, r.labels = body, text
	r.wake()
}

func (r *reports) event(pod *corev1.Pod, node, kind, reason, message string) {
	now := metav1.Now()
	body, err := json.Marshal(corev1.Event{
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		},
		Type: kind, Reason: reason, Message: message,
		Source:         corev1.EventSource{Component: "node", Host: node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if err != nil {
		r.log.Error("cannot encode an event", "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) >= maxEvents {
		r.forgetEvents(r.first + 1)
	}
	r.events = append(r.events, body)
	r.wake()
}

// run sends until ctx ends.
func (r *reports) run(ctx context.Context) error {
	var (
		wait time.Duration // after the last attempt
		last time.Time
	)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.woken:
		}
		pause.Reset(wait - time.Since(last))
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		err := r.send(ctx)
		last = time.Now()
		switch {
		case err == nil:
			wait = reportEvery
		case ctx.Err() != nil:
			return nil
		default:
			r.log.Debug("the leader has not heard the report", "err", err)
			wait = min(max(reportRetry, wait*2), reportSlowest)
			r.wake()
		}
	}
}

// send says all that waits, in one call. What changes meanwhile stays.
func (r *reports) send(ctx context.Context) error {
	r.mu.Lock()
	req := &skeinv1.ReportRequest{NodeStatus: r.node, NodeLabels: r.labels, Events: slices.Clone(r.events)}
	for _, p := range r.pods {
		req.Pods = append(req.Pods, p)
	}
	upTo := r.first + len(r.events)
	r.mu.Unlock()
	if len(req.Pods) == 0 && len(req.NodeStatus) == 0 && len(req.Events) == 0 {
		return nil
	}
	slices.SortFunc(req.Pods, func(a, b *skeinv1.PodStatus) int {
		if a.Namespace != b.Namespace {
			return cmp.Compare(a.Namespace, b.Namespace)
		}
		return cmp.Compare(a.Name, b.Name)
	})
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := r.to.Report(ctx, req); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sent := range req.Pods {
		uid := types.UID(sent.Uid)
		if r.pods[uid] == sent {
			delete(r.pods, uid)
			r.heard[uid] = sent.Status
		}
	}
	if bytes.Equal(r.node, req.NodeStatus) && bytes.Equal(r.labels, req.NodeLabels) {
		r.node, r.labels = nil, nil
	}
	r.forgetEvents(upTo)
	return nil
}

// forgetEvents drops the events before a number. It is called with mu held.
func (r *reports) forgetEvents(before int) {
	if n := before - r.first; n > 0 {
		r.events = slices.Delete(r.events, 0, n)
		r.first = before
	}
}
