package leader

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestMoreThanTwoNodesWorthOfPodsMoveInOrder loses three of seven nodes that are
// full: what two of them ran is replaced at once, the rest as the budget allows,
// and somebody says why.
func TestMoreThanTwoNodesWorthOfPodsMoveInOrder(t *testing.T) {
	names := []string{"n1", "n2", "n3", "n4", "n5", "n6", "n7"}
	inWorld(t, names, func(w *world) {
		w.deploy("web", 400, "web:v1")
		w.settle()
		before := w.on()
		w.cut("n5")
		w.cut("n6")
		w.cut("n7")
		time.Sleep(10 * time.Second)
		left := w.on()["n5"] + w.on()["n6"] + w.on()["n7"]
		if left == 0 || left > before["n7"] {
			t.Errorf("after 10 s %d Pods wait on lost nodes, want some, and no more than one node's %d", left, before["n7"])
		}
		brakes := w.lead.Brakes()
		if len(brakes) != 1 || brakes[0].Name != brakeMoves || !strings.Contains(brakes[0].Why, fmt.Sprintf("%d Pods of lost nodes wait", left)) {
			t.Errorf("brakes: %+v, want one on moves for %d Pods", brakes, left)
		}
		time.Sleep(time.Minute)
		w.settle()
		if on := w.on(); on["n5"]+on["n6"]+on["n7"] > 0 {
			t.Errorf("a minute later Pods are still on lost nodes: %v", on)
		}
		if brakes := w.lead.Brakes(); len(brakes) > 0 {
			t.Errorf("all is moved, and a brake is held: %+v", brakes)
		}
		w.wantComplete("web", 400)
		if got := w.events("n1")["MovesSlowed"]; got != 1 {
			t.Errorf("told %d times that moves wait, want once", got)
		}
	})
}

// TestTheLossOfTwoFullNodesIsNotHeldUp shows that the budget is never felt by
// an ordinary loss.
func TestTheLossOfTwoFullNodesIsNotHeldUp(t *testing.T) {
	inWorld(t, []string{"n1", "n2", "n3", "n4", "n5"}, func(w *world) {
		w.deploy("web", 300, "web:v1")
		w.settle()
		w.cut("n4")
		w.cut("n5")
		time.Sleep(5 * time.Second)
		if on := w.on(); on["n4"]+on["n5"] > 0 {
			t.Errorf("after 5 s Pods are on %v, want none on what is lost", on)
		}
		if got := w.lead.Brakes(); len(got) > 0 {
			t.Errorf("a brake is held: %+v", got)
		}
	})
}

// TestANodeThatComesAndGoesGetsNothingNew cuts one node off again and again.
func TestANodeThatComesAndGoesGetsNothingNew(t *testing.T) {
	inWorld(t, []string{"n1", "n2", "n3", "n4", "n5"}, func(w *world) {
		w.settle()
		for range 3 {
			w.cut("n5")
			time.Sleep(4 * time.Second)
			w.restore("n5")
			time.Sleep(4 * time.Second)
		}
		brakes := w.lead.Brakes()
		if len(brakes) != 1 || brakes[0].Name != brakeNode || brakes[0].Node != "n5" {
			t.Fatalf("brakes: %+v, want one on n5", brakes)
		}
		w.deploy("web", 10, "web:v1")
		w.settle()
		if on := w.on(); on["n5"] > 0 {
			t.Errorf("Pods are on %v, want none on n5", on)
		}
		w.wantComplete("web", 10)
		time.Sleep(5*time.Minute + time.Second)
		w.deploy("api", 10, "api:v1")
		w.settle()
		if on := w.on(); on["n5"] == 0 {
			t.Errorf("Pods are on %v, want some on n5 again", on)
		}
		if got := w.lead.Brakes(); len(got) > 0 {
			t.Errorf("brakes: %+v, want none", got)
		}
		if got := w.events("n5")["ComesAndGoes"]; got == 0 {
			t.Error("nobody said so of n5")
		}
	})
}
