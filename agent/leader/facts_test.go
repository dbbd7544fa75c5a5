package leader

import (
	"encoding/json"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/consensus/state"
)

func TestANodeInTroubleTakesNoNewPods(t *testing.T) {
	for kind, want := range map[corev1.NodeConditionType]bool{
		corev1.NodeDiskPressure: true, corev1.NodeMemoryPressure: true, corev1.NodePIDPressure: true,
		object.NodeDiskReadOnly: true, object.NodeDiskFailing: true, object.NodeDiskSlow: true,
		corev1.NodeNetworkUnavailable: false,
	} {
		for _, status := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse} {
			n := corev1.Node{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n1"},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: kind, Status: status}}},
			}
			body, err := json.Marshal(n)
			if err != nil {
				t.Fatal(err)
			}
			facts, err := nodeFacts(&state.Row{Key: state.Key{Kind: object.KindNode, Name: "n1"}, Body: body})
			if err != nil {
				t.Fatal(err)
			}
			if got := facts.place.Cordoned; got != (want && status == corev1.ConditionTrue) {
				t.Errorf("%s is %s: placement avoids the node: %v", kind, status, got)
			}
		}
	}
}

// The clocks of machines differ and jump. What is due after some time is due that
// long after the leader heard of it, whatever a stamp says.
func TestStampsOfOtherClocksMeasureNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
			m := newModel(slog.New(slog.DiscardHandler), func() time.Time { return time.Now().Round(0) })
			close(m.begun)
			away := &node{uid: "n", place: place.Node{Name: "n1"}, ready: corev1.ConditionUnknown, since: time.Now().Add(ahead)}
			m.ageNode(away)
			m.nodes["n1"] = away
			p := &pod{uid: "p", key: state.Key{Kind: object.KindPod, Name: "p"}, ready: true, since: time.Now().Add(ahead), created: time.Now().Add(ahead)}
			m.agePod(p)
			m.pods[p.key] = p
			time.Sleep(5 * time.Second)
			again := *away
			again.since = time.Now().Add(ahead)
			m.ageNode(&again)
			if got := time.Since(again.since); got != 5*time.Second {
				t.Errorf("by stamps that are ahead by %s the node is away for %s, want 5s", ahead, got)
			}
			later := *p
			later.since = time.Now().Add(ahead)
			m.agePod(&later)
			if ok, left := later.available(8*time.Second, time.Now()); ok || left != 3*time.Second {
				t.Errorf("by stamps that are ahead by %s the Pod is available: %t, or in %s, want 3s", ahead, ok, left)
			}
			if got := time.Since(later.born); got != 5*time.Second {
				t.Errorf("by stamps that are ahead by %s the Pod is %s old, want 5s", ahead, got)
			}
		}
	})
}

// What was there before a leader began only its stamp can tell; one from the
// future is from now, and how long a node is away counts anew.
func TestANewLeaderTrustsNoStampFromTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			ahead, want time.Duration
		}{{-time.Minute, time.Minute}, {time.Hour, 0}} {
			m := newModel(slog.New(slog.DiscardHandler), func() time.Time { return time.Now().Round(0) })
			p := &pod{ready: true, since: time.Now().Add(tt.ahead), created: time.Now().Add(tt.ahead)}
			m.agePod(p)
			if got := time.Since(p.since); got != tt.want {
				t.Errorf("ready since %s from now: for %s, want %s", tt.ahead, got, tt.want)
			}
			n := &node{ready: corev1.ConditionUnknown, since: time.Now().Add(tt.ahead)}
			if m.ageNode(n); time.Since(n.since) != 0 {
				t.Errorf("away since %s from now: for %s, want 0", tt.ahead, time.Since(n.since))
			}
		}
	})
}
