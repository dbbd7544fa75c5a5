package place

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// scene draws nodes, what runs on them, and Pods that wait.
func scene(t *rapid.T) (nodes []Node, running, waiting []Pod) {
	labels := rapid.SampledFrom([]map[string]string{nil, {"disk": "ssd"}, {"disk": "hdd"}})
	for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
		nodes = append(nodes, Node{
			Name:     fmt.Sprintf("n%d", i),
			Zone:     rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"),
			Labels:   labels.Draw(t, "labels"),
			CPU:      rapid.Int64Range(0, 8).Draw(t, "cpu") * 500,
			Memory:   rapid.Int64Range(0, 8).Draw(t, "memory") * gi,
			Disk:     rapid.Int64Range(0, 8).Draw(t, "disk") * gi,
			Pods:     rapid.Int64Range(0, 6).Draw(t, "pods"),
			Ready:    rapid.IntRange(0, 4).Draw(t, "ready") > 0,
			Cordoned: rapid.IntRange(0, 4).Draw(t, "cordoned") == 0,
			Users:    rapid.Bool().Draw(t, "users"),
			Load:     rapid.Float64Range(0, 1).Draw(t, "load"),
			Images:   rapid.SampledFrom([][]string{nil, {"x"}, {"x", "y"}}).Draw(t, "images"),
		})
	}
	shapes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *Shape {
		s := &Shape{
			CPU:      rapid.Int64Range(0, 4).Draw(t, "cpu") * 250,
			Memory:   rapid.Int64Range(0, 4).Draw(t, "memory") * gi / 2,
			Users:    rapid.IntRange(0, 4).Draw(t, "own users") == 0,
			Disk:     max(rapid.Int64Range(-6, 4).Draw(t, "disk"), 0) * gi,
			Selector: labels.Draw(t, "selector"),
			Images:   rapid.SampledFrom([][]string{nil, {"x"}, {"y"}, {"z"}}).Draw(t, "images"),
		}
		if rapid.IntRange(0, 5).Draw(t, "port") == 0 {
			s.Ports = []Port{{"TCP", 80}}
		}
		return s
	}), 1, 4).Draw(t, "shapes")
	owner := rapid.SampledFrom([]string{"", "web", "api", "db"})
	pod := func(kind string, i int) Pod {
		return Pod{Key: fmt.Sprintf("%s/%d", kind, i), Owner: owner.Draw(t, "owner"), Shape: rapid.SampledFrom(shapes).Draw(t, "shape")}
	}
	for i := range rapid.IntRange(0, 10).Draw(t, "running") {
		p := pod("running", i)
		p.Node = fmt.Sprintf("n%d", rapid.IntRange(0, 8).Draw(t, "on"))
		p.Leaving = rapid.Bool().Draw(t, "leaving")
		running = append(running, p)
	}
	for i := range rapid.IntRange(0, 30).Draw(t, "waiting") {
		waiting = append(waiting, pod("waiting", i))
	}
	return nodes, running, waiting
}

func build(nodes []Node, running []Pod) *View {
	v := view(nodes...)
	for _, p := range running {
		v.PutPod(p)
	}
	return v
}

// A node is never given more than it had left, and nothing that it does not suit.
func TestNoNodeIsGivenMoreThanItHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, running, waiting := scene(t)
		v := build(nodes, running)
		got := Choose(v, waiting)
		for i, c := range got {
			if (c.Node == "") == (c.Refused == nil) {
				t.Fatalf("%s: node %q and refusal %v", waiting[i].Key, c.Node, c.Refused)
			}
		}
		for _, n := range nodes {
			var cpu, memory, disk, pods int64
			var given bool
			ports := map[Port]int{}
			tally := func(p Pod) {
				cpu, memory, disk, pods = cpu+p.Shape.CPU, memory+p.Shape.Memory, disk+p.Shape.Disk, pods+1
				for _, port := range p.Shape.Ports {
					ports[port]++
				}
			}
			for _, p := range running {
				if p.Node == n.Name {
					tally(p)
				}
			}
			for i, p := range waiting {
				if got[i].Node != n.Name {
					continue
				}
				given = true
				tally(p)
				if !n.Ready || n.Cordoned || p.Shape.Users && !n.Users || len(p.Shape.Selector) > 0 && n.Labels["disk"] != p.Shape.Selector["disk"] {
					t.Fatalf("%s went to %s, which does not suit it", p.Key, n.Name)
				}
				if cpu > n.CPU && p.Shape.CPU > 0 || memory > n.Memory && p.Shape.Memory > 0 || disk > n.Disk && p.Shape.Disk > 0 {
					t.Fatalf("%s went to %s, which has not enough for it", p.Key, n.Name)
				}
				for _, port := range p.Shape.Ports {
					if ports[port] > 1 {
						t.Fatalf("%s went to %s, whose port %v is taken", p.Key, n.Name, port)
					}
				}
			}
			if given && pods > n.Pods {
				t.Fatalf("%s takes %d Pods and has %d", n.Name, n.Pods, pods)
			}
		}
	})
}

