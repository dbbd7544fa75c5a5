package place

import "testing"

// on chooses a node for one Pod that runs these images.
func on(v *View, images ...string) string {
	return Choose(v, []Pod{{Key: "default/x", Shape: &Shape{CPU: 100, Images: images}}})[0].Node
}

func holding(images ...string) func(*Node) { return func(n *Node) { n.Images = images } }

func TestLayersDrawPods(t *testing.T) {
	const mib = 1 << 20
	base, big, small := Layer{"base", 200 * mib}, Layer{"big", 300 * mib}, Layer{"small", mib}
	v1 := Image{Name: "web:v1", Digest: "d1", Layers: []Layer{base, small}}
	v2 := Image{Name: "web:v2", Digest: "d2", Layers: []Layer{base, big}}
	other := Image{Name: "job:v1", Digest: "d3", Layers: []Layer{big, small}}

	v := view(machine("a", holding("job:v1", "d3")), machine("b", holding("web:v1", "d1")), machine("c"))
	for _, img := range []Image{v1, v2, other} {
		v.PutImage(img)
	}
	// a has 300 MiB of v2, b has 200.
	if got := on(v, "web:v2"); got != "a" {
		t.Errorf("the larger layer is on a, the Pod on %s", got)
	}
	if got := on(v, "web:v2", "web:v1"); got != "b" {
		t.Errorf("of both, b lacks 300 MiB and a 400, the Pod is on %s", got)
	}
	// b takes v2 in, but by its name alone that is what the name meant before.
	v.PutNode(machine("b", holding("web:v2", "old")))
	if got := on(v, "web:v2"); got != "a" {
		t.Errorf("b holds what the name meant before, the Pod is on %s", got)
	}
	v.PutNode(machine("c", holding("web:v2", "d2")))
	if got := on(v, "web:v2"); got != "c" {
		t.Errorf("c holds it, the Pod is on %s", got)
	}
	// Without its layers, an image counts for those that say they hold it.
	v.PutNode(machine("c"))
	v.RemoveImage("web:v2")
	if got := on(v, "web:v2"); got != "b" {
		t.Errorf("only b names it, the Pod is on %s", got)
	}
	v.RemoveNode("b")
	v.PutImage(v2)
	if got := on(v, "web:v2"); got != "a" {
		t.Errorf("what it is made of is known again, the Pod is on %s", got)
	}
}

func TestSizeStepsGrow(t *testing.T) {
	last := uint8(0)
	for _, bytes := range []int64{1, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 6 << 20, unknownSize, 96 << 20, 2 * unknownSize, 3 * unknownSize, 1 << 30, 1 << 34} {
		step := sizeStep(bytes)
		if step <= last {
			t.Errorf("%d bytes are step %d, less are %d", bytes, step, last)
		}
		last = step
	}
	if sizeStep(0) != 0 || sizeStep(1<<60) != 31 {
		t.Errorf("%d and %d at the ends", sizeStep(0), sizeStep(1<<60))
	}
}
