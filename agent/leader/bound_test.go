package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// BenchmarkBound measures what it takes to bind Pods on a thousand nodes through
// a log with three voters, on disk and synced, over TCP: how many a second when
// many are created at once, and how long one alone takes from the request to
// create it to its node's hearing of it.
func BenchmarkBound(b *testing.B) {
	b.Run("nodes=1000/at-once=5000", func(b *testing.B) {
		v := newVoters(b, 1000)
		const n = 5000
		for i := 0; b.Loop(); i++ {
			names := make([]string, n)
			for j := range names {
				names[j] = fmt.Sprintf("p-%d-%d", i, j)
			}
			bound := v.awaitBound(names)
			v.create(names, 250)
			<-bound
			b.StopTimer()
			v.remove(names)
			b.StartTimer()
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "Pods/s")
	})
	b.Run("nodes=1000/one-by-one", func(b *testing.B) {
		v := newVoters(b, 1000)
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			name := fmt.Sprintf("p-%d", i)
			bound := v.awaitBound([]string{name})
			begin := time.Now()
			v.create([]string{name}, 1)
			<-bound
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	})
}

// voters are three nodes that agree, of which one leads, and many that only
// exist as objects.
type voters struct {
	b     *testing.B
	first *consensus.Node
}

func newVoters(b *testing.B, nodes int) *voters {
	b.Helper()
	names := []string{"n1", "n2", "n3"}
	listeners := map[string]net.Listener{}
	for _, name := range names {
		l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners[name] = l
	}
	dial := func(ctx context.Context, name string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listeners[name].Addr().String())
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	v := &voters{b: b}
	for _, name := range names {
		n := bootVoter(b, name, listeners[name], dial, name == "n1")
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				b.Error(err)
			}
		})
		if v.first == nil {
			v.first = n
		}
	}
	b.Cleanup(func() { stop(); running.Wait() })
	for changed := v.first.LeaderChanged(); !v.first.IsLeader(); changed = v.first.LeaderChanged() {
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			b.Fatal("nobody leads")
		}
	}
	txn := &logv1.Txn{}
	for i := range nodes {
		name := fmt.Sprintf("node-%04d", i)
		if i < len(names) {
			name = names[i]
		}
		txn.Ops = append(txn.Ops, v.op(benchNode(name)))
	}
	v.commit(txn)
	for _, name := range names[1:] {
		for {
			_, index, err := v.first.Members()
			if err != nil {
				b.Fatal(err)
			}
			if err = v.first.AddVoter(b.Context(), name, index); err == nil {
				break
			} else if !errors.Is(err, consensus.ErrMembersChanged) {
				b.Fatal(err)
			}
		}
	}
	return v
}

func bootVoter(b *testing.B, name string, l net.Listener, dial func(context.Context, string) (net.Conn, error), alone bool) *consensus.Node {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	dir, err := os.MkdirTemp(".", "bound-") // on a real disk, where syncing costs something
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	stores, err := consensus.OpenStores(dir, log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stores.Close() })
	n, err := consensus.Open(consensus.Config{
		Name: name, Log: stores.Log, Stable: stores.Stable, Snapshots: stores.Snapshots, Bootstrap: alone,
		Transport: consensus.NewTransport(consensus.TransportConfig{Name: name, Listener: l, Dial: dial, Logger: log}),
	})
	if err != nil {
		b.Fatal(err)
	}
	uids := 0
	n.Lead(New(Config{
		Name: name, Consensus: n, Voting: n, Prober: everybodyLives{}, Preparer: everybodyLives{},
		UID:    func() string { uids++; return fmt.Sprint(name, "-", uids) },
		Random: func() uint64 { return 7 },
	}).Run)
	return n
}

// everybodyLives answers every probe, and prepares at once.
type everybodyLives struct{}

func (everybodyLives) Prepare(context.Context, string) error { return nil }

func (everybodyLives) Probe(context.Context, string, string, uint64) (skeinv1.ProbeResult, error) {
	return skeinv1.ProbeResult_PROBE_RESULT_ALIVE, nil
}

func (everybodyLives) ProbeSelf(context.Context, string, uint64) skeinv1.ProbeResult {
	return skeinv1.ProbeResult_PROBE_RESULT_ALIVE
}

func benchNode(name string) *corev1.Node {
	have := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("250"),
	}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}},
		Status: corev1.NodeStatus{
			Capacity: have, Allocatable: have,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if strings.HasPrefix(name, "node-") {
		n.Labels[object.LabelVoter] = "never"
	}
	return n
}

func (v *voters) op(obj object.Object) *logv1.Op {
	op, err := object.Put(obj, 0)
	if err != nil {
		v.b.Fatal(err)
	}
	return op
}

func (v *voters) commit(txn *logv1.Txn) {
	if _, err := v.first.Commit(v.b.Context(), txn); err != nil {
		v.b.Fatal(err)
	}
}

// create asks for Pods, so many in each transaction and several of these at once.
func (v *voters) create(names []string, each int) {
	var asking sync.WaitGroup
	for some := range slices.Chunk(names, each) {
		asking.Go(func() {
			txn := &logv1.Txn{}
			for _, name := range some {
				txn.Ops = append(txn.Ops, v.op(&corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{
						Name: "c", Image: "skein/demo:v1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
							corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
						}},
					}}},
				}))
			}
			v.commit(txn)
		})
	}
	asking.Wait()
}

// remove takes the Pods away and waits until a node would not hear of them.
func (v *voters) remove(names []string) {
	txn := &logv1.Txn{}
	for _, name := range names {
		txn.Ops = append(txn.Ops, object.Delete(state.Key{Kind: object.KindPod, Namespace: "default", Name: name}, object.AnyVersion))
	}
	v.commit(txn)
}

// awaitBound tells when all of the Pods have a node, by the stream that nodes
// follow.
func (v *voters) awaitBound(names []string) <-chan struct{} {
	done := make(chan struct{})
	ready := make(chan struct{})
	missing := make(map[string]bool, len(names))
	for _, name := range names {
		missing[name] = true
	}
	go func() {
		defer close(done)
		first := true
		for batch, err := range v.first.Store().Follow(v.b.Context(), v.first.Store().Index(), v.first.Store().Epoch(), []state.Selector{{Kind: object.KindPod}}) {
			if err != nil {
				return
			}
			for _, row := range batch.Puts {
				if !slices.Contains(row.Index, object.NodeIndex("")) {
					delete(missing, row.Key.Name)
				}
			}
			if first {
				first = false
				close(ready)
			}
			if len(missing) == 0 {
				return
			}
		}
	}()
	<-ready
	return done
}
