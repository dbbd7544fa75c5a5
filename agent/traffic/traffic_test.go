package traffic

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/traffic/traffictest"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	"github.com/skein-dev/skein/runtime/balance"
	"github.com/skein-dev/skein/runtime/container"
)

// A world is a store that nodes agree on, and one node's part of the network.
type world struct {
	*testing.T
	store   *state.Store
	index   uint64
	table   *traffictest.Table
	fabric  *traffictest.Fabric
	names   *traffictest.Names
	traffic *Traffic

	mu       sync.Mutex
	suspects []string
	changed  chan struct{}
	acked    uint64
}

func (w *world) Store() *state.Store      { return w.store }
func (w *world) Synced() bool             { return true }
func (w *world) SyncedC() <-chan struct{} { c := make(chan struct{}); close(c); return c }

func newWorld(t *testing.T, left ...container.Sandbox) *world {
	w := &world{T: t, store: state.New(), table: &traffictest.Table{}, fabric: &traffictest.Fabric{}, names: &traffictest.Names{}, changed: make(chan struct{})}
	w.traffic = New(Config{
		Node: "n1", Address: netip.MustParseAddr("192.0.2.1"), Replica: w, Table: w.table, Fabric: w.fabric, Names: w.names,
		Sandboxes: func(context.Context) ([]container.Sandbox, error) { return left, nil },
		Suspects: func() []string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.suspects)
		},
		SuspectsChanged: func() <-chan struct{} {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.changed
		},
		Ack: func(_ context.Context, index uint64) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.acked = index
			return nil
		},
		LeaderChanged: func() <-chan struct{} { return nil },
		Logger:        slog.New(slog.DiscardHandler),
	})
	w.put(aNode("n1", "192.0.2.1", "10.64.0.0/24"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.traffic.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) commit(ops ...*logv1.Op) {
	w.Helper()
	w.index++
	if err := w.store.Apply(w.index, &logv1.Txn{Ops: ops}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) put(objects ...object.Object) {
	w.Helper()
	var ops []*logv1.Op
	for _, obj := range objects {
		version := uint64(0)
		if row, ok := w.store.Get(object.KeyOf(obj)); ok {
			version = row.Version
			obj.SetUID(types.UID(row.UID))
		} else {
			obj.SetUID(types.UID(obj.GetNamespace() + "/" + obj.GetName()))
		}
		op, err := object.Put(obj, version)
		if err != nil {
			w.Fatal(err)
		}
		ops = append(ops, op)
	}
	w.commit(ops...)
}

func (w *world) remove(obj object.Object) {
	w.Helper()
	row, _ := w.store.Get(object.KeyOf(obj))
	w.commit(object.Delete(row.Key, row.Version))
}

func (w *world) suspect(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.suspects = names
	close(w.changed)
	w.changed = make(chan struct{})
}

// eventually waits for something to be so.
func (w *world) eventually(what string, want any, got func() any) {
	w.Helper()
	end := time.Now().Add(5 * time.Second)
	diff := ""
	for time.Now().Before(end) {
		if diff = cmp.Diff(fmt.Sprint(want), fmt.Sprint(got())); diff == "" {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.Fatalf("%s (-want +got):\n%s", what, diff)
}

func (w *world) behind(f balance.Frontend) func() any {
	return func() any {
		s, there := w.table.Config().Frontends[f]
		if !there {
			return "nothing"
		}
		return s.Endpoints
	}
}

func aNode(name, addr, block string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{object.AnnotationAdvertise: addr + ":7373"}},
		Spec:       corev1.NodeSpec{PodCIDR: block, PodCIDRs: []string{block}},
	}
}

func web() *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.7", Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}},
		},
	}
	object.Default(s)
	return s
}

type end struct {
	addr, node string
	unready    bool
	going      bool
}

func slice(ends ...end) *discoveryv1.EndpointSlice {
	name, port, tcp := "", int32(8080), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Namespace: "default", Labels: map[string]string{object.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
	}
	for _, e := range ends {
		ready := !e.unready && !e.going
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{e.addr}, NodeName: &e.node, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &e.going},
		})
	}
	return s
}

