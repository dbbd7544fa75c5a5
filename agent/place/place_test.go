package place

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const gi = 1 << 30

// machine is a node with 4 cores, 8 GiB and room for 110 Pods.
func machine(name string, change ...func(*Node)) Node {
	n := Node{Name: name, CPU: 4000, Memory: 8 * gi, Pods: 110, Ready: true, Labels: map[string]string{"kubernetes.io/hostname": name}}
	for _, c := range change {
		c(&n)
	}
	return n
}

func cordoned(n *Node) { n.Cordoned = true }
func down(n *Node)     { n.Ready = false }
func in(zone string) func(*Node) {
	return func(n *Node) { n.Zone = zone }
}

func view(nodes ...Node) *View {
	v := NewView()
	for _, n := range nodes {
		v.PutNode(n)
	}
	return v
}

// replicas are n waiting Pods of one owner.
func replicas(owner string, n int, s Shape) []Pod {
	pods := make([]Pod, n)
	for i := range pods {
		pods[i] = Pod{Key: fmt.Sprintf("default/%s-%d", owner, i), Owner: owner, Shape: &s}
	}
	return pods
}

func perNode(choices []Choice) map[string]int {
	got := map[string]int{}
	for _, c := range choices {
		got[c.Node]++
	}
	return got
}

