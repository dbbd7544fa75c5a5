package consensus

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkCommit measures transactions through three nodes on real stores and
// connections of one machine.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			wires := newNetwork()
			m := wires.boot(b, "n1", b.TempDir(), alone)
			wires.boot(b, "n2", b.TempDir())
			wires.boot(b, "n3", b.TempDir())
			awaitLeader(b, m)
			for _, name := range []string{"n2", "n3"} {
				if err := m.AddVoter(b.Context(), name, 0); err != nil {
					b.Fatal(err)
				}
			}
			body := make([]byte, 1024)
			for i := range body {
				body[i] = byte(i * i)
			}
			first := m.Store().Index()
			var n atomic.Int64
			b.SetParallelism(writers / 2)
			b.ResetTimer()
			work := func() {
				name := fmt.Sprint("p", n.Add(1)%10_000)
				if _, err := m.Commit(b.Context(), put(name, string(body), -1)); err != nil {
					b.Error(err)
				}
			}
			if writers == 1 {
				for range b.N {
					work()
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						work()
					}
				})
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/float64(m.Store().Index()-first), "txns/entry")
		})
	}
}
