package leader

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
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
