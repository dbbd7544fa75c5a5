package state

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// world200k is 200,000 Pods on 10,000 nodes.
func filled(b *testing.B, pods int) *Store {
	b.Helper()
	s := New()
	body := bytes.Repeat([]byte("x"), 734)
	for i := range pods {
		op := put(pod(fmt.Sprint("p", i)), "", fmt.Sprintf("node=n%d", i%10_000), fmt.Sprintf("owner=%d", i%5_000))
		op.GetPut().Body = body
		_ = s.Apply(uint64(i+1), txn(op))
	}
	return s
}

func BenchmarkApply(b *testing.B) {
	for _, pods := range []int{1_000, 200_000} {
		for _, watchers := range []int{0, 10_000} {
			b.Run(fmt.Sprintf("pods=%d/watchers=%d", pods, watchers), func(b *testing.B) {
				s := filled(b, pods)
				for i := range watchers {
					w := s.Changed(Selector{Kind: "Pod", Index: fmt.Sprintf("node=n%d", i)})
					defer w.Close()
				}
				index := s.Index()
				body := bytes.Repeat([]byte("y"), 734)
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					n := i % pods
					i++
					index++
					op := put(pod(fmt.Sprint("p", n)), "", fmt.Sprintf("node=n%d", n%10_000), fmt.Sprintf("owner=%d", n%5_000))
					op.GetPut().Body = body
					if err := s.Apply(index, txn(op)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkFollow measures a change until its follower has it, among others who
// follow other nodes.
func BenchmarkFollow(b *testing.B) {
	for _, others := range []int{0, 1_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			s := filled(b, 20_000)
			for i := range others {
				w := s.watch([]Selector{{Kind: "Pod", Index: fmt.Sprintf("node=n%d", i+1)}, {Kind: "Node"}}, true)
				defer w.Close()
			}
			index := s.Index()
			b.ReportAllocs()
			n := 0
			for batch, err := range s.Follow(b.Context(), 0, "", []Selector{{Kind: "Pod", Index: "node=n0"}, {Kind: "Node"}}) {
				if err != nil {
					b.Fatal(err)
				}
				if batch.More {
					continue
				}
				if n == 0 {
					b.ResetTimer()
				}
				if n++; n > b.N {
					return
				}
				index++
				_ = s.Apply(index, txn(put(pod("p0"), "z", "node=n0")))
			}
		})
	}
}

func BenchmarkListOneNode(b *testing.B) {
	s := filled(b, 200_000)
	for b.Loop() {
		s.List("Pod", "", "node=n77")
	}
}

func BenchmarkSnapshotReferences(b *testing.B) {
	s := filled(b, 200_000)
	for b.Loop() {
		s.Snapshot()
	}
}

func BenchmarkWriteSnapshot(b *testing.B) {
	s := filled(b, 200_000)
	for b.Loop() {
		if err := s.WriteSnapshot(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	s := filled(b, 200_000)
	var saved bytes.Buffer
	if err := s.WriteSnapshot(&saved); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(saved.Len()))
	for b.Loop() {
		if err := New().Restore(bytes.NewReader(saved.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
