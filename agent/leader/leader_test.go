package leader

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

var three = []string{"n1", "n2", "n3"}

func TestNewNodesBecomeReadyOnceTheyAreHeard(t *testing.T) {
	inWorld(t, three, func(w *world) {
		for _, name := range three {
			if c := w.ready(name); c.Status != corev1.ConditionTrue {
				t.Errorf("node %s is ready: %q (%s), want True", name, c.Status, c.Reason)
			}
		}
	})
}

func TestDeploymentBecomesPodsSpreadOverNodes(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 6, "web:v1")
		w.settle()
		w.wantComplete("web", 6)
		if diff := cmp.Diff(map[string]int{"n1": 2, "n2": 2, "n3": 2}, w.on()); diff != "" {
			t.Errorf("Pods on nodes (-want +got):\n%s", diff)
		}
		for _, p := range w.pods() {
			owner := metav1.GetControllerOf(p)
			if owner == nil || owner.Kind != object.KindRevision || !strings.HasPrefix(p.Name, owner.Name+"-") {
				t.Errorf("pod %s is owned by %v, want its Revision", p.Name, owner)
			}
			if p.Labels["app"] != "web" || p.Labels[object.LabelTemplateHash] == "" {
				t.Errorf("pod %s has labels %v", p.Name, p.Labels)
			}
		}
		d := w.deployment("web")
		for _, c := range d.Status.Conditions {
			if c.Status != corev1.ConditionTrue {
				t.Errorf("condition %s is %s (%s), want True", c.Type, c.Status, c.Reason)
			}
		}
		if d.Annotations[object.AnnotationRevision] != "1" {
			t.Errorf("revision %q, want 1", d.Annotations[object.AnnotationRevision])
		}
		if got := w.events("web"); got["ScaledUp"] == 0 || got["NewRevision"] != 1 {
			t.Errorf("events about web: %v, want ScaledUp and one NewRevision", got)
		}
	})
}

func TestNewPodsArePlacedInTheTransactionThatMakesThem(t *testing.T) {
	inWorld(t, three, func(w *world) {
		var made, waiting int
		w.look = func(txn *logv1.Txn) {
			for _, op := range txn.GetOps() {
				if op.GetKey().GetKind() == object.KindPod && op.GetPut() != nil && op.GetExpect() == 0 {
					made++
					if strings.Contains(strings.Join(op.GetPut().GetIndex(), " ")+" ", object.NodeIndex("")+" ") {
						waiting++
					}
				}
			}
		}
		w.deploy("web", 3, "web:v1")
		w.settle()
		if made != 3 || waiting != 0 {
			t.Errorf("%d Pods made, %d of them without a node; want 3 and 0", made, waiting)
		}
	})
}

func TestDeploymentScales(t *testing.T) {
	inWorld(t, three, func(w *world) {
		for _, replicas := range []int32{2, 7, 3, 0, 4} {
			w.deploy("web", replicas, "web:v1")
			w.settle()
			w.wantComplete("web", replicas)
			if got := len(w.pods()); got != int(replicas) {
				t.Errorf("%d Pods after scaling to %d", got, replicas)
			}
		}
		if got := len(w.store.List(object.KindRevision, "", "")); got != 1 {
			t.Errorf("%d revisions after scaling alone, want 1", got)
		}
	})
}

