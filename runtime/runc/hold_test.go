package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

const shared = "shared"

// share prepares a Pod whose containers share processes.
func (s *scene) share() {
	s.t.Helper()
	s.must(s.Prepare(s.t.Context(), container.Sandbox{Pod: shared, Hostname: shared, SharePIDs: true}))
}

func (s *scene) member(name string, attempt int, words ...string) container.ID {
	s.t.Helper()
	id := container.ID{Pod: shared, Name: name, Attempt: attempt}
	s.must(s.Start(s.t.Context(), s.spec(id, words...)))
	return id
}

func (s *scene) run(id container.ID, words ...string) string {
	s.t.Helper()
	var out strings.Builder
	if _, err := s.Exec(s.t.Context(), id, container.ExecSpec{Args: append([]string{"/prog"}, words...), Stdout: &out, Stderr: &out}); err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

// soon waits until something is so that no word is sent of.
func (s *scene) soon(what string, ready func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ready(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal(what)
		}
	}
}

func TestContainersShareProcesses(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.share()
	a := s.member("a", 0, "pid", ";", "say", "up", ";", "sleep")
	b := s.member("b", 0, "say", "up", ";", "sleep")
	s.heard(a, "up")
	s.heard(b, "up")
	if first := s.heard(a, "pid"); first == "pid 1" {
		t.Error("a container is the first process")
	}
	saw := strings.Split(s.run(a, "ps"), "\n")
	slices.Sort(saw)
	if want := []string{"/hold hold", "/prog pid ; say up ; sleep", "/prog say up ; sleep"}; !slices.Equal(saw, want) {
		t.Errorf("in sight: %q, want %q", saw, want)
	}
	// One ends, and leaves a child behind: it goes too, the other does not.
	c := s.member("c", 0, "spawn", "sleep", ";", "exit", "3")
	if got := s.exited(c); got.ExitCode != 3 {
		t.Errorf("it ended with %+v", got)
	}
	if out := s.output(c); len(out) == 0 || !strings.HasPrefix(out[0], "spawned") {
		t.Errorf("it said %q", out)
	}
	s.soon("what it left runs on", func() bool { return len(s.groups.processes(s.cgroup(c))) == 0 })
	again := s.member("c", 1, "namespace", "pid", ";", "exit", "0")
	if got := s.output(again); len(got) != 1 || got[0] != s.run(b, "namespace", "pid") {
		t.Errorf("a restart is in %q, the others in %q", got, s.run(b, "namespace", "pid"))
	}
	// Whom nobody waits for is reaped.
	s.run(a, "spawn", "spawn", "exit", "0")
	p, ok := s.holder(shared)
	if !ok {
		t.Fatal("nobody holds the Pod")
	}
	s.soon("the dead are not reaped", func() bool { return !slices.ContainsFunc(s.kin(p.PID), zombie) })
	// Stopping one is by its own signal, and stops all of it.
	s.must(s.Stop(t.Context(), a, 10*time.Second))
	if got := s.status(a); got.ExitCode != 0 {
		t.Errorf("stopped: %+v", got)
	}
	if s.status(b).State != container.Running {
		t.Error("the other was stopped, too")
	}
	s.must(s.RemoveSandbox(t.Context(), shared))
	if _, err := p.key().Stat(); err == nil {
		t.Error("what holds the Pod is left")
	}
}

// kin are the children of a process.
func (s *scene) kin(pid int) []int {
	var out []int
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(text)) {
		var n int
		if _, err := fmt.Sscan(f, &n); err == nil {
			out = append(out, n)
		}
	}
	return out
}

func zombie(pid int) bool {
	stat, err := keeper.ReadStat(pid)
	return err == nil && stat.State == 'Z'
}

// No signal from inside ends what holds a Pod, and who shares it sees nothing of
// the machine by way of it.
func TestTheHolderHoldsOut(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.share()
	a := s.member("a", 0, "say", "up", ";", "sleep")
	s.heard(a, "up")
	for n := 1; n <= 64; n++ {
		if n == int(syscall.SIGCHLD) || n == int(syscall.SIGSTOP) || n == int(syscall.SIGCONT) || n == 32 || n == 33 { // the C library's own
			continue
		}
		s.run(a, "kill", fmt.Sprint(n), "1")
	}
	if _, ok := s.holder(shared); !ok {
		t.Fatal("a signal ended it")
	}
	for _, path := range []string{"/proc/1/environ", "/proc/1/root/hold", "/proc/1/mem", "/proc/1/exe"} {
		if got := s.run(a, "open", "r", path); !strings.Contains(got, "permission denied") {
			t.Errorf("%s: %s", path, got)
		}
	}
	same := s.spec(container.ID{Pod: shared, Name: "same"}, "open", "r", "/proc/1/root/hold", ";", "open", "r", "/proc/1/mem")
	same.User = fmt.Sprint(holderUser)
	s.must(s.Start(t.Context(), same))
	for _, line := range s.output(same.ID) {
		if !strings.Contains(line, "permission denied") {
			t.Errorf("of the same user: %s", line)
		}
	}
	p, _ := s.holder(shared)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	s.must(err)
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t65535"} {
		if !strings.Contains(string(stat), want) {
			t.Errorf("the holder's status lacks %q", want)
		}
	}
}

