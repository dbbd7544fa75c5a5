package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A world is a cluster without raft, network and kernels: a store that applies
// what is committed at once, machines that do as told, and a leader.
type world struct {
	t     testing.TB
	store *state.Store
	lead  *Leader
	self  string

	mu       sync.Mutex
	index    uint64
	txns     []*logv1.Txn // as committed
	look     func(*logv1.Txn)
	machines map[string]*machine
	members  []consensus.Member
	version  uint64
	prepared []string
	uids     int
	random   *rand.Rand
	stop     context.CancelFunc
	stopped  chan struct{}
	term     uint64
	ctx      context.Context //nolint:containedctx // of the test
	deaf     bool            // the quorum does not follow this leader
}

// A machine runs the Pods that it is given, unless its power is off.
type machine struct {
	name  string
	power bool // off: nothing answers
	agent bool // off: the machine answers, its agent does not
	end   context.CancelFunc
}

// inWorld runs a test in a bubble with these machines, the first of which leads.
func inWorld(t *testing.T, names []string, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, names[0])
		for _, name := range names {
			w.join(name)
		}
		w.begin()
		w.settle()
		test(w)
		w.end()
	})
}

func newWorld(t testing.TB, self string) *world {
	t.Helper()
	w := &world{
		t: t, store: state.New(), self: self, machines: map[string]*machine{},
		random: rand.New(rand.NewPCG(1, 2)), ctx: t.Context(),
		members: []consensus.Member{{Name: self, Voter: true}}, version: 1,
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("LEADER_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.lead = New(Config{
		Name: self, Consensus: w, Voting: w, Prober: w, Preparer: w, Logger: log,
		Observers: func() func(string) []string { return w.observers },
		UID: func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.uids++
			return fmt.Sprintf("uid-%d", w.uids)
		},
		Random: func() uint64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.random.Uint64()
		},
	})
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "ns-default"}})
	return w
}

// begin starts a term of leading.
func (w *world) begin() {
	ctx, stop := context.WithCancel(w.ctx)
	w.stop, w.stopped = stop, make(chan struct{})
	w.term++
	go func() {
		defer close(w.stopped)
		if err := w.lead.Run(ctx, w.term); err != nil {
			w.t.Errorf("term %d ended with %v", w.term, err)
		}
	}()
}

func (w *world) resign() {
	w.stop()
	<-w.stopped
}

// end stops everything, so that the bubble can see that nothing is left.
func (w *world) end() {
	w.resign()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.machines {
		m.end()
	}
}

// settle lets two seconds pass: enough for everything but grace periods.
func (w *world) settle() {
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

// Commit applies a transaction as the log would.
func (w *world) Commit(ctx context.Context, txn *logv1.Txn) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	txn = proto.CloneOf(txn)
	w.index++
	if err := w.store.Apply(w.index, proto.CloneOf(txn)); err != nil {
		return 0, err
	}
	w.txns = append(w.txns, txn)
	if w.look != nil {
		w.look(txn)
	}
	return w.index, nil
}

func (w *world) Store() *state.Store { return w.store }

func (w *world) Confirm(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf {
		return errors.New("no quorum")
	}
	return nil
}

// The members, as raft keeps them.

func (w *world) Members() ([]consensus.Member, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.members), w.version, nil
}

func (w *world) change(name string, prev uint64, f func(i int)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if prev != w.version {
		return consensus.ErrMembersChanged
	}
	w.version++
	f(slices.IndexFunc(w.members, func(m consensus.Member) bool { return m.Name == name }))
	return nil
}

func (w *world) set(name string, voter bool) func(int) {
	return func(i int) {
		if i < 0 {
			w.members = append(w.members, consensus.Member{Name: name, Voter: voter})
			return
		}
		w.members[i].Voter = voter
	}
}

func (w *world) AddNonvoter(_ context.Context, name string, prev uint64) error {
	return w.change(name, prev, w.set(name, false))
}

func (w *world) AddVoter(_ context.Context, name string, prev uint64) error {
	return w.change(name, prev, w.set(name, true))
}

func (w *world) Demote(_ context.Context, name string, prev uint64) error {
	return w.change(name, prev, w.set(name, false))
}

