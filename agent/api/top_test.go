package api

import (
	"context"
	"errors"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// busy is a machine whose containers use something.
type busy struct {
	Inside
	usage []*skeinv1.ContainerUsage
	err   error
}

func (b busy) Usage(context.Context) ([]*skeinv1.ContainerUsage, error) { return b.usage, b.err }

// lively are peers of whom gossip tells.
type lively struct{ alone }

func (lively) Health() map[string]Health {
	return map[string]Health{"n1": {State: "alive", CPU: 0.25, Memory: 0.5}, "n2": {State: "dead"}}
}

func figures(t *testing.T, answer *skeinv1.TopResponse, err error) [][]string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	out := [][]string{answer.GetTable().GetColumns()}
	for _, r := range answer.GetTable().GetRows() {
		out = append(out, r.GetCells())
	}
	return out
}

func TestTopTellsWhatIsUsed(t *testing.T) {
	w := newWorld(t)
	for name, node := range map[string]string{"web-1": "n1", "web-2": "n1", "late": ""} {
		w.put(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"name": name}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c"}, {Name: "d"}}},
		})
	}
	w.server.cfg.Inside = busy{usage: []*skeinv1.ContainerUsage{
		{PodUid: "uid-web-1", Container: "c", CpuMilli: 10, MemoryBytes: 3 << 20},
		{PodUid: "uid-web-1", Container: "d", CpuMilli: 5, MemoryBytes: 1 << 20},
		{PodUid: "uid-web-2", Container: "c", CpuMilli: 20, MemoryBytes: 2 << 20},
		{PodUid: "of-another-namespace", Container: "c", CpuMilli: 20, MemoryBytes: 2 << 20},
	}}
	client := skeinv1connect.NewInsideServiceClient(w.dial(w.server.Socket(), ""))
	ask := func(req *skeinv1.TopRequest) [][]string {
		t.Helper()
		answer, err := client.Top(t.Context(), req)
		return figures(t, answer, err)
	}
	tests := map[string]struct {
		req  *skeinv1.TopRequest
		want [][]string
	}{
		"pods, by name": {
			&skeinv1.TopRequest{Kind: "pods"},
			[][]string{{"NAME", "CPU(cores)", "MEMORY(bytes)"}, {"web-1", "15m", "4Mi"}, {"web-2", "20m", "2Mi"}},
		},
		"pods, the busiest first": {
			&skeinv1.TopRequest{Kind: "pods", SortBy: "cpu"},
			[][]string{{"NAME", "CPU(cores)", "MEMORY(bytes)"}, {"web-2", "20m", "2Mi"}, {"web-1", "15m", "4Mi"}},
		},
		"containers, of one": {
			&skeinv1.TopRequest{Kind: "po", AllNamespaces: true, LabelSelector: "name=web-1", Containers: true, SortBy: "memory"},
			[][]string{{"NAMESPACE", "POD", "NAME", "CPU(cores)", "MEMORY(bytes)"}, {"default", "web-1", "c", "10m", "3Mi"}, {"default", "web-1", "d", "5m", "1Mi"}},
		},
		"one by name": {
			&skeinv1.TopRequest{Kind: "pod", Name: "web-2"},
			[][]string{{"NAME", "CPU(cores)", "MEMORY(bytes)"}, {"web-2", "20m", "2Mi"}},
		},
	}
	for name, tt := range tests {
		if diff := cmp.Diff(tt.want, ask(tt.req)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	w.server.cfg.Inside = busy{err: errors.New("no")}
	answer, err := client.Top(t.Context(), &skeinv1.TopRequest{Kind: "pods"})
	if err != nil || len(answer.GetNotices()) != 1 || len(answer.GetTable().GetRows()) != 0 {
		t.Errorf("of a node that does not tell: %v, %v", answer, err)
	}
	for _, req := range []*skeinv1.TopRequest{{Kind: "pods", SortBy: "name"}, {Kind: "deploy"}, {Kind: "pods", LabelSelector: "=="}} {
		if _, err := client.Top(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	if _, err := client.Top(t.Context(), &skeinv1.TopRequest{Kind: "pods", Name: "nobody"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("of a Pod that is not there: %v", err)
	}
}

func TestTopTellsOfNodesWhatTheySay(t *testing.T) {
	w := newWorld(t)
	w.server.cfg.Peers = lively{}
	for _, name := range []string{"n1", "n2"} {
		w.put(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
			Status: corev1.NodeStatus{Capacity: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("2Gi"),
			}},
		})
	}
	client := skeinv1connect.NewInsideServiceClient(w.dial(w.server.Socket(), ""))
	answer, err := client.Top(t.Context(), &skeinv1.TopRequest{Kind: "nodes"})
	want := [][]string{
		{"NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"},
		{"n1", "1000m", "25%", "1024Mi", "50%"},
		{"n2", "<unknown>", "<unknown>", "<unknown>", "<unknown>"},
	}
	if diff := cmp.Diff(want, figures(t, answer, err)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
