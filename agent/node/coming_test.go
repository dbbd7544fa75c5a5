package node

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container/containertest"
	"github.com/skein-dev/skein/runtime/image"
)

// A pull is told of while it lasts and a little longer, once however many Pods
// wait for it, and by events.
func TestAPullIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		come := make(chan struct{})
		w.ensure = func(ask ImageAsk) error {
			ask.Watch.Pulling(&image.Progress{})
			<-come
			return nil
		}
		defer w.run()()
		w.putObject(newPod("a"))
		w.putObject(newPod("b"))
		pass(0)
		list, changed := w.node.Pulls()
		if len(list) != 1 || list[0].Image != "web" || len(list[0].Pods) != 2 || list[0].Over {
			t.Fatalf("pulls %+v, want one of web for two Pods", list)
		}
		pass(2 * time.Second)
		close(come)
		<-changed
		synctest.Wait()
		if list, _ = w.node.Pulls(); len(list) != 1 || !list[0].Over || list[0].Took != 2*time.Second {
			t.Fatalf("pulls %+v, want one that is over after 2 s", list)
		}
		pass(overFor + time.Second)
		if list, _ = w.node.Pulls(); len(list) != 0 {
			t.Errorf("pulls %+v, want none after a while", list)
		}
		for _, pod := range []string{"a", "b"} {
			if got := w.reasons(t, pod); !slices.Equal(got, []string{"Pulling", "Pulled", "Started"}) {
				t.Errorf("events of %s: %v", pod, got)
			}
		}
	})
}

func TestAPullSaysHowItWent(t *testing.T) {
	tests := map[string]struct {
		pull Pull
		want string
	}{
		"from everywhere": {
			Pull{Image: "nginx:1.27", Took: 3200 * time.Millisecond, Fetched: 60_000_000, Size: 67_300_000, From: []string{"n1", "registry.example"}},
			`pulled image "nginx:1.27" in 3.2s: 60.0 of its 67.3 MB from n1, registry.example`,
		},
		"from nowhere": {Pull{Image: "web", Took: 15 * time.Millisecond, Size: 5}, `pulled image "web" in 15ms: all its layers were here`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.pull.sentence(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// What is used although its registry does not answer is told.
func TestAStaleImageIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		w.ensure = func(ask ImageAsk) error {
			ask.Watch.Stale(errors.New("connection refused"))
			return nil
		}
		defer w.run()()
		w.putObject(newPod("a"))
		pass(time.Second)
		if got := w.reasons(t, "a"); !slices.Equal(got, []string{"RegistryUnreachable", "Started"}) {
			t.Errorf("events: %v", got)
		}
	})
}

// reasons lists the events about a Pod.
func (w *world) reasons(t *testing.T, pod string) (reasons []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, req := range w.reports {
		for _, body := range req.GetEvents() {
			var e corev1.Event
			if err := json.Unmarshal(body, &e); err != nil {
				t.Fatal(err)
			}
			if e.InvolvedObject.Name == pod {
				reasons = append(reasons, e.Reason)
			}
		}
	}
	return reasons
}