func (w *world) Remove(_ context.Context, name string, prev uint64) error {
	return w.change(name, prev, func(i int) { w.members = slices.Delete(w.members, i, i+1) })
}

func (w *world) TransferLeadership(context.Context, string) error {
	return errors.New("not in this world")
}

func (w *world) Progress(name string) (consensus.Progress, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[name]
	return consensus.Progress{LastContact: time.Now()}, m != nil && m.power && m.agent
}

func (w *world) Prepare(_ context.Context, node string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepared = append(w.prepared, node)
	return nil
}

func (w *world) voters() string {
	members, _, _ := w.Members()
	var names []string
	for _, m := range members {
		if m.Voter {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// What a person does.

func (w *world) put(obj object.Object) {
	w.t.Helper()
	op, err := object.Put(obj, object.AnyVersion)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.Commit(w.ctx, &logv1.Txn{Ops: []*logv1.Op{op}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(key state.Key) {
	w.t.Helper()
	if _, err := w.Commit(w.ctx, &logv1.Txn{Ops: []*logv1.Op{object.Delete(key, object.AnyVersion)}}); err != nil {
		w.t.Fatal(err)
	}
}

// deploy makes a Deployment, or changes it.
func (w *world) deploy(name string, replicas int32, image string, change ...func(*appsv1.Deployment)) {
	w.t.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("deploy-" + name), Generation: 1},
	}
	if row, ok := w.store.Get(deployKey(name)); ok {
		d = decode[appsv1.Deployment](w, row)
		d.Generation++
	}
	d.Spec.Replicas = &replicas
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
	}
	for _, c := range change {
		c(d)
	}
	w.put(d)
}

func deployKey(name string) state.Key {
	return state.Key{Kind: object.KindDeployment, Namespace: "default", Name: name}
}

func decode[T any](w *world, row *state.Row) *T {
	w.t.Helper()
	out, err := object.Decode[T](row)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// What a person sees.

func (w *world) pods() []*corev1.Pod {
	w.t.Helper()
	var out []*corev1.Pod
	for _, row := range w.store.List(object.KindPod, "", "") {
		out = append(out, decode[corev1.Pod](w, row))
	}
	return out
}

// on counts Pods by node; those that are going are not counted.
func (w *world) on() map[string]int {
	got := map[string]int{}
	for _, p := range w.pods() {
		if p.DeletionTimestamp == nil {
			got[p.Spec.NodeName]++
		}
	}
	return got
}

func (w *world) deployment(name string) *appsv1.Deployment {
	w.t.Helper()
	row, ok := w.store.Get(deployKey(name))
	if !ok {
		w.t.Fatalf("deployment %s is gone", name)
	}
	return decode[appsv1.Deployment](w, row)
}

// wantComplete fails the test unless a Deployment is all as wanted.
func (w *world) wantComplete(name string, replicas int32) {
	w.t.Helper()
	s := w.deployment(name).Status
	got := []int32{s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas, s.UnavailableReplicas}
	if want := []int32{replicas, replicas, replicas, replicas, 0}; !slices.Equal(got, want) {
		w.t.Errorf("%s has replicas, updated, ready, available, unavailable %v, want %v", name, got, want)
	}
	if s.ObservedGeneration != w.deployment(name).Generation {
		w.t.Errorf("%s has observed generation %d, want %d", name, s.ObservedGeneration, w.deployment(name).Generation)
	}
}

func (w *world) ready(name string) corev1.NodeCondition {
	w.t.Helper()
	row, ok := w.store.Get(state.Key{Kind: object.KindNode, Name: name})
	if !ok {
		w.t.Fatalf("node %s is gone", name)
	}
	for _, c := range decode[corev1.Node](w, row).Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// events are the reasons of all Events about an object, with their counts.
func (w *world) events(name string) map[string]int32 {
	w.t.Helper()
	got := map[string]int32{}
	for _, row := range w.store.List(object.KindEvent, "", "") {
		if e := decode[corev1.Event](w, row); e.InvolvedObject.Name == name {
			got[e.Reason] += e.Count
		}
	}
	return got
}

func resourcePods(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }
