package leader

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// webModel is a model with Pods of a Service: each named after its address.
func webModel(pods ...*pod) *model {
	m := newModel(nil, time.Now)
	for _, p := range pods {
		m.putPod(p)
	}
	return m
}

func webPod(addr string, change ...func(*pod)) *pod {
	p := &pod{
		key: state.Key{Kind: object.KindPod, Namespace: "default", Name: "p-" + strings.ReplaceAll(addr, ".", "-")}, uid: "uid-" + addr, node: "n1",
		phase: corev1.PodRunning, shape: shapeOf(&corev1.PodSpec{}),
		wiring: wiring{addr: netip.MustParseAddr(addr), labels: map[string]string{"app": "web"}, serving: true, ports: []port{{"http", corev1.ProtocolTCP, 8080}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func service(target intstr.IntOrString) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "s"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: target, Protocol: corev1.ProtocolTCP}}},
	}
}

// ends lists endpoints in short: address, port, and what is not as of a ready one.
func ends(in map[string]*discoveryv1.EndpointSlice) []string {
	var out []string
	for _, s := range in {
		for _, e := range s.Endpoints {
			text := e.Addresses[0]
			for _, p := range s.Ports {
				text += fmt.Sprint(":", *p.Port)
			}
			if !*e.Conditions.Ready {
				text += " unready"
			}
			if *e.Conditions.Terminating {
				text += " going"
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

func TestWhoIsBehindAService(t *testing.T) {
	other := func(p *pod) { p.labels = map[string]string{"app": "other"} }
	tests := map[string]struct {
		target intstr.IntOrString
		pods   []*pod
		want   []string
	}{
		"Pods that are ready":      {intstr.FromInt32(8080), []*pod{webPod("10.64.0.1"), webPod("10.64.0.2", other)}, []string{"10.64.0.1:8080"}},
		"one that is not":          {intstr.FromInt32(8080), []*pod{webPod("10.64.0.1", func(p *pod) { p.serving = false })}, []string{"10.64.0.1:8080 unready"}},
		"one that is to go":        {intstr.FromInt32(8080), []*pod{webPod("10.64.0.1", func(p *pod) { p.deleting = true })}, []string{"10.64.0.1:8080 unready going"}},
		"none that has ended":      {intstr.FromInt32(8080), []*pod{webPod("10.64.0.1", func(p *pod) { p.phase = corev1.PodFailed })}, nil},
		"none that is nowhere yet": {intstr.FromInt32(8080), []*pod{webPod("10.64.0.1", func(p *pod) { p.node = "" })}, nil},
		"a port by name, of two numbers": {intstr.FromString("http"), []*pod{
			webPod("10.64.0.1"), webPod("10.64.0.2", func(p *pod) { p.ports = []port{{"http", corev1.ProtocolTCP, 9090}} }),
		}, []string{"10.64.0.1:8080", "10.64.0.2:9090"}},
		"a name that a Pod has not": {intstr.FromString("http"), []*pod{webPod("10.64.0.1", func(p *pod) { p.ports = nil })}, []string{"10.64.0.1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := webModel(tt.pods...)
			s := service(tt.target)
			key := object.KeyOf(s)
			m.web.putService(key, s)
			if diff := cmp.Diff(tt.want, ends(m.slices(key))); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManyEndpointsAreInSeveralSlicesAndFewMove(t *testing.T) {
	var list []*pod
	for i := range 350 {
		list = append(list, webPod(netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}).String()))
	}
	m := webModel(list...)
	s := service(intstr.FromInt32(8080))
	key := object.KeyOf(s)
	m.web.putService(key, s)
	before := m.slices(key)
	if len(before) != 4 || len(ends(before)) != 350 {
		t.Fatalf("%d endpoints in %d slices", len(ends(before)), len(before))
	}
	m.removePod(list[7].key)
	changed := 0
	for name, now := range m.slices(key) {
		if !sameSlice(before[name], now) {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("one Pod goes, and %d slices change", changed)
	}
}

func TestOnlyServicesThatAChangeConcernsAreLookedAt(t *testing.T) {
	m := webModel(webPod("10.64.0.1"))
	s := service(intstr.FromInt32(8080))
	key := object.KeyOf(s)
	m.web.putService(key, s)
	look := func() []state.Key {
		keys, _ := m.takeStale(10)
		return keys
	}
	look()
	m.putPod(webPod("10.64.0.1", func(p *pod) { p.version = 9 }))
	if got := look(); len(got) != 0 {
		t.Errorf("a change that says nothing new: %v", got)
	}
	m.putPod(webPod("10.64.0.1", func(p *pod) { p.serving = false }))
	if got := look(); len(got) != 1 {
		t.Errorf("a Pod that is not ready any more: %v", got)
	}
	m.putPod(webPod("10.64.0.1", func(p *pod) { p.labels = map[string]string{"app": "other"} }))
	if got := look(); len(got) != 1 {
		t.Errorf("a Pod that is selected no more: %v", got)
	}
	m.putPod(webPod("10.64.0.2", func(p *pod) { p.labels = map[string]string{"app": "other"} }))
	if got := look(); len(got) != 0 {
		t.Errorf("a Pod of nobody: %v", got)
	}
}

func TestAPodIsReleasedOnceAllHaveLetGo(t *testing.T) {
	m := webModel(webPod("10.64.0.1", func(p *pod) { p.deleting, p.version = true, 5 }))
	s := service(intstr.FromInt32(8080))
	m.web.putService(object.KeyOf(s), s)
	for _, name := range []string{"n1", "n2", "n3"} {
		n := &node{known: true, ready: corev1.ConditionTrue}
		n.place.Name = name
		if name == "n3" {
			n.ready, n.reason = corev1.ConditionUnknown, object.ReasonNodeLost
		}
		m.nodes[name] = n
	}
	l := New(Config{})
	l.now = &reign{model: m}
	key := state.Key{Kind: object.KindPod, Namespace: "default", Name: "p-10-64-0-1"}
	done := make(chan error, 1)
	go func() {
		_, err := l.Released(context.Background(), key, "uid-10.64.0.1")
		done <- err
	}()
	step := func(what string, do func()) {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("it was released before %s: %v", what, err)
		case <-time.After(60 * time.Millisecond):
		}
		do()
	}
	step("its endpoints said so", func() { m.settle(5, 7) })
	step("n1 had let go", func() { l.Acked("n1", 7) })
	step("n2 had", func() { l.Acked("n2", 6) })
	step("n2 had let go of this one", func() { l.Acked("n2", 8) })
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAPodOfNoServiceIsReleasedAtOnce(t *testing.T) {
	m := webModel(webPod("10.64.0.1", func(p *pod) { p.deleting = true }))
	l := New(Config{})
	l.now = &reign{model: m}
	if late, err := l.Released(t.Context(), state.Key{Kind: object.KindPod, Namespace: "default", Name: "p-10-64-0-1"}, "uid-10.64.0.1"); err != nil || late != nil {
		t.Errorf("got %v, %v", late, err)
	}
}

func TestWhomAPolicyLetsThrough(t *testing.T) {
	m := webModel(webPod("10.64.0.1"), webPod("10.64.0.2", func(p *pod) { p.labels = map[string]string{"role": "friend"} }), webPod("10.64.0.3", func(p *pod) {
		p.key.Namespace, p.labels = "shop", map[string]string{"role": "friend"}
	}))
	m.web.nameSpace("shop", map[string]string{"team": "blue"})
	m.web.nameSpace("default", nil)
	tcp := corev1.ProtocolTCP
	http, last := intstr.FromString("http"), int32(9100)
	from := intstr.FromInt32(9000)
	friends := &metav1.LabelSelector{MatchLabels: map[string]string{"role": "friend"}}
	n := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "fence", Namespace: "default", UID: "f"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{
				{From: []networkingv1.NetworkPolicyPeer{{PodSelector: friends}}, Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &http}}},
				{From: []networkingv1.NetworkPolicyPeer{{PodSelector: friends, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}}}},
				{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.128/25", "192.0.2.0/26"}}}}},
			},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{{PodSelector: friends}}, Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &http}, {Protocol: &tcp, Port: &from, EndPort: &last}}},
				{},
			},
		},
	}
	p, err := compile(n)
	if err != nil {
		t.Fatal(err)
	}
	key := object.KeyOf(n)
	m.web.policies[key] = p
	got := m.selection(key).Spec
	want := object.SelectionSpec{
		Ingress: &[]object.SelectionRule{
			{Peers: []string{"10.64.0.2"}, Ports: []object.SelectionPort{{Protocol: "TCP", Name: "http"}}},
			{Peers: []string{"10.64.0.3"}},
			{Blocks: []string{"192.0.2.64/26"}},
		},
		Egress: &[]object.SelectionRule{
			{
				Peers: []string{"10.64.0.2"}, Ports: []object.SelectionPort{{Protocol: "TCP", Port: 9000, EndPort: 9100}},
				Named: []object.SelectionNamed{{Protocol: "TCP", Port: 8080, Peers: []string{"10.64.0.2"}}},
			},
			{All: true},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsLeftOfAServiceIsLookedAt(t *testing.T) {
	store := state.New()
	gone := service(intstr.FromInt32(8080))
	gone.Name = "gone"
	m := webModel()
	m.web.putService(object.KeyOf(service(intstr.FromInt32(8080))), service(intstr.FromInt32(8080)))
	m.takeStale(10)
	var ops []*logv1.Op
	for _, obj := range []object.Object{
		newSlice(service(intstr.FromInt32(8080)), "web-1", []int32{8080}), newSlice(gone, "gone-1", []int32{8080}),
		&object.Selection{ObjectMeta: metav1.ObjectMeta{Name: "fence", Namespace: "default", UID: "f"}},
	} {
		obj.SetUID("u")
		op, err := object.Put(obj, 0)
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, op)
	}
	if err := store.Apply(1, &logv1.Txn{Ops: ops}); err != nil {
		t.Fatal(err)
	}
	m.suspectLeftovers(store)
	keys, _ := m.takeStale(10)
	if len(keys) != 1 || keys[0] != object.KeyOf(gone) {
		t.Errorf("Services to look at: %v", keys)
	}
	if len(m.web.lapsed) != 1 {
		t.Errorf("policies to look at: %v", m.web.lapsed)
	}
}