func at(list ...string) []netip.AddrPort {
	out := []netip.AddrPort{}
	for _, text := range list {
		out = append(out, netip.MustParseAddrPort(text+":8080"))
	}
	return out
}

var (
	vip  = balance.Frontend{Addr: netip.MustParseAddr("10.96.0.7"), Protocol: balance.TCP, Port: 80}
	port = balance.Frontend{Protocol: balance.TCP, Port: 30080}
)

func TestAServiceLeadsToItsReadyEndpoints(t *testing.T) {
	w := newWorld(t)
	w.put(web(), slice(end{addr: "10.64.0.1", node: "n1"}, end{addr: "10.64.1.1", node: "n2"}, end{addr: "10.64.1.2", node: "n2", unready: true}))
	w.eventually("behind its address", at("10.64.0.1", "10.64.1.1"), w.behind(vip))
	w.eventually("behind its node port", at("10.64.0.1", "10.64.1.1"), w.behind(port))
	w.eventually("its name", "[10.96.0.7]", func() any { return w.names.Entries()[object.KeyOf(web()).String()].Addrs })
	w.put(slice(end{addr: "10.64.1.2", node: "n2"}))
	w.eventually("after a change", at("10.64.1.2"), w.behind(vip))
	w.eventually("who is forgotten", "[10.64.0.1 10.64.1.1]", func() any {
		gone := w.table.Buried()
		slices.SortFunc(gone, netip.Addr.Compare)
		return gone
	})
	local := web()
	yes := corev1.ServiceInternalTrafficPolicyLocal
	local.Spec.InternalTrafficPolicy, local.Spec.ExternalTrafficPolicy = &yes, corev1.ServiceExternalTrafficPolicyLocal
	w.put(local, slice(end{addr: "10.64.0.1", node: "n1"}, end{addr: "10.64.1.1", node: "n2"}))
	w.eventually("of this node alone", at("10.64.0.1"), w.behind(vip))
	if s := w.table.Config().Frontends[port]; !s.Keep || !s.Silent {
		t.Errorf("the client's address is not kept: %+v", s)
	}
	w.remove(local)
	w.eventually("once it is gone", "nothing", w.behind(vip))
	w.eventually("its node port", "nothing", w.behind(port))
	w.eventually("its name", "0", func() any { return len(w.names.Entries()) })
}

func TestASuspectNodesEndpointsLeaveAndComeBack(t *testing.T) {
	w := newWorld(t)
	w.put(web(), slice(end{addr: "10.64.0.1", node: "n1"}, end{addr: "10.64.1.1", node: "n2"}, end{addr: "10.64.2.1", node: "n3"}))
	w.eventually("all", at("10.64.0.1", "10.64.1.1", "10.64.2.1"), w.behind(vip))
	w.suspect("n2")
	w.eventually("without n2's", at("10.64.0.1", "10.64.2.1"), w.behind(vip))
	w.suspect("n2", "n3") // gossip is only advice: half of them stay
	w.eventually("with one of two that are doubtful", at("10.64.0.1", "10.64.1.1"), w.behind(vip))
	w.suspect()
	w.eventually("all again", at("10.64.0.1", "10.64.1.1", "10.64.2.1"), w.behind(vip))
	lost := aNode("n3", "192.0.2.3", "10.64.2.0/24")
	lost.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: object.ReasonNodeLost}}
	w.put(lost)
	w.eventually("without those of a lost node", at("10.64.0.1", "10.64.1.1"), w.behind(vip))
}

func TestAnEndpointThatGoesIsAcknowledged(t *testing.T) {
	w := newWorld(t)
	w.put(web(), slice(end{addr: "10.64.0.1", node: "n1"}, end{addr: "10.64.1.1", node: "n2"}))
	w.put(slice(end{addr: "10.64.0.1", node: "n1"}, end{addr: "10.64.1.1", node: "n2", going: true}))
	index := w.index
	w.eventually("what the leader has heard", index, func() any {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.acked
	})
	if got := w.behind(vip)(); fmt.Sprint(got) != fmt.Sprint(at("10.64.0.1")) {
		t.Errorf("it was acknowledged while connections go to %v", got)
	}
}

