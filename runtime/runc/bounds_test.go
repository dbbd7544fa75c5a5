package runc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

func TestOutOfMemoryIsToldAsSuch(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("say", "eating", ";", "eat", "200")
	spec.Resources.MemoryBytes = 64 << 20
	id := s.start(spec)
	if got := s.exited(id); got.ExitCode != 137 || got.Signal != 9 || !got.OOMKilled {
		t.Errorf("%+v, want killed for want of memory", got)
	}
	s.open()
	if got := s.status(id); !got.OOMKilled {
		t.Errorf("another driver: %+v", got)
	}
}

func TestLimitsHold(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("sleep")
	spec.Resources = container.Resources{CPUMilli: 250, CPUShares: 500, MemoryBytes: 64 << 20, PIDs: 50, OOMScoreAdj: 300}
	id := s.start(spec)
	s.heard(id, "sleeping")
	read := func(controller, v1, v2 string) string {
		name := v1
		if s.groups.unified {
			name = v2
		}
		text, err := os.ReadFile(s.groups.file(s.cgroup(id), controller, name))
		s.must(err)
		return strings.TrimSpace(string(text))
	}
	got := []string{
		read("memory", "memory.limit_in_bytes", "memory.max"), read("pids", "pids.max", "pids.max"),
		read("cpu", "cpu.cfs_quota_us", "cpu.max"),
	}
	want := []string{"67108864", "50", "25000"}
	if s.groups.unified {
		want[2] = "25000 100000"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.status(id).PID))
	if err != nil || strings.TrimSpace(string(text)) != "300" {
		t.Errorf("oom_score_adj %s, %v", text, err)
	}
}

func TestUsageIsRead(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("eat", "40", ";", "burn", "50", ";", "sleep"))
	s.heard(id, "sleeping")
	for range 2 { // the second time with files that are open
		list, err := s.Usage(t.Context())
		s.must(err)
		if len(list) != 1 || list[0].ID != id || list[0].MemoryBytes < 40<<20 || list[0].MemoryBytes > 80<<20 || list[0].CPU <= 0 || list[0].PIDs < 1 {
			t.Errorf("usage %+v", list)
		}
	}
	s.must(s.Stop(t.Context(), id, time.Minute))
	if list, err := s.Usage(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("of an exited one: %+v, %v", list, err)
	}
}

// Ten thousand children are tried; those that its limit leaves are had, others of the
// machine notice nothing, and all of them go with the container.
func TestWhoForksWithoutEnd(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("fork", "10000", ";", "sleep")
	spec.Resources.PIDs = 100
	bomb := s.start(spec)
	said := s.heard(bomb, "forked ")
	if n, err := strconv.Atoi(strings.TrimPrefix(said, "forked ")); err != nil || n < 10 || n >= 100 {
		t.Errorf("it %s, of 100 that it may have", said)
	}
	if got := s.says(s.one("say", "hello")); got != "hello" {
		t.Errorf("another container says %q", got)
	}
	s.must(s.Remove(t.Context(), bomb)) // what is left of it fails the end of the test
}