// inStep fails the test when there are ever more Pods than replicas and surge,
// or fewer ready ones than replicas allow.
func (w *world) inStep(most, least int) {
	w.look = func(*logv1.Txn) {
		active, ready := 0, 0
		for _, row := range w.store.List(object.KindPod, "default", "") {
			p := decode[corev1.Pod](w, row)
			if p.DeletionTimestamp != nil {
				continue
			}
			active++
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if active > most || ready < least {
			w.t.Errorf("%d Pods of which %d ready, want at most %d and at least %d", active, ready, most, least)
		}
	}
}

func rolling(surge, unavailable int) func(*appsv1.Deployment) {
	s, u := intstr.FromInt32(int32(surge)), intstr.FromInt32(int32(unavailable))
	return func(d *appsv1.Deployment) {
		d.Spec.Strategy = appsv1.DeploymentStrategy{
			Type:          appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
		}
	}
}

func TestRollingUpdateKeepsWithinItsBounds(t *testing.T) {
	for _, tt := range []struct{ surge, unavailable int }{{1, 0}, {0, 1}, {2, 2}, {5, 0}, {0, 5}} {
		t.Run(fmt.Sprintf("surge %d, unavailable %d", tt.surge, tt.unavailable), func(t *testing.T) {
			inWorld(t, three, func(w *world) {
				w.deploy("web", 5, "web:v1", rolling(tt.surge, tt.unavailable))
				w.settle()
				w.inStep(5+tt.surge, 5-tt.unavailable)
				w.deploy("web", 5, "web:v2", rolling(tt.surge, tt.unavailable))
				time.Sleep(10 * time.Second)
				synctest.Wait()
				w.wantComplete("web", 5)
				for _, p := range w.pods() {
					if got := p.Spec.Containers[0].Image; got != "web:v2" {
						t.Errorf("pod %s runs %s, want web:v2", p.Name, got)
					}
				}
			})
		})
	}
}

func TestABadVersionLeavesTheOldOneAvailable(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 4, "web:v1", rolling(1, 0))
		w.settle()
		w.inStep(5, 4)
		w.deploy("web", 4, "web:bad", rolling(1, 0))
		time.Sleep(time.Minute)
		synctest.Wait()
		s := w.deployment("web").Status
		if s.AvailableReplicas != 4 || s.UpdatedReplicas != 1 {
			t.Errorf("%d available and %d updated, want 4 and 1", s.AvailableReplicas, s.UpdatedReplicas)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if c := conditionOf(w.deployment("web").Status.Conditions, appsv1.DeploymentProgressing); c.Reason != reasonTooSlow {
			t.Errorf("after eleven minutes progress is %s since %s (now %s), want %s", c.Reason, c.LastUpdateTime, time.Now(), reasonTooSlow)
		}
		w.deploy("web", 4, "web:v1", rolling(1, 0)) // back again
		w.settle()
		w.wantComplete("web", 4)
		if got := w.deployment("web").Annotations[object.AnnotationRevision]; got != "3" {
			t.Errorf("going back is revision %s, want 3", got)
		}
		if got := len(w.store.List(object.KindRevision, "", "")); got != 2 {
			t.Errorf("%d revisions, want 2", got)
		}
	})
}

func TestRecreateHasNoTwoVersionsAtOnce(t *testing.T) {
	recreate := func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }
	inWorld(t, three, func(w *world) {
		w.deploy("web", 3, "web:v1", recreate)
		w.settle()
		w.look = func(*logv1.Txn) {
			images := map[string]bool{}
			for _, row := range w.store.List(object.KindPod, "default", "") {
				images[decode[corev1.Pod](w, row).Spec.Containers[0].Image] = true
			}
			if len(images) > 1 {
				t.Errorf("images %v at once", images)
			}
		}
		w.deploy("web", 3, "web:v2", recreate)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.wantComplete("web", 3)
	})
}

func TestMinReadySecondsDelaysAvailability(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 2, "web:v1", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 20 })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := w.deployment("web").Status; s.ReadyReplicas != 2 || s.AvailableReplicas != 0 {
			t.Errorf("after 10 s %d ready and %d available, want 2 and 0", s.ReadyReplicas, s.AvailableReplicas)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		w.wantComplete("web", 2)
	})
}

func TestPodsThatEndOrGoAreReplaced(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 3, "web:v1")
		w.settle()
		time.Sleep(failedStay)
		pods := w.pods()
		pods[0].Status.Phase = corev1.PodFailed
		w.put(pods[0])
		w.remove(object.KeyOf(pods[1]))
		now := metav1.Now()
		pods[2].DeletionTimestamp = &now
		w.put(pods[2])
		w.settle()
		w.wantComplete("web", 3)
		for _, p := range w.pods() {
			for _, old := range pods {
				if p.Name == old.Name {
					t.Errorf("pod %s is still there", p.Name)
				}
			}
		}
	})
}

func TestAPodThatFailsAtOnceIsNotMadeAgainAtOnce(t *testing.T) {
	inWorld(t, three, func(w *world) {
		made := 0
		w.look = func(txn *logv1.Txn) {
			for _, op := range txn.GetOps() {
				if op.GetKey().GetKind() == object.KindPod && op.GetPut() != nil && op.Expect != nil && op.GetExpect() == 0 {
					made++
				}
			}
		}
		for _, name := range three { // nobody runs Pods but the test
			w.machines[name].end()
		}
		w.deploy("web", 1, "web:v1")
		for range 60 {
			time.Sleep(500 * time.Millisecond)
			for _, p := range w.pods() {
				if p.Status.Phase != corev1.PodFailed {
					p.Status.Phase = corev1.PodFailed
					w.put(p)
				}
			}
		}
		if made < 2 || made > 4 {
			t.Errorf("made %d Pods in 30 s of failing at once, want about 3", made)
		}
	})
}

