package pull

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestAHintSaysYesToAllThatIsThereAndSeldomElse(t *testing.T) {
	const most = 640
	for _, n := range []int{1, 5, 40, 200, 500} {
		var have []string
		for i := range n {
			have = append(have, fmt.Sprintf("sha256:%064x", i*7919))
		}
		h := Hint(have, most)
		if want := 2 + n*hintBits/8; len(h) > want || len(h) > most {
			t.Errorf("the hint of %d blobs is of %d bytes, want at most %d", n, len(h), min(want, most))
		}
		for _, d := range have {
			if !Hinted(h, d) {
				t.Fatalf("the hint of %d blobs says no to %s", n, d)
			}
		}
		wrong := 0
		const tries = 10_000
		for i := range tries {
			if Hinted(h, fmt.Sprintf("sha256:%064x", i+1<<40)) {
				wrong++
			}
		}
		if wrong > tries*3/100 {
			t.Errorf("the hint of %d blobs says yes to %d of %d others", n, wrong, tries)
		}
	}
}

func TestHintsOfAnyBytes(t *testing.T) {
	for _, h := range [][]byte{nil, {}, {hintForm}, {9, 255, 255}} {
		if Hinted(h, "sha256:0") {
			t.Errorf("%v says yes", h)
		}
	}
	if h := Hint(nil, 100); h != nil {
		t.Errorf("the hint of nothing is %v", h)
	}
	// One that lies says yes to all, or no.
	if !Hinted([]byte{hintForm, 255}, "x") || Hinted([]byte{hintForm, 0}, "x") {
		t.Error("a filter that is full or empty says otherwise")
	}
}

func FuzzHinted(f *testing.F) {
	f.Add([]byte{hintForm, 1, 2, 3}, "sha256:0")
	f.Fuzz(func(t *testing.T, hint []byte, digest string) {
		_ = Hinted(hint, digest)
		if h := Hint([]string{digest}, len(hint)); len(h) > len(hint) || len(h) > 0 && !Hinted(h, digest) {
			t.Fatalf("hint %v of %q", h, digest)
		}
	})
}

// A hint finds a blob that no desk and no image's name knows of, whatever others
// pretend, and the registry being down.
func TestAHintIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 12)
		w.machines["n7"].data = w.blob
		for name, m := range w.machines {
			m.hint = name != "n1"
		}
		m := w.machines["n1"]
		if from, err := m.fetch(NewSource(m, nil, nil)); err != nil || !slices.Equal(from, []string{"n7"}) {
			t.Errorf("without a registry it came from %v, %v, want n7", from, err)
		}
		// With one, liars cost a few questions, and no more than that.
		m = w.machines["n2"]
		began := time.Now()
		if _, err := m.fetch(NewSource(m, &registry{w: w}, nil)); err != nil || time.Since(began) > 4*time.Second {
			t.Errorf("with a registry: %v after %v", err, time.Since(began))
		}
	})
}
