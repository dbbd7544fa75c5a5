package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container/containertest"
	"github.com/skein-dev/skein/runtime/image"
)

func TestNextToGo(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	img := func(name string, ago time.Duration) image.Image {
		return image.Image{References: []string{name}, Digest: "sha256:" + name, Used: now.Add(-ago)}
	}
	const day = 24 * time.Hour
	held := []image.Image{img("new", time.Minute), img("day", day), img("week", 7*day), img("old", 31*day), img("older", 60*day)}
	tests := map[string]struct {
		used, sole []string
		full       bool
		maxAge     time.Duration
		want       string
	}{
		"the oldest goes first":           {want: "older"},
		"not what a Pod names":            {used: []string{"older"}, want: "old"},
		"not what a container runs on":    {used: []string{"sha256:older"}, want: "old"},
		"not the only copy":               {sole: []string{"sha256:older"}, want: "old"},
		"the young stay":                  {used: []string{"older", "old"}},
		"but not on a full disk":          {used: []string{"older", "old"}, full: true, want: "week"},
		"what was just used stays always": {used: []string{"older", "old", "week", "day"}, full: true},
		"for ever":                        {maxAge: -1},
		"for ever, if there is room":      {maxAge: -1, full: true, want: "older"},
	}
	for what, tt := range tests {
		used := map[string]bool{}
		for _, u := range tt.used {
			used[u] = true
		}
		r := Reclaim{MaxAge: tt.maxAge}.withDefaults()
		got, ok := nextToGo(held, used, func(d string) bool { return slices.Contains(tt.sole, d) }, tt.full, r, now)
		if name := strings.Join(got.References, " "); name != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: got %q, %v, want %q", what, name, ok, tt.want)
		}
	}
}

func TestAnImageThatDoesNotFitMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		w.absent["big"] = &PullError{Reason: "ErrImagePull", Err: &image.SpaceError{Need: 1 << 30}}
		s := &shelf{}
		s.add("one", w.now().Add(-2*time.Hour))
		s.add("two", w.now().Add(-time.Hour))
		n := w.newNode()
		n.cfg.Holdings = s
		defer w.runNode(n)()
		w.putObject(newPod("a", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "big" }))
		pass(500 * time.Millisecond)
		if !slices.Equal(s.given(), []string{"one"}) {
			t.Errorf("given up: %v, want the one that was used least recently", s.given())
		}
	})
}

// A shelf is a disk with images, ten to fill it.
type shelf struct {
	mu     sync.Mutex
	images []image.Image
	slow   int // looks at the disk until what was given up is gone from it
	left   int
	gone   []string
}

func (s *shelf) add(name string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = append(s.images, image.Image{References: []string{name}, Digest: "sha256:" + name, Used: at})
}

func (s *shelf) Held(context.Context) ([]image.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.images), nil
}

func (s *shelf) Forget(_ context.Context, img image.Image) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = slices.DeleteFunc(s.images, func(i image.Image) bool { return i.Digest == img.Digest })
	s.gone = append(s.gone, img.References...)
	s.left = s.slow
	return nil
}

// given lists what was given up.
func (s *shelf) given() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gone)
}

func (s *shelf) Sole(digest string) bool { return digest == "sha256:imported" }

func (s *shelf) DiskUsed() (float64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.images)
	if s.left > 0 {
		s.left--
		n++
	}
	return float64(n) / 10, nil
}

func TestAFullDiskGivesUpImages(t *testing.T) {
	for _, slow := range []int{0, 3} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, containertest.RunForever)
			s := &shelf{slow: slow}
			s.add("imported", w.now().Add(-time.Hour))
			s.add("web", w.now().Add(-time.Hour))
			for i := range 7 {
				s.add(fmt.Sprint("i", i), w.now().Add(time.Duration(i-30)*time.Minute))
			}
			n := w.newNode()
			n.cfg.Holdings, n.cfg.Reclaim = s, Reclaim{High: 0.85, Low: 0.65}.withDefaults()
			defer w.runNode(n)()
			w.putObject(newPod("a")) // of the image "web"
			pass(2 * time.Minute)
			if want := []string{"i0", "i1", "i2"}; !slices.Equal(s.given(), want) {
				t.Errorf("given up: %v, want %v", s.given(), want)
			}
			s.add("i7", w.now())
			pass(5 * time.Minute)
			if len(s.given()) != 3 {
				t.Errorf("given up though the disk is not full: %v", s.given())
			}
		})
	}
}

func TestImagesThatNobodyUsesGoInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		s := &shelf{}
		s.add("old", w.now().Add(-29*24*time.Hour))
		s.add("imported", w.now().Add(-100*24*time.Hour))
		n := w.newNode()
		n.cfg.Holdings = s
		defer w.runNode(n)()
		w.putObject(newPod("a", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }))
		pass(23 * time.Hour)
		if len(s.given()) > 0 {
			t.Errorf("given up too soon: %v", s.given())
		}
		pass(2 * time.Hour)
		if !slices.Equal(s.given(), []string{"old"}) {
			t.Errorf("given up: %v, want the old one", s.given())
		}
	})
}
