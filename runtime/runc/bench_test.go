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

// BenchmarkExec measures a program that does nothing, from the call to its exit
// code.
func BenchmarkExec(b *testing.B) {
	s := newScene(b)
	s.serve()
	id := s.start(s.one("sleep"))
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		code, err := s.Exec(b.Context(), id, container.ExecSpec{Args: []string{"/prog", "exit", "0"}})
		if err != nil || code != 0 {
			b.Fatal(code, err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkUsage reads what 200 containers use: their control groups are real,
// and their processes one that waits.
func BenchmarkUsage(b *testing.B) {
	s := newScene(b)
	s.serve()
	id := s.start(s.one("sleep"))
	whole := s.box(id)
	const containers = 200
	for i := range containers - 1 {
		other := &box{id: container.ID{Pod: id.Pod, Name: fmt.Sprint("u", i)}, proc: whole.proc, pidfd: whole.pidfd}
		for _, root := range s.groups.roots {
			dir := filepath.Join(root, s.cgroup(other.id))
			s.must(os.MkdirAll(dir, 0o755))
			defer func() { _ = os.Remove(dir) }()
		}
		s.mu.Lock()
		s.boxes[other.id] = other
		s.mu.Unlock()
	}
	for _, b := range s.all() {
		_, err := s.usage(b)
		s.must(err)
	}
	var before, after syscall.Rusage
	s.must(syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	n := 0
	for b.Loop() {
		n++
		list, err := s.Usage(b.Context())
		if err != nil || len(list) != containers {
			b.Fatalf("%d of %d, %v", len(list), containers, err)
		}
	}
	s.must(syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	spent := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(100*spent.Seconds()/float64(n), "%-of-a-core-at-1-Hz")
	s.mu.Lock()
	for other := range s.boxes {
		if other != id {
			s.boxes[other].meter.close()
			delete(s.boxes, other)
		}
	}
	s.mu.Unlock()
}
