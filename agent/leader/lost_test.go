package leader

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

func (w *world) bare(name, node string) {
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "bare"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "x"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	})
}

func TestPodsOfALostMachineRunElsewhereWithinASecondAndAHalf(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 6, "web:v1")
		w.deploy("api", 3, "api:v1")
		w.bare("alone", "n3")
		w.settle()
		began := time.Now()
		var verdict []*logv1.Txn
		w.look = func(txn *logv1.Txn) {
			for _, op := range txn.GetOps() {
				if op.GetKey().GetKind() == object.KindNode && strings.Contains(string(op.GetPut().GetBody()), object.ReasonNodeLost) {
					verdict = append(verdict, txn)
				}
			}
		}
		w.cut("n3")
		for w.on()["n3"] > 1 { // the bare one stays, as a failure
			time.Sleep(10 * time.Millisecond)
			if time.Since(began) > 1200*time.Millisecond {
				t.Fatalf("after 1.2 s Pods are on %v", w.on())
			}
		}
		t.Logf("replaced %s after the power went", time.Since(began))
		w.settle()
		if diff := cmp.Diff(map[string]int{"n1": 5, "n2": 4, "n3": 1}, level(w.on())); diff != "" {
			t.Errorf("Pods on nodes (-want +got):\n%s", diff)
		}
		w.wantComplete("web", 6)
		w.wantComplete("api", 3)
		if c := w.ready("n3"); c.Status != corev1.ConditionUnknown || c.Reason != object.ReasonNodeLost || !strings.Contains(c.Message, "missed its beats") {
			t.Errorf("condition of n3: %+v, want Unknown, %s and why", c, object.ReasonNodeLost)
		}
		alone, _ := w.store.Get(state.Key{Kind: object.KindPod, Namespace: "default", Name: "alone"})
		if p := decode[corev1.Pod](w, alone); p.Status.Phase != corev1.PodFailed || p.Status.Reason != object.ReasonNodeLost {
			t.Errorf("the bare Pod is %s (%s), want Failed (%s)", p.Status.Phase, p.Status.Reason, object.ReasonNodeLost)
		}
		if len(verdict) != 1 {
			t.Fatalf("%d transactions say that n3 is lost, want one", len(verdict))
		}
		placed := 0
		for _, op := range verdict[0].GetOps() {
			if op.GetKey().GetKind() == object.KindPod && op.GetExpect() == 0 && op.Expect != nil {
				for _, node := range []string{"n1", "n2"} {
					if slices.Contains(op.GetPut().GetIndex(), object.NodeIndex(node)) {
						placed++
					}
				}
			}
		}
		if placed != 3 {
			t.Errorf("the verdict's transaction places %d Pods, want the 3 that ran there", placed)
		}
		if got := w.events("web"); got["Replaced"] != 1 {
			t.Errorf("events about web: %v, want one Replaced", got)
		}
	})
}

// level swaps n1 and n2 so that n1 has no fewer: which has more is the lot's.
func level(on map[string]int) map[string]int {
	if on["n1"] < on["n2"] {
		on["n1"], on["n2"] = on["n2"], on["n1"]
	}
	return on
}

func TestAMachineThatIsBackGetsNewPods(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 3, "web:v1")
		w.settle()
		w.cut("n3")
		w.settle()
		w.restore("n3")
		w.settle()
		if c := w.ready("n3"); c.Status != corev1.ConditionTrue {
			t.Errorf("n3 is ready: %s (%s), want True", c.Status, c.Reason)
		}
		w.deploy("web", 6, "web:v1")
		w.settle()
		w.wantComplete("web", 6)
		if got := w.on()["n3"]; got < 2 {
			t.Errorf("%d Pods on n3, want at least 2", got)
		}
	})
}

