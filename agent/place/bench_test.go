package place

import (
	"fmt"
	"testing"
)

// cluster has so many nodes in 3 zones, and Pods of 100 owners on them.
func cluster(nodes, pods int) *View {
	v := NewView()
	images := []string{"web:v1", "api:v1", "db:v1"}
	for i := range nodes {
		v.PutNode(Node{
			Name: fmt.Sprintf("node-%04d", i), Zone: fmt.Sprintf("z%d", i%3),
			CPU: 32000, Memory: 128 * gi, Pods: 250, Ready: true, Load: float64(i%10) / 10,
			Images: images[:i%4],
		})
	}
	shape := &Shape{CPU: 100, Memory: gi / 4}
	for i := range pods {
		v.PutPod(Pod{
			Key: fmt.Sprintf("default/there-%d", i), Owner: fmt.Sprintf("there-%d", i%100),
			Shape: shape, Node: fmt.Sprintf("node-%04d", i%nodes),
		})
	}
	return v
}

// BenchmarkChoose reports Pods placed a second: in one pass for all that wait,
// and with as many kinds of Pods as the name says.
func BenchmarkChoose(b *testing.B) {
	const waiting = 10_000
	for _, present := range []int{0, 100_000} {
		for _, owners := range []int{10, 100, 10_000} {
			b.Run(fmt.Sprintf("nodes=5000/present=%d/owners=%d", present, owners), func(b *testing.B) {
				v := cluster(5000, present)
				pods := make([]Pod, waiting)
				for i := range pods {
					owner := i % owners
					pods[i] = Pod{
						Key:   fmt.Sprintf("default/new-%d", i),
						Owner: fmt.Sprintf("new-%d", owner),
						Shape: &Shape{CPU: 50 + int64(owner%20), Memory: gi / 8, Images: []string{"web:v1"}},
					}
				}
				for b.Loop() {
					for i, c := range Choose(v, pods) {
						if c.Node == "" {
							b.Fatalf("%s refused: %s", pods[i].Key, c.Refused)
						}
					}
				}
				b.ReportMetric(float64(waiting)*float64(b.N)/b.Elapsed().Seconds(), "Pods/s")
			})
		}
	}
}

// BenchmarkChooseOneByOne is the worst case: every Pod comes alone.
func BenchmarkChooseOneByOne(b *testing.B) {
	v := cluster(5000, 100_000)
	pod := []Pod{{Key: "default/x", Owner: "x", Shape: &Shape{CPU: 100}}}
	for b.Loop() {
		Choose(v, pod)
	}
}