func TestChoosePrefers(t *testing.T) {
	small := Shape{CPU: 100, Memory: gi / 8}
	tests := map[string]struct {
		nodes   []Node
		running []Pod
		pods    []Pod
		want    map[string]int
	}{
		"one Pod of an owner on each node": {
			nodes: []Node{machine("a"), machine("b"), machine("c")},
			pods:  replicas("web", 3, small),
			want:  map[string]int{"a": 1, "b": 1, "c": 1},
		},
		"a zone without the owner's Pods to a node without": {
			nodes:   []Node{machine("a", in("z1")), machine("b", in("z1")), machine("c", in("z2"))},
			running: []Pod{{Key: "default/web-0", Owner: "web", Shape: &small, Node: "a"}},
			pods:    []Pod{{Key: "default/web-1", Owner: "web", Shape: &small}},
			want:    map[string]int{"c": 1},
		},
		"zones of unequal size in equal shares": {
			nodes: []Node{machine("a", in("z1")), machine("b", in("z1")), machine("c", in("z2"))},
			pods:  replicas("web", 6, small),
			want:  map[string]int{"a": 2, "b": 1, "c": 3},
		},
		"the node with more left": {
			nodes:   []Node{machine("a"), machine("b")},
			running: []Pod{{Key: "default/big", Shape: &Shape{CPU: 3000}, Node: "a"}},
			pods:    []Pod{{Key: "default/x", Shape: &small}},
			want:    map[string]int{"b": 1},
		},
		"the less loaded of equals": {
			nodes: []Node{machine("a", func(n *Node) { n.Load = 0.9 }), machine("b", func(n *Node) { n.Load = 0.1 })},
			pods:  []Pod{{Key: "default/x", Shape: &small}},
			want:  map[string]int{"b": 1},
		},
		"the node that holds the image among equals": {
			nodes: []Node{machine("a"), machine("b"), machine("c", func(n *Node) { n.Images = []string{"web:v1"} })},
			pods:  []Pod{{Key: "default/x", Shape: &Shape{CPU: 100, Images: []string{"web:v1"}}}},
			want:  map[string]int{"c": 1},
		},
		"fewer Pods where nothing is requested": {
			nodes:   []Node{machine("a"), machine("b")},
			running: []Pod{{Key: "default/idle", Shape: &Shape{}, Node: "a"}},
			pods:    []Pod{{Key: "default/x", Shape: &Shape{}}},
			want:    map[string]int{"b": 1},
		},
		"nodes that a leaving sibling is on as much as others": {
			nodes: []Node{machine("a"), machine("b", func(n *Node) { n.CPU = 1000 })},
			running: []Pod{
				{Key: "default/web-0", Owner: "web", Shape: &Shape{CPU: 100}, Node: "a", Leaving: true},
			},
			pods: []Pod{{Key: "default/web-1", Owner: "web", Shape: &Shape{CPU: 100}}},
			want: map[string]int{"a": 1},
		},
		"the greedy first, so that all fit": {
			nodes: []Node{machine("a"), machine("b", func(n *Node) { n.CPU = 1000 })},
			pods: []Pod{
				{Key: "default/a-small", Shape: &Shape{CPU: 1000}},
				{Key: "default/b-big", Shape: &Shape{CPU: 4000}},
			},
			want: map[string]int{"a": 1, "b": 1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v := view(tt.nodes...)
			for _, p := range tt.running {
				v.PutPod(p)
			}
			got := perNode(Choose(v, tt.pods))
			if name == "zones of unequal size in equal shares" && got["b"] > got["a"] {
				got["a"], got["b"] = got["b"], got["a"] // which of the two has more is the lot's
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Pods per node (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChooseRefuses(t *testing.T) {
	ssd := Shape{CPU: 100, Selector: map[string]string{"disk": "ssd"}}
	full := func(n *Node) { n.Pods = 0 }
	tests := map[string]struct {
		nodes   []Node
		running []Pod
		shape   Shape
		want    string
	}{
		"too little memory, and a cordon": {
			nodes: []Node{machine("n1"), machine("n2"), machine("n3", cordoned)},
			running: []Pod{
				{Key: "a/1", Shape: &Shape{Memory: 7 * gi}, Node: "n1"},
				{Key: "a/2", Shape: &Shape{Memory: 8*gi - 12*gi/10}, Node: "n2"},
			},
			shape: Shape{Memory: 4 * gi},
			want:  "0/3 nodes fit: 2 too little memory (needs 4Gi, most free 1.1Gi on n2), 1 cordoned; uncordon n3 to make it fit",
		},
		"more cpu than any node has": {
			nodes: []Node{machine("n1"), machine("n2", func(n *Node) { n.CPU = 2500 })},
			shape: Shape{CPU: 5000},
			want:  "0/2 nodes fit: 2 too little cpu (needs 5, most free 4 on n1); a request of 4 cpu would fit on n1",
		},
		"the greater of two shortages": {
			nodes: []Node{machine("n1")},
			shape: Shape{CPU: 5000, Memory: 80 * gi},
			want:  "0/1 nodes fit: 1 too little memory (needs 80Gi, most free 8Gi on n1); a request of 4 cpu and 8Gi memory would fit on n1",
		},
		"users of its own": {
			nodes: []Node{machine("n1"), machine("n2", cordoned, func(n *Node) { n.Users = true })},
			shape: Shape{CPU: 100, Users: true},
			want:  "0/2 nodes fit: 1 cordoned, 1 without user namespaces; uncordon n2 to make it fit",
		},
		"too little disk": {
			nodes:   []Node{machine("n1", func(n *Node) { n.Disk = 10 * gi }), machine("n2")},
			running: []Pod{{Key: "a/1", Shape: &Shape{Disk: 4 * gi}, Node: "n1"}},
			shape:   Shape{CPU: 4500, Disk: 8 * gi},
			want:    "0/2 nodes fit: 2 too little disk (needs 8Gi, most free 6Gi on n1); a request of 4 cpu and 6Gi ephemeral-storage would fit on n1",
		},
		"a label that no node has": {
			nodes: []Node{machine("n1"), machine("n2", down)},
			shape: ssd,
			want:  "0/2 nodes fit: 1 not ready, 1 without its labels (needs disk=ssd); label n1 with disk=ssd to make it fit",
		},
		"the right node is down": {
			nodes: []Node{machine("n1", func(n *Node) { n.Labels = ssd.Selector; n.Ready = false })},
			shape: ssd,
			want:  "0/1 nodes fit: 1 not ready; it would fit on n1 once that is ready",
		},
		"a port that is taken": {
			nodes:   []Node{machine("n1")},
			running: []Pod{{Key: "a/1", Shape: &Shape{Ports: []Port{{"TCP", 80}}}, Node: "n1"}},
			shape:   Shape{Ports: []Port{{"TCP", 80}}},
			want:    "0/1 nodes fit: 1 with its ports taken",
		},
		"no room for one more Pod": {
			nodes: []Node{machine("n1", full)},
			want:  "0/1 nodes fit: 1 full of Pods",
		},
		"pinned elsewhere": {
			nodes: []Node{machine("n1"), machine("n2", down)},
			shape: Shape{Pin: "n2"},
			want:  "0/2 nodes fit: 1 not ready, 1 not the node it is pinned to (needs n2); it would fit on n2 once that is ready",
		},
		"nobody there": {want: "no node has joined yet"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v := view(tt.nodes...)
			for _, p := range tt.running {
				v.PutPod(p)
			}
			got := Choose(v, []Pod{{Key: "default/x", Shape: &tt.shape}})[0]
			if got.Refused == nil {
				t.Fatalf("placed on %s, want a refusal", got.Node)
			}
			if got := got.Refused.String(); got != tt.want {
				t.Errorf("refused with\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestChooseTakesAPortOnceANode(t *testing.T) {
	v := view(machine("a"), machine("b"))
	got := Choose(v, replicas("web", 3, Shape{Ports: []Port{{"TCP", 80}}}))
	want := map[string]int{"a": 1, "b": 1, "": 1}
	if diff := cmp.Diff(want, perNode(got)); diff != "" {
		t.Errorf("Pods per node (-want +got):\n%s", diff)
	}
}

func TestEqualPodsShareARefusal(t *testing.T) {
	got := Choose(view(machine("a")), replicas("web", 3, Shape{CPU: 9000}))
	if got[0].Refused == nil || got[0].Refused != got[1].Refused || got[1].Refused != got[2].Refused {
		t.Errorf("refusals of equal Pods are %p, %p and %p, want one", got[0].Refused, got[1].Refused, got[2].Refused)
	}
}

func TestViewFollowsChanges(t *testing.T) {
	one := Shape{CPU: 1000}
	big := []Pod{{Key: "default/big", Shape: &Shape{CPU: 4000}}}
	fits := func(v *View) bool { return Choose(v, big)[0].Node != "" }
	steps := []struct {
		name   string
		change func(*View)
		fits   bool
	}{
		{"nothing there", func(*View) {}, false},
		{"a Pod before its node", func(v *View) { v.PutPod(Pod{Key: "a/1", Shape: &one, Node: "a"}) }, false},
		{"its node", func(v *View) { v.PutNode(machine("a")) }, false},
		{"the Pod gone", func(v *View) { v.RemovePod("a/1") }, true},
		{"the Pod there again", func(v *View) { v.PutPod(Pod{Key: "a/1", Shape: &one, Node: "a"}) }, false},
		{"the Pod smaller", func(v *View) { v.PutPod(Pod{Key: "a/1", Shape: &Shape{}, Node: "a"}) }, true},
		{"the Pod big on another node", func(v *View) { v.PutPod(Pod{Key: "a/1", Shape: &one, Node: "b"}) }, true},
		{"the node cordoned", func(v *View) { v.PutNode(machine("a", cordoned)) }, false},
		{"the node uncordoned", func(v *View) { v.PutNode(machine("a")) }, true},
		{"the Pod back", func(v *View) { v.PutPod(Pod{Key: "a/1", Shape: &one, Node: "a"}) }, false},
		{"the node gone and its Pod still there", func(v *View) { v.RemoveNode("a") }, false},
		{"a greater node of its name", func(v *View) { v.PutNode(machine("a", func(n *Node) { n.CPU = 5000 })) }, true},
		{"the Pod waiting", func(v *View) { v.PutPod(Pod{Key: "a/1", Shape: &one}) }, true},
	}
	v := NewView()
	for _, s := range steps {
		s.change(v)
		if got := fits(v); got != s.fits {
			t.Fatalf("after %q: fits %v, want %v", s.name, got, s.fits)
		}
	}
	v.RemoveNode("a")
	if len(v.byName) != 0 || len(v.owners) != 0 || len(v.pods) != 0 {
		t.Errorf("an emptied view still knows nodes %v, owners %v, Pods %v", v.byName, v.owners, v.pods)
	}
}

func TestGainedTellsWhetherToTryAgain(t *testing.T) {
	v := view(machine("a"))
	before := v.Gained()
	v.PutPod(Pod{Key: "a/1", Shape: &Shape{CPU: 1}, Node: "a"})
	v.SetLoad("a", 0.5)
	if v.Gained() != before {
		t.Error("a placed Pod or a load made room, says Gained")
	}
	v.RemovePod("a/1")
	if v.Gained() == before {
		t.Error("a removed Pod made no room, says Gained")
	}
	before = v.Gained()
	v.PutNode(machine("b"))
	if v.Gained() == before {
		t.Error("a new node made no room, says Gained")
	}
}

func TestTiesBreakByNameAlone(t *testing.T) {
	v, w := NewView(), NewView()
	for i := range 50 {
		v.PutNode(machine(fmt.Sprintf("n%d", i)))
		w.PutNode(machine(fmt.Sprintf("n%d", 49-i)))
	}
	pods := replicas("web", 70, Shape{CPU: 10})
	if diff := cmp.Diff(Choose(v, pods), Choose(w, pods)); diff != "" {
		t.Errorf("the order in which nodes were learned matters:\n%s", diff)
	}
	first := func(owner string) string { return Choose(v, replicas(owner, 2, Shape{CPU: 10}))[0].Node }
	var got []string
	for _, o := range []string{"a", "b", "c", "d", "e", "f"} {
		got = append(got, first(o))
	}
	if s := strings.Join(got, " "); strings.Count(s, got[0]) == len(got) {
		t.Errorf("the first Pods of six owners all went to %s", got[0])
	}
}