func TestAnAgentThatIsBackInTimeFindsItsPods(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 6, "web:v1")
		w.settle()
		before := podNames(w)
		w.crash("n3")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if c := w.ready("n3"); c.Status != corev1.ConditionUnknown || c.Reason != object.ReasonAgentGone {
			t.Errorf("n3 is ready: %s (%s), want Unknown (%s)", c.Status, c.Reason, object.ReasonAgentGone)
		}
		w.deploy("api", 4, "api:v1") // nothing new goes there
		w.settle()
		if got := w.on()["n3"]; got != 2 {
			t.Errorf("%d Pods on n3, want the 2 from before", got)
		}
		w.restore("n3")
		w.remove(deployKey("api"))
		w.settle()
		time.Sleep(time.Minute)
		if c := w.ready("n3"); c.Status != corev1.ConditionTrue {
			t.Errorf("n3 is ready: %s (%s), want True", c.Status, c.Reason)
		}
		if diff := cmp.Diff(before, podNames(w)); diff != "" {
			t.Errorf("Pods moved (-before +after):\n%s", diff)
		}
	})
}

func TestAnAgentThatStaysAwayLosesItsPods(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 6, "web:v1")
		w.settle()
		w.crash("n3")
		time.Sleep(36 * time.Second)
		synctest.Wait()
		if got := w.on()["n3"]; got != 0 {
			t.Errorf("%d Pods on n3, want none", got)
		}
		w.wantComplete("web", 6)
	})
}

func podNames(w *world) []string {
	var names []string
	for _, p := range w.pods() {
		names = append(names, p.Name+" on "+p.Spec.NodeName)
	}
	return names
}

func TestALeaderWithoutQuorumJudgesNobody(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 3, "web:v1")
		w.settle()
		before := podNames(w)
		w.mu.Lock()
		w.deaf = true
		w.mu.Unlock()
		w.cut("n2")
		w.cut("n3")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff(before, podNames(w)); diff != "" {
			t.Errorf("Pods moved (-before +after):\n%s", diff)
		}
	})
}

func TestALeaderThatReachesNobodyMovesNothing(t *testing.T) {
	inWorld(t, []string{"n1", "n2", "n3", "n4", "n5"}, func(w *world) {
		w.deploy("web", 5, "web:v1")
		w.settle()
		before := podNames(w)
		for _, name := range []string{"n2", "n3", "n4", "n5"} {
			w.cut(name)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff(before, podNames(w)); diff != "" {
			t.Errorf("Pods moved (-before +after):\n%s", diff)
		}
	})
}

func TestNothingNewGoesToASuspect(t *testing.T) {
	inWorld(t, three, func(w *world) {
		r := w.lead.now
		r.model.doubt("n3", true)
		w.deploy("web", 4, "web:v1")
		w.settle()
		if diff := cmp.Diff(map[string]int{"n1": 2, "n2": 2}, w.on()); diff != "" {
			t.Errorf("Pods on nodes (-want +got):\n%s", diff)
		}
		r.model.doubt("n3", false)
		w.deploy("web", 6, "web:v1")
		w.settle()
		if got := w.on()["n3"]; got != 2 {
			t.Errorf("%d Pods on n3, want 2", got)
		}
	})
}

func TestPodsOfARemovedNodeAreReplaced(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 3, "web:v1")
		w.settle()
		w.machines["n3"].end()
		w.remove(state.Key{Kind: object.KindNode, Name: "n3"})
		w.settle()
		w.wantComplete("web", 3)
		if got := w.on()["n3"]; got != 0 {
			t.Errorf("%d Pods on n3, want none", got)
		}
	})
}

// A new leader goes on from whatever its predecessor left, at any moment.
func TestANewLeaderGoesOn(t *testing.T) {
	for after := time.Duration(0); after < 900*time.Millisecond; after += 45 * time.Millisecond {
		t.Run(after.String(), func(t *testing.T) {
			inWorld(t, []string{"n1", "n2", "n3", "n4"}, func(w *world) {
				w.deploy("web", 8, "web:v1", rolling(2, 1))
				w.settle()
				w.inStep(10, 0)
				w.cut("n4")
				time.Sleep(300 * time.Millisecond)
				w.deploy("web", 8, "web:v2", rolling(2, 1))
				time.Sleep(after)
				w.resign()
				time.Sleep(700 * time.Millisecond)
				w.begin()
				time.Sleep(15 * time.Second)
				synctest.Wait()
				w.wantComplete("web", 8)
				if got := w.on(); got["n4"] != 0 {
					t.Errorf("Pods on %v, want none on n4", got)
				}
			})
		})
	}
}

