package leader

import (
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/lease"
	"github.com/skein-dev/skein/agent/object"
)

func exclusive(d *appsv1.Deployment) {
	d.Spec.Template.Annotations = map[string]string{object.AnnotationExclusive: "true"}
}

// one returns the only Pod there is, whatever becomes of it.
func (w *world) one() *corev1.Pod {
	w.t.Helper()
	pods := w.pods()
	if len(pods) != 1 {
		w.t.Fatalf("%d Pods, want 1", len(pods))
	}
	return pods[0]
}

// away makes the exclusive Pod run on a machine that can be cut off.
func (w *world) away() *corev1.Pod {
	w.t.Helper()
	w.deploy("writer", 1, "writer:v1", exclusive, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.NodeSelector = nil
	})
	w.settle()
	for n := 2; w.one().Spec.NodeName == w.self; n++ {
		w.deploy("writer", 1, "writer:v"+string(rune('0'+n)), exclusive)
		w.settle()
	}
	return w.one()
}

func (w *world) grant(p *corev1.Pod) {
	w.t.Helper()
	got, err := w.lead.Lease(w.ctx, p.Spec.NodeName, []string{string(p.UID), "nobody's"})
	if err != nil || len(got) != 1 || got[0] != string(p.UID) {
		w.t.Fatalf("granted %v, %v; want %s alone", got, err, p.UID)
	}
}

// moved waits for another Pod to take the place of an old one, and fails if there
// are ever two.
func (w *world) moved(old *corev1.Pod, within time.Duration) time.Duration {
	w.t.Helper()
	for begin := time.Now(); time.Since(begin) < within; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if p := w.pods(); len(p) > 1 {
			w.t.Fatalf("%d Pods after %v", len(p), time.Since(begin))
		} else if len(p) == 1 && p[0].UID != old.UID {
			return time.Since(begin)
		}
	}
	w.t.Fatalf("nothing took its place in %v", within)
	return 0
}

func TestAnExclusivePodIsReplacedWhenItsLeaseHasRunOut(t *testing.T) {
	inWorld(t, three, func(w *world) {
		p := w.away()
		time.Sleep(lease.Wait) // this leader's own first wait
		w.grant(p)
		w.cut(p.Spec.NodeName)
		time.Sleep(5 * time.Second)
		held := w.one()
		if held.UID != p.UID || held.DeletionTimestamp == nil || held.Status.Reason != object.ReasonLeaseHeld {
			t.Errorf("after 5 s: %s, deleted %v, %q: want it held for its lease", held.UID, held.DeletionTimestamp, held.Status.Reason)
		}
		if took := w.moved(p, time.Minute) + 5*time.Second; took < lease.Wait || took > lease.Wait+time.Second {
			t.Errorf("replaced %v after its last lease, want %v", took, lease.Wait)
		}
		if got, err := w.lead.Lease(w.ctx, p.Spec.NodeName, []string{string(p.UID)}); len(got) > 0 {
			t.Errorf("granted again after it was given away: %v, %v", got, err)
		}
	})
}

func TestANewLeaderWaitsForLeasesThatItDoesNotKnow(t *testing.T) {
	inWorld(t, three, func(w *world) {
		p := w.away()
		time.Sleep(lease.Wait)
		w.grant(p)
		w.cut(p.Spec.NodeName)
		time.Sleep(6 * time.Second)
		w.resign()
		w.begin()
		if took := w.moved(p, time.Minute); took < lease.Wait || took > lease.Wait+3*time.Second {
			t.Errorf("a new leader replaced it after %v, want %v", took, lease.Wait)
		}
	})
}

func TestNoLeaseWithoutAQuorum(t *testing.T) {
	inWorld(t, three, func(w *world) {
		p := w.away()
		w.mu.Lock()
		w.deaf = true
		w.mu.Unlock()
		if got, err := w.lead.Lease(w.ctx, p.Spec.NodeName, []string{string(p.UID)}); err == nil {
			t.Errorf("granted %v, though no quorum follows", got)
		}
		w.mu.Lock()
		w.deaf = false
		w.mu.Unlock()
		if got, err := w.lead.Lease(w.ctx, w.self, []string{string(p.UID)}); err != nil || len(got) > 0 {
			t.Errorf("another node was granted %v, %v", got, err)
		}
	})
}

func TestAnExclusivePodIsRolledOutOnlyWhenTheOldOneIsGone(t *testing.T) {
	inWorld(t, three, func(w *world) {
		p := w.away()
		w.deploy("writer", 1, "writer:new", exclusive)
		if took := w.moved(p, 10*time.Second); took < 200*time.Millisecond {
			t.Errorf("replaced after %v, before its machine could say that it was gone", took)
		}
		// Made again under its name, a Deployment is in the same slot.
		p = w.one()
		w.remove(deployKey("writer"))
		d := "writer"
		w.deploy(d, 1, "writer:other", exclusive, func(d *appsv1.Deployment) { d.UID = "deploy-again" })
		w.moved(p, 10*time.Second)
	})
}
