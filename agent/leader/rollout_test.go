package leader

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/consensus/state"
)

var noon = time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC)

// troupe reads Pods: "a@n1" is ready on n1, "b?n1" is there and not ready, "c"
// waits for a node, "d-n1" is going, "e!n1" has failed. Each is a second newer
// than the one before it.
func troupe(text string) []*pod {
	var out []*pod
	for i, word := range strings.Fields(text) {
		p := &pod{phase: corev1.PodRunning, created: noon.Add(-time.Hour + time.Duration(i)*time.Second), since: noon.Add(-time.Minute)}
		at := strings.IndexAny(word, "@?-!")
		if at < 0 {
			at = len(word)
		} else {
			p.node = word[at+1:]
			p.ready, p.deleting = word[at] == '@', word[at] == '-'
			if word[at] == '!' {
				p.phase = corev1.PodFailed
			}
		}
		p.key = state.Key{Kind: "Pod", Namespace: "default", Name: word[:at]}
		out = append(out, p)
	}
	return out
}

func TestRolloutPlan(t *testing.T) {
	three := wish{replicas: 3, surge: 1}
	tests := map[string]struct {
		wish         wish
		current, old string
		create       int
		remove       string
	}{
		"nothing there":                      {wish: three, create: 3},
		"all there":                          {wish: three, current: "a@1 b@2 c@3"},
		"one is going":                       {wish: three, current: "a@1 b@2 c-3", create: 1},
		"one has failed":                     {wish: three, current: "a@1 b@2 c!3", create: 1, remove: "c"},
		"one waits":                          {wish: three, current: "a@1 b@2 c"},
		"too many: the unbound first":        {wish: three, current: "a@1 b@2 c@3 d", remove: "d"},
		"then what is not ready":             {wish: three, current: "a@1 b?2 c@3 d@4", remove: "b"},
		"then from the fullest node":         {wish: three, current: "a@1 b@2 c@2 d@3", remove: "c"},
		"then the newest":                    {wish: three, current: "a@1 b@2 c@3 d@4", remove: "d"},
		"from the fullest nodes, evenly":     {wish: wish{replicas: 2}, current: "a@1 b@1 c@1 d@2 e@2", remove: "c e b"},
		"to nothing":                         {wish: wish{}, current: "a@1 b@2", remove: "b a"},
		"a rollout begins with the surge":    {wish: three, old: "a@1 b@2 c@3", create: 1},
		"and waits for what is new":          {wish: three, current: "x?1", old: "a@1 b@2 c@3"},
		"then an old one goes":               {wish: three, current: "x@1", old: "a@1 b@2 c@3", remove: "c"},
		"what goes makes room":               {wish: three, current: "x@1", old: "a@1 b@2 c-3", create: 1},
		"the last step":                      {wish: three, current: "x@1 y@2 z@3", old: "a@1", remove: "a"},
		"no surge: old ones go first":        {wish: wish{replicas: 3, unavailable: 1}, old: "a@1 b@2 c@3", remove: "c"},
		"no surge: their room is taken":      {wish: wish{replicas: 3, unavailable: 1}, old: "a@1 b@2 c-3", create: 1},
		"old ones that serve nobody go":      {wish: three, old: "a@1 b?2 c", create: 1, remove: "c b"},
		"more surge than replicas":           {wish: wish{replicas: 1, surge: 5}, old: "a@1", create: 1},
		"fewer and another template at once": {wish: wish{replicas: 1, surge: 1}, old: "a@1 b@2 c@3", remove: "c b"},
		"recreate: all of the old go":        {wish: wish{replicas: 2, recreate: true}, old: "a@1 b@2", remove: "a b"},
		"recreate: until they are gone":      {wish: wish{replicas: 2, recreate: true}, old: "a-1"},
		"recreate: then the new come":        {wish: wish{replicas: 2, recreate: true}, create: 2},
		"paused: no new template":            {wish: wish{replicas: 2, paused: true}, current: "a@1 b@2", old: ""},
		"paused: what is missing comes":      {wish: wish{replicas: 3, paused: true}, current: "a@1", old: "b@2", create: 1},
		"paused: what is too many goes":      {wish: wish{replicas: 1, paused: true}, current: "a@1", old: "b@2 c@3", remove: "c a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := tt.wish.plan(cast{current: troupe(tt.current), old: troupe(tt.old)}, noon)
			var names []string
			for _, r := range d.remove {
				names = append(names, r.pod.key.Name)
			}
			if got := strings.Join(names, " "); d.create != tt.create || got != tt.remove {
				t.Errorf("create %d, remove %q; want %d, %q", d.create, got, tt.create, tt.remove)
			}
		})
	}
}

func TestPlanSaysWhenTimeAloneChangesSomething(t *testing.T) {
	w := wish{replicas: 1, minReady: 90 * time.Second}
	if d := w.plan(cast{current: troupe("a@1")}, noon); d.again != 30*time.Second {
		t.Errorf("ready for 60 s of 90: look again in %s, want 30s", d.again)
	}
	failed := troupe("a!1")
	failed[0].born = noon.Add(-4 * time.Second)
	if d := w.plan(cast{current: failed}, noon); d.again != 6*time.Second || d.create != 0 || len(d.remove) != 0 {
		t.Errorf("failed after 4 s: %+v, want to look again in 6s and nothing else", d)
	}
}

