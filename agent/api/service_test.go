package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.7
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: admin, port: 81, targetPort: 9000}
  - {name: dns, port: 53, protocol: UDP}
`

// putPod makes a Pod of the Service web whose port http has a number.
func (w *world) putPod(name string, number int32, on bool, change func(*corev1.Pod)) {
	w.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("u-" + name), Labels: map[string]string{"app": "web"}}}
	p.Spec = corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: number}}}}}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}}
	if on {
		p.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	if change != nil {
		change(p)
	}
	w.put(p)
}

func (w *world) mustApply(manifest string) {
	w.t.Helper()
	if _, err := w.apply(manifest); err != nil {
		w.t.Fatal(err)
	}
}

func TestAConnectionToAServiceFindsAReadyPod(t *testing.T) {
	w := newWorld(t)
	w.mustApply(webService)
	end := func(kind, name string, port uint32) (string, error) {
		pod, at, err := w.server.tunnelEnd(t.Context(), &skeinv1.ObjectRef{Kind: kind, Namespace: "default", Name: name}, port)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s:%d", pod.Name, at), nil
	}
	refuses := func(name string, port uint32, code connect.Code, hint string) {
		t.Helper()
		_, err := end("svc", name, port)
		var own *refusal
		if !errors.As(err, &own) || own.code != code || !strings.Contains(own.hint, hint) {
			t.Errorf("%s, port %d: got %v, want code %s and the hint %q", name, port, err, code, hint)
		}
	}
	refuses("web", 80, connect.CodeFailedPrecondition, "skein describe service/web")
	w.putPod("old", 8080, true, nil)
	w.putPod("new", 9090, true, nil)
	w.putPod("starting", 8080, false, nil)
	w.putPod("ending", 8080, true, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	w.putPod("nameless", 8080, true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Name = "other" })
	w.putPod("stranger", 8080, true, func(p *corev1.Pod) { p.Labels["app"] = "db" })
	found := map[string]bool{}
	for range 200 { // that chance leaves one of two out has a probability of 2^-199
		got, err := end("svc", "web", 80)
		if err != nil {
			t.Fatal(err)
		}
		found[got] = true
	}
	if len(found) != 2 || !found["old:8080"] || !found["new:9090"] {
		t.Errorf("the port by name leads to %v", found)
	}
	clear(found)
	for range 200 {
		got, _ := end("service", "web", 81)
		found[got] = true
	}
	if len(found) != 3 || !found["nameless:9000"] {
		t.Errorf("the port by number leads to %v", found)
	}
	refuses("web", 82, connect.CodeInvalidArgument, "it has 80, 81")
	refuses("web", 53, connect.CodeInvalidArgument, "it has 80, 81")
	refuses("wob", 80, connect.CodeNotFound, "did you mean web?")
	w.mustApply(strings.Replace(strings.Replace(webService, "name: web", "name: bare", 1), "  clusterIP: 10.96.0.7\n  selector: {app: web}\n", "", 1))
	refuses("bare", 81, connect.CodeFailedPrecondition, "")
}

// TestAwaitOfAService waits for its address, and for an endpoint if there are Pods.
func TestAwaitOfAService(t *testing.T) {
	endpoints := func(on ...bool) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "web-x", Namespace: "default", UID: "s", Labels: map[string]string{object.LabelServiceName: "web"}}}
		for _, ready := range on {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.64.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
		return s
	}
	for name, tt := range map[string]struct {
		manifest string
		pods     bool
		slice    *discoveryv1.EndpointSlice
		want     bool
	}{
		"no Pods":             {webService, false, nil, true},
		"no endpoints yet":    {webService, true, nil, false},
		"none that is ready":  {webService, true, endpoints(false), false},
		"one that is ready":   {webService, true, endpoints(false, true), true},
		"no address yet":      {strings.Replace(webService, "  clusterIP: 10.96.0.7\n", "", 1), true, endpoints(true), true},
		"nothing to lead to":  {strings.Replace(webService, "  selector: {app: web}\n", "", 1), true, nil, true},
		"another name":        {"{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: ExternalName, externalName: a.example}}", true, nil, true},
		"no address, no Pods": {strings.Replace(webService, "  clusterIP: 10.96.0.7\n", "", 1), false, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustApply(tt.manifest)
			if tt.pods {
				w.putPod("p", 80, true, nil)
			}
			if tt.slice != nil {
				w.put(tt.slice)
			}
			c := &cluster{Server: w.server}
			row, kind, err := w.server.row(&skeinv1.ObjectRef{Kind: "svc", Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.lookAt(kind, &skeinv1.ObjectRef{Kind: "service", Namespace: row.Key.Namespace, Name: "web"}, &skeinv1.AwaitRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if got.done != tt.want {
				t.Errorf("done %v (%s)", got.done, got.summary)
			}
		})
	}
}

func TestAwaitOfAServiceSeesItsEndpoints(t *testing.T) {
	w := newWorld(t)
	w.mustApply(webService)
	w.putPod("p", 80, false, nil)
	done := make(chan *skeinv1.AwaitResponse, 1)
	go func() {
		last, _ := w.await(&skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "svc", Name: "web"}, TimeoutMs: 60_000})
		done <- last
	}()
	yes := true
	w.put(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "web-x", Namespace: "default", UID: "s", Labels: map[string]string{object.LabelServiceName: "web"}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.64.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
	})
	if last := <-done; last.GetExitCode() != 0 || !last.GetDone() || last.GetSummary() != "1 endpoint" {
		t.Errorf("got %v", last)
	}
}

func TestDescribeOfAServiceHasItsEndpoints(t *testing.T) {
	w := newWorld(t)
	w.mustApply(webService)
	name, port, tcp := "admin", int32(9000), corev1.ProtocolTCP
	w.put(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "web-x", Namespace: "default", UID: "s", Labels: map[string]string{object.LabelServiceName: "web"}},
		Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.64.0.2"}}},
	})
	out, err := w.root.Describe(t.Context(), &skeinv1.DescribeRequest{Object: &skeinv1.ObjectRef{Kind: "svc", Name: "web"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.GetText(), "Endpoints:    10.64.0.2:9000\n") {
		t.Errorf("got\n%s", out.GetText())
	}
}
