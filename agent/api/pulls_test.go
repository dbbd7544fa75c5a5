package api

import (
	"errors"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// arrivals are images on their way, as a node tells of them.
type arrivals struct {
	mu      sync.Mutex
	list    []*skeinv1.ImagePull
	changed chan struct{}
	asked   int
}

func (a *arrivals) pulls() ([]*skeinv1.ImagePull, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.list, a.changed
}

func (a *arrivals) set(list ...*skeinv1.ImagePull) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = list
	close(a.changed)
	a.changed = make(chan struct{})
}

// Who waits for a Pod hears how its image gets on, and of no other's.
func TestAwaitTellsHowImagesGetOn(t *testing.T) {
	w := newWorld(t)
	node := &arrivals{changed: make(chan struct{})}
	w.server.cfg.Pulls = node.pulls
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u1"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	w.put(pod)
	node.set(&skeinv1.ImagePull{Image: "web:1", Pods: []string{"u1"}, Layers: 2}, &skeinv1.ImagePull{Image: "secret:1", Pods: []string{"u2"}})
	stream, err := w.root.Await(t.Context(), &skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "pod", Name: "p"}, TimeoutMs: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	next := func() *skeinv1.AwaitResponse {
		t.Helper()
		for {
			msg, err := stream.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if len(msg.GetPulls()) > 0 || msg.GetDone() {
				return msg
			}
		}
	}
	if got := next().GetPulls(); len(got) != 1 || got[0].GetImage() != "web:1" || got[0].GetNode() != "n1" || got[0].GetDone() || len(got[0].GetPods()) > 0 {
		t.Fatalf("pulls %v, want that of web:1 on n1", got)
	}
	node.set(&skeinv1.ImagePull{Image: "web:1", Pods: []string{"u1"}, Layers: 2, LayersDone: 2, Done: true})
	if got := next().GetPulls(); len(got) != 1 || !got[0].GetDone() {
		t.Fatalf("pulls %v, want that web:1 is there", got)
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	w.put(pod)
	for msg := next(); !msg.GetDone(); msg = next() {
	}
}

// A node is not asked for what nobody waits for.
func TestAwaitOfWhatIsReadyAsksNoNode(t *testing.T) {
	w := newWorld(t)
	node := &arrivals{changed: make(chan struct{})}
	w.server.cfg.Pulls = node.pulls
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u1"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}},
	})
	w.await(&skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "pod", Name: "p"}})
	if node.asked != 0 {
		t.Errorf("asked %d times for images", node.asked)
	}
}

func TestOnlyAVoterHearsOfPulls(t *testing.T) {
	w := newWorld(t)
	w.server.cfg.Pulls = (&arrivals{changed: make(chan struct{})}).pulls
	err := (&layer{Server: w.server}).FollowPulls(t.Context(), &skeinv1.FollowPullsRequest{}, skeinv1connect.LayerServiceFollowPullsServerStream{})
	var r *refusal
	if !errors.As(err, &r) || r.code != connect.CodePermissionDenied || r.exit != exitDenied {
		t.Errorf("somebody without a vote hears: %v", err)
	}
	methods := skeinv1.File_skein_v1_layer_proto.Services().Get(0).Methods()
	for i := range methods.Len() {
		if name := methods.Get(i).Name(); name != "FollowPulls" {
			t.Errorf("%s is tried by nobody", name)
		}
	}
}