func TestNodesAreJoinedAsTheyCome(t *testing.T) {
	w := newWorld(t)
	w.put(aNode("n2", "192.0.2.2", "10.64.1.0/24"))
	w.eventually("its peers", "n2 192.0.2.2 [10.64.1.0/24]", func() any {
		cfg := w.fabric.Config()
		if len(cfg.Peers) != 1 || len(cfg.Self.Blocks) != 1 {
			return cfg
		}
		return fmt.Sprint(cfg.Peers[0].Name, " ", cfg.Peers[0].Addr, " ", cfg.Peers[0].Blocks)
	})
	w.eventually("machines of the cluster", "[192.0.2.1 192.0.2.2]", func() any { return w.table.Config().Nodes })
	w.remove(aNode("n2", "", ""))
	w.eventually("machines of the cluster", "[192.0.2.1]", func() any { return w.table.Config().Nodes })
}

func pod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "http", ContainerPort: 8080, HostPort: 8000, Protocol: corev1.ProtocolTCP},
		}}}},
	}
}

func TestAPodIsLetOntoTheNetworkUnderItsPolicies(t *testing.T) {
	w := newWorld(t, container.Sandbox{Pod: "old", Address: netip.MustParseAddr("10.64.0.9")})
	w.eventually("the Pods of an earlier agent", "[10.64.0.9]", func() any { return podAddrs(w.table.Config().Here) })
	w.put(&object.Selection{
		ObjectMeta: metav1.ObjectMeta{Name: "fence", Namespace: "default"},
		Spec: object.SelectionSpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Ingress:     &[]object.SelectionRule{{Peers: []string{"10.64.1.1"}, Ports: []object.SelectionPort{{Protocol: "TCP", Name: "http"}}}},
		},
	})
	web, free := pod("web", map[string]string{"app": "web"}), pod("free", nil)
	addr := netip.MustParseAddr("10.64.0.1")
	w.eventually("the policy is known", 1, func() any {
		w.traffic.mu.Lock()
		defer w.traffic.mu.Unlock()
		return len(w.traffic.model.selections)
	})
	for p, a := range map[*corev1.Pod]string{web: "10.64.0.1", free: "10.64.0.2"} {
		if err := w.traffic.Admit(t.Context(), p, netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
	cfg := w.table.Config()
	if got := fmt.Sprint(podAddrs(cfg.Here)); got != "[10.64.0.1 10.64.0.2 10.64.0.9]" {
		t.Errorf("here are %s", got)
	}
	want := []balance.Rule{{Peers: []netip.Addr{netip.MustParseAddr("10.64.1.1")}, Ports: []balance.PortRange{{Protocol: balance.TCP, First: 8080, Last: 8080}}}}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(cfg.Policy.Ingress[addr].Rules)); diff != "" || len(cfg.Policy.Ingress) != 1 || len(cfg.Policy.Egress) != 0 {
		t.Errorf("what is let through (-want +got):\n%s\nof %v", diff, cfg.Policy)
	}
	if _, there := cfg.Frontends[balance.Frontend{Protocol: balance.TCP, Port: 8000}]; !there {
		t.Error("its host port leads nowhere")
	}
	for _, p := range []*corev1.Pod{web, free} {
		if err := w.traffic.Dismiss(t.Context(), string(p.UID)); err != nil {
			t.Fatal(err)
		}
	}
	cfg = w.table.Config()
	if len(cfg.Policy.Ingress)+len(cfg.Frontends) != 0 || len(cfg.Here) != 1 {
		t.Errorf("of Pods that are gone there is left %v", cfg)
	}
}

func podAddrs(list []balance.Pod) []netip.Addr {
	out := []netip.Addr{}
	for _, p := range list {
		out = append(out, p.Addr)
	}
	return out
}