func TestPodsThatFitNowhereSaySoAndAreBoundOnceTheyDo(t *testing.T) {
	inWorld(t, three, func(w *world) {
		big := func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("6Gi")}
		}
		w.deploy("web", 4, "web:v1", big)
		w.settle()
		var refused *corev1.Pod
		for _, p := range w.pods() {
			if p.Spec.NodeName == "" {
				refused = p
			}
		}
		if refused == nil || len(w.pods()) != 4 {
			t.Fatalf("Pods on %v, want one unplaced", w.on())
		}
		c := refused.Status.Conditions[0]
		want := "0/3 nodes fit: 3 too little memory (needs 6Gi, most free 2Gi on n1); a request of 2Gi memory would fit on n1"
		if c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse || c.Reason != corev1.PodReasonUnschedulable || c.Message != want {
			t.Errorf("condition %+v, want message %q", c, want)
		}
		before := len(w.txns)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(w.txns) - before; n > 2 {
			t.Errorf("%d transactions in a minute in which nothing happened", n)
		}
		if got := w.events(refused.Name)["FailedScheduling"]; got != 1 {
			t.Errorf("told %d times that it does not fit, want once", got)
		}
		w.join("n4")
		w.settle()
		w.wantComplete("web", 4)
	})
}

func TestBarePodsArePlaced(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.put(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "default", UID: "one", CreationTimestamp: metav1.Now()},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "x"}}, NodeSelector: map[string]string{"disk": "ssd"}},
			Status:     corev1.PodStatus{Phase: corev1.PodPending},
		})
		w.settle()
		if got := w.on(); got[""] != 1 {
			t.Fatalf("Pods on %v, want one that waits", got)
		}
		w.join("n4", func(n *corev1.Node) { n.Labels["disk"] = "ssd" })
		w.settle()
		if got := w.on(); got["n4"] != 1 {
			t.Errorf("Pods on %v, want one on n4", got)
		}
	})
}

func TestAThousandReplicasTakeFewTransactions(t *testing.T) {
	var nodes []string
	for i := range 20 {
		nodes = append(nodes, fmt.Sprintf("n%02d", i))
	}
	inWorld(t, nodes, func(w *world) {
		for _, name := range nodes { // the machines would add theirs
			w.machines[name].end()
		}
		before := len(w.txns)
		w.deploy("web", 1000, "web:v1")
		w.settle()
		if got := len(w.pods()); got != 1000 {
			t.Fatalf("%d Pods, want 1000", got)
		}
		for name, n := range w.on() {
			if n != 50 {
				t.Errorf("%d Pods on %q, want 50", n, name)
			}
		}
		if n := len(w.txns) - before; n > 30 {
			t.Errorf("a thousand Pods took %d transactions", n)
		}
	})
}

func TestDeletingADeploymentRemovesAllOfIt(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 5, "web:v1")
		w.deploy("api", 2, "api:v1")
		w.settle()
		w.remove(deployKey("web"))
		w.settle()
		if got := len(w.pods()); got != 2 {
			t.Errorf("%d Pods left, want the 2 of api", got)
		}
		if got := len(w.store.List(object.KindRevision, "", "")); got != 1 {
			t.Errorf("%d revisions left, want that of api", got)
		}
		w.wantComplete("api", 2)
	})
}

func TestPodsToGoThatRunNowhereGo(t *testing.T) {
	inWorld(t, three, func(w *world) {
		now := metav1.Now()
		w.put(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "default", UID: "one", DeletionTimestamp: &now},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "x"}}},
		})
		w.settle()
		if got := len(w.pods()); got != 0 {
			t.Errorf("%d Pods, want none", got)
		}
	})
}

func TestANamespaceGoesWithAllThatIsInIt(t *testing.T) {
	inWorld(t, three, func(w *world) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", UID: "shop"}}
		w.put(ns)
		w.deploy("web", 2, "web:v1")
		d := w.deployment("web")
		d.Namespace, d.UID, d.Status = "shop", "shop-web", appsv1.DeploymentStatus{}
		w.put(d)
		w.settle()
		if got := len(w.store.List(object.KindPod, "shop", "")); got != 2 {
			t.Fatalf("%d Pods in the namespace, want 2", got)
		}
		now := metav1.Now()
		ns.DeletionTimestamp = &now
		w.put(ns)
		w.settle()
		if left := w.store.List(state.AllKinds, "shop", ""); len(left) > 0 {
			t.Errorf("left in the namespace: %v", left[0].Key)
		}
		if _, ok := w.store.Get(state.Key{Kind: object.KindNamespace, Name: "shop"}); ok {
			t.Error("the namespace is still there")
		}
		w.wantComplete("web", 2)
	})
}