// When the holder is killed all containers end with it, and the next start has
// another.
func TestANewHolderComesAfterOneThatWasKilled(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.share()
	a, b := s.member("a", 0, "stubborn"), s.member("b", 0, "sleep")
	s.heard(a, "stubborn")
	old, _ := s.holder(shared)
	s.must(unix.Kill(old.PID, unix.SIGKILL))
	for _, id := range []container.ID{a, b} {
		if got := s.exited(id); got.Signal != int(syscall.SIGKILL) {
			t.Errorf("%s ended so: %+v", id, got)
		}
	}
	c, d := s.member("a", 1, "say", "up", ";", "sleep"), s.member("b", 1, "sleep")
	s.heard(c, "up")
	now, ok := s.holder(shared)
	if !ok || now.key() == old.key() || s.run(c, "namespace", "pid") != s.run(d, "namespace", "pid") {
		t.Errorf("another holder: %v %+v, before %+v", ok, now, old)
	}
}

// A lease that runs out ends the holder with the containers, and the next lease has
// another.
func TestALeaseEndsSharedProcesses(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.share()
	a := s.member("a", 0, "stubborn")
	s.heard(a, "stubborn")
	old, _ := s.holder(shared)
	begin := s.SinceBoot()
	s.must(s.Lease(t.Context(), shared, begin+100*time.Millisecond, begin+200*time.Millisecond))
	if got := s.exited(a); got.Signal != int(syscall.SIGKILL) || !got.LeaseLost {
		t.Errorf("it ended with %+v", got)
	}
	begin = s.SinceBoot()
	s.must(s.Lease(t.Context(), shared, begin+time.Hour, begin+2*time.Hour))
	again := s.member("a", 1, "say", "up", ";", "sleep")
	s.heard(again, "up")
	if now, ok := s.holder(shared); !ok || now.key() == old.key() {
		t.Errorf("held by %+v, %v; before by %+v", now, ok, old)
	}
}

// An agent that starts again adopts what shares processes, ends what an earlier
// one has run inside, and nothing else.
func TestSharedProcessesAreAdopted(t *testing.T) {
	s := newScene(t)
	stop := s.serve()
	s.share()
	a := s.member("a", 0, "spawn", "spawn", "sleep", ";", "say", "up", ";", "sleep") // the grandchild is soon the holder's
	s.heard(a, "up")
	before, _ := s.holder(shared)
	s.soon("an orphan is not the holder's", func() bool { return len(s.kin(before.PID)) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.Exec(ctx, a, container.ExecSpec{Args: []string{"/prog", "stubborn"}, Stdout: &strings.Builder{}, Stderr: &strings.Builder{}})
		done <- err
	}()
	first := s.Driver
	s.soon("the program inside is not there", func() bool { return len(s.noted()) == 1 })
	stop()
	s.open()
	s.serve()
	<-done // its parent ends with it, so it is told one way or another
	if first == s.Driver {
		t.Fatal("the same driver")
	}
	if got := s.status(a); got.State != container.Running {
		t.Fatalf("adopted: %+v", got)
	}
	after, ok := s.holder(shared)
	if !ok || after.key() != before.key() || len(s.kin(after.PID)) != 1 {
		t.Errorf("held by %+v, before by %+v, with %v", after, before, s.kin(after.PID))
	}
	b := s.member("b", 0, "sleep")
	if s.run(a, "namespace", "pid") != s.run(b, "namespace", "pid") {
		t.Error("a container that comes after is elsewhere")
	}
	s.soon("the program inside runs on", func() bool { return len(s.groups.processes(s.cgroup(a))) == 2 })
}

// A start that is broken off at any step leaves nothing, and the next one works.
func TestAHolderIsMadeAfterABrokenStart(t *testing.T) {
	for _, at := range []string{"holder", "held"} {
		s := newScene(t)
		s.share()
		spec := s.spec(container.ID{Pod: shared, Name: "a"}, "sleep")
		s.cfg.step = func(step string) {
			if step == at {
				panic(at)
			}
		}
		func() {
			defer func() { _ = recover() }()
			_ = s.Start(t.Context(), spec)
			t.Errorf("%s was not come by", at)
		}()
		s.open()
		s.serve()
		s.must(s.Start(t.Context(), spec))
		if _, ok := s.holder(shared); !ok {
			t.Error("nobody holds the Pod")
		}
	}
}

func TestTheMachinesProcessesTakeItsNamespacesWord(t *testing.T) {
	s := newScene(t)
	s.serve()
	own := func(kind string) string {
		at, err := os.Readlink("/proc/self/ns/" + kind)
		s.must(err)
		return at
	}
	for kind, sandbox := range map[string]container.Sandbox{
		"pid": {Pod: "pod", Hostname: "h", HostPIDs: true}, "ipc": {Pod: "pod", Hostname: "h", HostIPC: true},
	} {
		s.must(s.RemoveSandbox(t.Context(), "pod"))
		s.must(s.Prepare(t.Context(), sandbox))
		spec := s.one("namespace", kind, ";", "spawn", "sleep", ";", "exit", "0")
		if err := s.Start(t.Context(), spec); !errors.Is(err, container.ErrNotAllowed) {
			t.Errorf("%s, not allowed: %v", kind, err)
		}
		spec.Security.Allowed.Privileged = true
		s.must(s.Start(t.Context(), spec))
		out := s.output(spec.ID)
		if len(out) < 2 || out[0] != own(kind) {
			t.Errorf("%s: it is in %q, the machine in %s", kind, out, own(kind))
		}
		s.soon("what it left runs on", func() bool { return len(s.groups.processes(s.cgroup(spec.ID))) == 0 })
	}
}
