package runc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// BenchmarkStart measures from the call until the container's process has
// written its first byte: by Start, and by turns with it by nothing but "runc
// run" on a root that is mounted and a spec that is written.
func BenchmarkStart(b *testing.B) {
	s := newScene(b)
	s.serve()
	s.prepare("pod")
	word := filepath.Join(s.dir, "word")
	s.must(syscall.Mkfifo(word, 0o600))
	heard, err := os.OpenFile(word, os.O_RDWR, 0)
	s.must(err)
	defer heard.Close()
	hear := func() {
		b.Helper()
		if _, err := heard.Read(make([]byte, len("written"))); err != nil {
			b.Fatal(err)
		}
	}
	var ours, raw []time.Duration
	n := 0
	for b.Loop() {
		n++
		spec := s.spec(container.ID{Pod: "pod", Name: "ours", Attempt: n}, "write", "/word")
		spec.Mounts = []container.Mount{{Type: "bind", Source: word, Target: "/word", Options: []string{"bind"}}}
		spec.Resources = container.Resources{CPUMilli: 1000, MemoryBytes: 128 << 20, PIDs: 100}
		begin := time.Now()
		s.must(s.Start(b.Context(), spec))
		hear()
		ours = append(ours, time.Since(begin))
		s.exited(spec.ID)
		s.must(s.Remove(b.Context(), spec.ID))
		raw = append(raw, s.rawStart(spec, n, hear))
	}
	for name, list := range map[string][]time.Duration{"start": ours, "runc": raw} {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, name+"-p50-ms")
		b.ReportMetric(float64(list[len(list)*99/100].Microseconds())/1000, name+"-p99-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// rawStart runs the same with runc alone.
func (s *scene) rawStart(spec container.Spec, n int, hear func()) time.Duration {
	s.t.Helper()
	spec.ID.Name = "raw"
	spec.RootFS = s.root(spec.ID)
	spec.Sandbox = container.Sandbox{Pod: "pod", Hostname: "host-pod"}
	bundle := s.bundle(spec.ID)
	s.must(os.MkdirAll(s.rootfs(spec.ID), 0o700))
	s.must(mountAll(spec.RootFS, s.rootfs(spec.ID)))
	oci, err := s.ociSpec(spec)
	s.must(err)
	s.must(writeJSON(filepath.Join(bundle, "config.json"), oci, keeper.WriteAside))
	id := fmt.Sprintf("raw%d", n)
	begin := time.Now()
	out, err := exec.Command(s.program, "--root", s.runcRoot(), "run", "-d", "--bundle", bundle, id).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	hear()
	took := time.Since(begin)
	out, err = exec.Command(s.program, "--root", s.runcRoot(), "delete", "-f", id).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.must(s.clear(spec.ID))
	return took
}
