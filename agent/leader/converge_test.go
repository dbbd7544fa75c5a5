package leader

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// Whatever the store holds, however it came to hold it, a leader makes of it
// what the Deployments want.
func TestDeploymentsConvergeFromAnyState(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 7))
				w := newWorld(t, "n1")
				for _, name := range []string{"n1", "n2", "n3", "n4"} {
					w.join(name)
				}
				strategy := rolling(r.IntN(3), 1+r.IntN(2))
				replicas := int32(r.IntN(7))
				w.deploy("web", replicas, "web:v2", strategy)
				w.litter(r)
				w.begin()
				if r.IntN(2) == 0 {
					time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
					w.cut("n4")
				}
				time.Sleep(40 * time.Second)
				synctest.Wait()
				w.wantComplete("web", replicas)
				w.wantTidy("web:v2")
				w.end()
			})
		})
	}
}

// litter leaves Revisions and Pods of all sorts, with owners and without.
func (w *world) litter(r *rand.Rand) {
	d := w.deployment("web")
	var owners []*object.Revision
	for i, image := range []string{"web:v1", "web:v2", "web:v0", "gone:v1"} {
		if r.IntN(3) == 0 {
			continue
		}
		of := d.DeepCopy()
		of.Spec.Template.Spec.Containers[0].Image = image
		if strings.HasPrefix(image, "gone") {
			of.UID = "deploy-gone" // its Deployment is no more
		}
		rev := newRevision(of, object.TemplateHash(&of.Spec.Template), int64(i+1), fmt.Sprintf("rev-%d", i), time.Now())
		owners = append(owners, rev)
		if r.IntN(6) > 0 {
			w.put(rev)
		} // else its Pods are orphans
	}
	if len(owners) == 0 {
		return
	}
	for i := range r.IntN(20) {
		p := newPod(owners[r.IntN(len(owners))], r.Uint64(), fmt.Sprintf("pod-%d", i), time.Now().Add(-time.Minute))
		p.UID = types.UID(fmt.Sprintf("pod-%d", i))
		p.Spec.NodeName = []string{"", "n1", "n2", "n3", "n4", "nowhere"}[r.IntN(6)]
		p.Status.Phase = []corev1.PodPhase{corev1.PodPending, corev1.PodPending, corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded}[r.IntN(5)]
		if p.Status.Phase == corev1.PodRunning {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		}
		if r.IntN(5) == 0 {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}
		w.put(p)
	}
}

// wantTidy fails the test if a Pod runs what nobody wants, or nobody owns one.
func (w *world) wantTidy(image string) {
	w.t.Helper()
	for _, p := range w.pods() {
		owner := metav1.GetControllerOf(p)
		row, ok := w.store.Get(state.Key{Kind: object.KindRevision, Namespace: p.Namespace, Name: owner.Name})
		if !ok || row.UID != string(owner.UID) {
			w.t.Errorf("pod %s has no owner", p.Name)
		}
		if got := p.Spec.Containers[0].Image; got != image {
			w.t.Errorf("pod %s runs %s, want %s", p.Name, got, image)
		}
	}
	for _, row := range w.store.List(object.KindRevision, "", "") {
		rev := decode[object.Revision](w, row)
		if owner := metav1.GetControllerOf(rev); owner.UID == "deploy-gone" {
			w.t.Errorf("revision %s has no owner", rev.Name)
		}
		pods := w.store.List(object.KindPod, "", object.OwnerIndex(row.UID))
		if int(rev.Status.Replicas) != len(pods) || rev.Status.AvailableReplicas != rev.Status.Replicas {
			w.t.Errorf("revision %s says %+v, and has %d Pods", rev.Name, rev.Status, len(pods))
		}
	}
}

// BenchmarkStep is what one change costs a Deployment of a thousand Pods: the
// store's, the model's and the plan's share.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int32{10, 100, 1000} {
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) {
			w := newWorld(b, "n1")
			w.put(&corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1"},
				Status: corev1.NodeStatus{
					Allocatable: corev1.ResourceList{corev1.ResourcePods: *resourcePods(2000)},
					Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				},
			})
			w.deploy("web", n, "web:v1")
			r := &reign{Config: w.lead.cfg, log: w.lead.log, store: w.store, model: newModel(w.lead.log, w.lead.cfg.Now), turn: make(chan struct{}, 1)}
			r.events = newRecorder(r)
			go func() { _ = r.model.follow(b.Context(), w.store) }()
			<-r.model.begun
			rollouts := &rollouts{reign: r, due: map[state.Key]due{}}
			for range 10 {
				if err := rollouts.do(b.Context()); err != nil && !strings.Contains(err.Error(), "look again") {
					b.Fatal(err)
				}
			}
			pods := w.store.List(object.KindPod, "", "")
			if len(pods) != int(n) {
				b.Fatalf("%d Pods, want %d", len(pods), n)
			}
			i := 0
			for b.Loop() {
				p, err := object.Decode[corev1.Pod](pods[i%len(pods)])
				if err != nil {
					b.Fatal(err)
				}
				p.Status.Message = fmt.Sprint(i)
				op, _ := object.Put(p, object.AnyVersion)
				index, err := w.Commit(b.Context(), &logv1.Txn{Ops: []*logv1.Op{op}})
				if err != nil {
					b.Fatal(err)
				}
				if err := r.model.reached(b.Context(), index); err != nil {
					b.Fatal(err)
				}
				_ = rollouts.do(b.Context())
				i++
			}
		})
	}
}