// The leader's own machine died: whoever leads next judges it and moves its
// Pods.
func TestTheNextLeaderJudgesTheLast(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 6, "web:v1")
		w.settle()
		w.resign()
		old := w.lead
		w.lead = New(old.cfg)
		w.lead.cfg.Name, w.self = "n2", "n2"
		w.lead.StreamOpened("n3")
		w.lead.StreamOpened("n2")
		w.cut("n1")
		time.Sleep(700 * time.Millisecond)
		began := time.Now()
		w.begin()
		for w.on()["n1"] > 0 {
			time.Sleep(10 * time.Millisecond)
			if time.Since(began) > 2300*time.Millisecond {
				t.Fatalf("2.3 s after the election Pods are on %v", w.on())
			}
		}
		w.settle()
		w.wantComplete("web", 6)
	})
}

func TestManyPodsOfALostNodeAreReplacedInPieces(t *testing.T) {
	inWorld(t, three, func(w *world) {
		for _, row := range w.store.List(object.KindNode, "", "") {
			n := decode[corev1.Node](w, row)
			n.Status.Allocatable[corev1.ResourcePods] = *resourcePods(2000)
			w.put(n)
		}
		for i := range 12 {
			w.deploy(fmt.Sprintf("web-%d", i), 75, "web:v1")
		}
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if got := w.on(); got["n3"] != 300 {
			t.Fatalf("Pods on %v, want 300 on n3", got)
		}
		w.cut("n3")
		w.settle()
		if got := w.on(); got["n3"] != 0 || got[""] != 0 || got["n1"]+got["n2"] != 900 {
			t.Errorf("Pods on %v, want 900 on n1 and n2", got)
		}
	})
}

func TestVotersFollowTheNodes(t *testing.T) {
	inWorld(t, three, func(w *world) {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.voters(); got != "n1 n2 n3" {
			t.Fatalf("voters %q, want all three", got)
		}
		if len(w.prepared) != 2 {
			t.Errorf("prepared %v, want n2 and n3, once each", w.prepared)
		}
		w.join("n4")
		time.Sleep(10 * time.Second)
		if got := w.voters(); got != "n1 n2 n3" {
			t.Errorf("voters %q with a fourth node, want three", got)
		}
		w.cut("n2")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.voters(); got != "n1 n3 n4" {
			t.Errorf("voters %q after n2 died, want n4 in its place", got)
		}
		w.restore("n2")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		members, _, _ := w.Members()
		if diff := cmp.Diff([]consensus.Member{{Name: "n1", Voter: true}, {Name: "n3", Voter: true}, {Name: "n4", Voter: true}}, members); diff != "" {
			t.Errorf("members after n2 is back (-want +got):\n%s", diff)
		}
	})
}

func TestALeaderThatWasSaidToBeLostIsReadyAgain(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.resign()
		row, _ := w.store.Get(state.Key{Kind: object.KindNode, Name: "n1"})
		op, _, err := readiness(row, corev1.ConditionUnknown, object.ReasonNodeLost, "was said before", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(w.ctx, &logv1.Txn{Ops: []*logv1.Op{op}}); err != nil {
			t.Fatal(err)
		}
		w.begin()
		w.settle()
		if c := w.ready("n1"); c.Status != corev1.ConditionTrue {
			t.Errorf("n1, which leads, is ready: %s (%s), want True", c.Status, c.Reason)
		}
	})
}

func TestALeaderWaitsForTheFirstKeyOfANewCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "n1")
		w.begin()
		time.Sleep(10 * time.Second)
		if rows := w.store.List(object.KindKeyring, "", ""); len(rows) > 0 {
			t.Error("a keyring was made before the cluster was")
		}
		w.join("n1")
		w.settle()
		if got := len(w.keys()); got != 1 {
			t.Errorf("%d keys, want 1", got)
		}
		w.end()
	})
}