// What is refused had no node left that fits, after all the rest was placed.
func TestOnlyWhatFitsNowhereIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, running, waiting := scene(t)
		v := build(nodes, running)
		for i, c := range Choose(v, waiting) {
			if p := waiting[i]; c.Node != "" {
				p.Node = c.Node
				v.PutPod(p)
			} else if c.Refused.Nodes != len(nodes) {
				t.Fatalf("refusal looked at %d of %d nodes", c.Refused.Nodes, len(nodes))
			} else {
				sum := 0
				for _, r := range c.Refused.Reasons {
					sum += r.Nodes
				}
				if sum != len(nodes) {
					t.Fatalf("reasons %v account for %d of %d nodes", c.Refused.Reasons, sum, len(nodes))
				}
			}
		}
		for _, p := range waiting {
			if _, placed := v.pods[p.Key]; !placed && Choose(v, []Pod{p})[0].Node != "" {
				t.Fatalf("%s was refused though a node fits", p.Key)
			}
		}
	})
}

// Neither the order of Pods nor that of nodes changes who goes where and who is
// refused for what.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, running, waiting := scene(t)
		want := map[string]string{}
		for i, c := range Choose(build(nodes, running), waiting) {
			want[waiting[i].Key] = c.Node
			if c.Refused != nil {
				want[waiting[i].Key] = c.Refused.String()
			}
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		shuffle := func(pods []Pod) []Pod {
			pods = slices.Clone(pods)
			r.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
			return pods
		}
		nodes = slices.Clone(nodes)
		r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		waiting = shuffle(waiting)
		got := map[string]string{}
		for i, c := range Choose(build(nodes, shuffle(running)), waiting) {
			got[waiting[i].Key] = c.Node
			if c.Refused != nil {
				got[waiting[i].Key] = c.Refused.String()
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("another order, another answer (-first +second):\n%s", diff)
		}
	})
}

// Among nodes that are all alike, the Pods of one owner differ by one at most,
// and so do zones of one size.
func TestSpreadDiffersByOneAtMostAmongEquals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.IntRange(1, 4).Draw(t, "zones")
		each := rapid.IntRange(1, 4).Draw(t, "nodes in a zone")
		v := NewView()
		for i := range zones * each {
			n := machine(fmt.Sprintf("n%d", i), in(fmt.Sprintf("z%d", i%zones)))
			n.Pods = 60 * 4 // room for all that there may be
			v.PutNode(n)
		}
		count := rapid.IntRange(1, 60).Draw(t, "replicas")
		rounds := rapid.IntRange(1, 4).Draw(t, "rounds")
		nodes, inZone := map[string]int{}, map[int]int{}
		for round := range rounds {
			pods := replicas("web", count, Shape{CPU: 1})
			for i, c := range Choose(v, pods) {
				pods[i].Key = fmt.Sprintf("%d/%d", round, i)
				pods[i].Node = c.Node
				v.PutPod(pods[i])
				nodes[c.Node]++
				var n int
				fmt.Sscanf(c.Node, "n%d", &n)
				inZone[n%zones]++
			}
		}
		low, high := 1<<30, 0
		for i := range zones * each {
			n := nodes[fmt.Sprintf("n%d", i)]
			low, high = min(low, n), max(high, n)
		}
		zlow, zhigh := 1<<30, 0
		for z := range zones {
			zlow, zhigh = min(zlow, inZone[z]), max(zhigh, inZone[z])
		}
		if high-low > 1 || zhigh-zlow > 1 {
			t.Fatalf("from %d to %d Pods a node, from %d to %d a zone", low, high, zlow, zhigh)
		}
	})
}

// Choose leaves no trace in the view, and a view that changed its mind is as
// one that never had another.
func TestViewIsWhatItWasTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, running, waiting := scene(t)
		others, moved, _ := scene(t)
		v := build(others, moved)
		Choose(v, waiting)
		for _, p := range moved {
			v.RemovePod(p.Key)
		}
		for _, n := range others {
			v.RemoveNode(n.Name)
		}
		if nodes, pods := v.Len(); nodes != 0 || pods != 0 || len(v.byName) != 0 || len(v.images.ids) != 0 || len(v.zones.ids) != 0 {
			t.Fatalf("emptied, the view still knows %d nodes, %d Pods, names %v", nodes, pods, v.byName)
		}
		for _, p := range running {
			v.PutPod(p)
		}
		for _, n := range nodes {
			v.PutNode(n)
		}
		want, got := Choose(build(nodes, running), waiting), Choose(v, waiting)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("a view with a past answers otherwise (-fresh +used):\n%s", diff)
		}
	})
}
