package api

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
)

func nodePortService(name, more string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {type: NodePort%s, selector: {app: web}, ports: [{name: a, port: 80}, {name: b, port: 53, protocol: UDP}]}}\n", name, more)
}

func (w *world) services() []*corev1.Service {
	w.t.Helper()
	var out []*corev1.Service
	for _, row := range w.agreed.store.List(object.KindService, "", "") {
		s, err := object.Decode[corev1.Service](row)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func TestNoTwoServicesHaveTheSameAddressOrPort(t *testing.T) {
	w := newWorld(t)
	both := nodePortService("one", "") + "---\n" + nodePortService("two", "")
	w.mustApply(both)
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() {
			if _, err := w.apply(nodePortService(fmt.Sprint("s", i), "")); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	seen := map[string]string{}
	before := map[string]string{}
	for _, s := range w.services() {
		addr, err := netip.ParseAddr(s.Spec.ClusterIP)
		if err != nil || !object.ServiceRange.Contains(addr) || len(s.Spec.ClusterIPs) != 1 {
			t.Errorf("%s has the address %q", s.Name, s.Spec.ClusterIP)
		}
		keys := []string{s.Spec.ClusterIP}
		for _, p := range s.Spec.Ports {
			if p.NodePort < object.NodePortFirst || p.NodePort > object.NodePortLast {
				t.Errorf("%s has the node port %d", s.Name, p.NodePort)
			}
			keys = append(keys, portKey(p.NodePort, p.Protocol))
		}
		before[s.Name] = fmt.Sprint(keys)
		for _, key := range keys {
			if other := seen[key]; other != "" {
				t.Errorf("%s is %s's and %s's", key, other, s.Name)
			}
			seen[key] = s.Name
		}
	}
	if len(before) != 22 {
		t.Fatalf("%d Services", len(before))
	}
	w.mustApply(both) // what the cluster chose stays
	for _, s := range w.services() {
		keys := []string{s.Spec.ClusterIP, portKey(s.Spec.Ports[0].NodePort, "TCP"), portKey(s.Spec.Ports[1].NodePort, "UDP")}
		if before[s.Name] != fmt.Sprint(keys) {
			t.Errorf("%s had %s and has %v", s.Name, before[s.Name], keys)
		}
	}
	row, _ := w.agreed.store.Get(state.Key{Kind: object.KindService, Namespace: "default", Name: "one"})
	one, err := object.Decode[corev1.Service](row)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.apply(nodePortService("thief", ", clusterIP: "+one.Spec.ClusterIP)); err == nil || !strings.Contains(err.Error(), "is service default/one's") {
		t.Errorf("an address that another has: %v", err)
	}
}