// Whatever there is, one step keeps within the bounds, and steps end where
// nothing is left to do, as long as what is new gets ready.
func TestRolloutPlanKeepsItsBoundsAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := wish{
			replicas: rapid.IntRange(0, 6).Draw(t, "replicas"), surge: rapid.IntRange(0, 3).Draw(t, "surge"),
			unavailable: rapid.IntRange(0, 3).Draw(t, "unavailable"), recreate: rapid.IntRange(0, 4).Draw(t, "recreate") == 0,
		}
		if w.surge+w.unavailable == 0 {
			w.unavailable = 1
		}
		word := rapid.SampledFrom([]string{"@1", "@2", "?1", "?3", "", "-2", "!1"})
		draw := func(side string) []*pod {
			var words []string
			for i := range rapid.IntRange(0, 8).Draw(t, side) {
				words = append(words, fmt.Sprintf("%s%d%s", side, i, word.Draw(t, "pod")))
			}
			return troupe(strings.Join(words, " "))
		}
		have := cast{current: draw("new"), old: draw("old")}
		made := 0
		for range 60 {
			d := w.plan(have, noon)
			before, after := count(have), count(apply(have, d, &made))
			if d.create > 0 && after.active > max(w.replicas+w.surge, before.active) {
				t.Fatalf("%d Pods, more than %d and %d", after.active, w.replicas, w.surge)
			}
			if least := min(w.replicas-w.unavailable, before.available); !w.recreate && after.available < least {
				t.Fatalf("%d available after removing %d, %d before, least %d", after.available, len(d.remove), before.available, least)
			}
			next := mature(apply(have, d, &made))
			if d.create == 0 && len(d.remove) == 0 && count(next) == before && len(next.old) == len(have.old) {
				if before.active != w.replicas || len(have.old) > 0 {
					t.Fatalf("at rest with %d of %d Pods, %d of them old", before.active, w.replicas, len(have.old))
				}
				return
			}
			have = next
		}
		t.Fatalf("no rest after 60 steps: %d new, %d old", len(have.current), len(have.old))
	})
}

type counted struct{ active, available int }

func count(c cast) (n counted) {
	for _, side := range [][]*pod{c.current, c.old} {
		for _, p := range side {
			if p.active() {
				n.active++
				if p.ready {
					n.available++
				}
			}
		}
	}
	return n
}

// apply makes and removes; what is removed where it runs is going first.
func apply(c cast, d deed, made *int) cast {
	gone := map[*pod]bool{}
	for _, r := range d.remove {
		gone[r.pod] = true
	}
	side := func(pods []*pod) (out []*pod) {
		for _, p := range pods {
			if !gone[p] {
				out = append(out, p)
			} else if p.node != "" && !p.finished() {
				leaving := *p
				leaving.deleting, leaving.ready = true, false
				out = append(out, &leaving)
			}
		}
		return out
	}
	out := cast{current: side(c.current), old: side(c.old)}
	for range d.create {
		*made++
		out.current = append(out.current, troupe(fmt.Sprintf("made%d?%d", *made, *made%3))...)
	}
	return out
}

// mature lets new Pods get ready and those that are going be gone.
func mature(c cast) cast {
	side := func(pods []*pod, ready bool) (out []*pod) {
		for _, p := range pods {
			if p.deleting {
				continue
			}
			if ready && p.active() {
				grown := *p
				grown.ready, grown.node = true, max(p.node, "1")
				p = &grown
			}
			out = append(out, p)
		}
		return out
	}
	return cast{current: side(c.current, true), old: side(c.old, false)}
}

func TestWishReadsADeployment(t *testing.T) {
	five := int32(5)
	of := func(surge, unavailable string) *appsv1.Deployment {
		d := &appsv1.Deployment{}
		d.Spec.Replicas = &five
		s, u := intstr.Parse(surge), intstr.Parse(unavailable)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}
		return d
	}
	tests := map[string]struct {
		d                  *appsv1.Deployment
		surge, unavailable int
	}{
		"defaults":           {&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &five}}, 2, 1},
		"numbers":            {of("3", "2"), 3, 2},
		"shares":             {of("50%", "50%"), 3, 2},
		"never both nothing": {of("0", "10%"), 0, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if w := wishOf(tt.d); w.surge != tt.surge || w.unavailable != tt.unavailable || w.replicas != 5 {
				t.Errorf("surge %d, unavailable %d, replicas %d; want %d, %d, 5", w.surge, w.unavailable, w.replicas, tt.surge, tt.unavailable)
			}
		})
	}
}

func TestShapeIsWhatAPodAsksOfItsNode(t *testing.T) {
	ask := func(cpu, memory string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}}
	}
	always := corev1.ContainerRestartPolicyAlways
	spec := &corev1.PodSpec{
		NodeSelector: map[string]string{"disk": "ssd"},
		InitContainers: []corev1.Container{
			{Image: "side", Resources: ask("100m", "64Mi"), RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 90, HostPort: 9090}}},
			{Image: "init", Resources: ask("1", "32Mi"), Ports: []corev1.ContainerPort{{ContainerPort: 91, HostPort: 9191}}},
		},
		Containers: []corev1.Container{
			{Image: "a", Resources: ask("250m", "128Mi"), Ports: []corev1.ContainerPort{{ContainerPort: 80}, {ContainerPort: 53, HostPort: 5353, Protocol: corev1.ProtocolUDP}}},
			{Image: "a", Resources: ask("250m", "128Mi")},
		},
	}
	want := &place.Shape{
		CPU: 1100, Memory: (64 + 256) << 20, Selector: map[string]string{"disk": "ssd"},
		Ports: []place.Port{{Protocol: "TCP", Number: 9090}, {Protocol: "UDP", Number: 5353}}, Images: []string{"side:latest", "init:latest", "a:latest"},
	}
	if diff := cmp.Diff(want, shapeOf(spec)); diff != "" {
		t.Errorf("shape (-want +got):\n%s", diff)
	}
	spec.HostNetwork = true
	if got := shapeOf(spec).Ports; len(got) != 3 || got[1] != (place.Port{Protocol: "TCP", Number: 80}) {
		t.Errorf("ports on the host's network: %v", got)
	}
}
