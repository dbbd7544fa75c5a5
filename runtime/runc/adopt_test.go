package runc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// roleUsers is the role "start" for a Pod with users of its own.
const roleUsers = "start-users"

// playRole is what this test binary does as an agent that will be killed: it
// starts containers as told and then waits for its end.
func playRole(role string) {
	dir, at := os.Getenv("SKEIN_TEST_DIR"), os.Getenv("SKEIN_TEST_AT")
	s := &scene{dir: dir, t: roleTB{}}
	cfg := testConfig(s.t, dir)
	cfg.Logger = slog.New(slog.DiscardHandler)
	steps := 0
	cfg.step = func(name string) {
		steps++
		if name == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	var err error
	if s.Driver, err = New(cfg); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx := context.Background()
	fmt.Println("ready")
	switch role {
	case "start", roleUsers, "reap":
		if role == "reap" {
			if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
				panic(err)
			}
		}
		for i, words := range strings.Split(os.Getenv("SKEIN_TEST_WORDS"), "|") {
			id := container.ID{Pod: "pod", Name: fmt.Sprintf("c%d", i)}
			spec := s.spec(id, strings.Fields(words)...)
			spec.MessagePath = "/dev/termination-log"
			if err := errors.Join(s.Prepare(ctx, container.Sandbox{Pod: "pod", Hostname: "h", Users: role == roleUsers}), s.Start(ctx, spec)); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println("started", id)
		}
	case "exec":
		_, err := s.Exec(ctx, container.ID{Pod: "pod", Name: "c0"}, container.ExecSpec{Args: []string{"/prog", "stubborn"}, Stdout: os.Stdout})
		fmt.Println(err)
	}
	if role != "reap" {
		_ = syscall.Pause()
		select {}
	}
	for { // every orphan, without a word
		if pid, err := unix.Wait4(-1, nil, 0, nil); err != nil {
			_ = pause(ctx, time.Millisecond)
		} else {
			fmt.Println("reaped", pid)
		}
	}
}

// roleTB stands in for a testing.TB where there is no test.
type roleTB struct{ testing.TB }

func (roleTB) Helper() {}
func (roleTB) Fatal(args ...any) {
	fmt.Println(args...)
	os.Exit(1)
}

// A victim is an agent that will be killed.
type victim struct {
	cmd *exec.Cmd
	t   *testing.T
	out *os.File
}

func (s *scene) victim(t *testing.T, role, words, at string) *victim {
	t.Helper()
	r, w, err := os.Pipe()
	s.must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envRole+"="+role, "SKEIN_TEST_DIR="+s.dir, "SKEIN_TEST_WORDS="+words, "SKEIN_TEST_AT="+at)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	s.must(cmd.Start())
	_ = w.Close()
	v := &victim{cmd: cmd, t: t, out: r}
	t.Cleanup(func() { v.kill() })
	return v
}

// hear waits until the victim has said a line.
func (v *victim) hear(want string) {
	v.t.Helper()
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := v.out.Read(b); err != nil {
			v.t.Fatalf("the victim did not say %q: %v", want, err)
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		if strings.HasPrefix(string(line), want) {
			return
		}
		line = nil
	}
}

func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
	_ = v.out.Close()
}

func TestANewDriverAdoptsAll(t *testing.T) {
	s := newScene(t)
	v := s.victim(t, "start", "sleep|exit 5|sleep ; exit 6|say early ; sleep ; say late ; exit 7", "")
	for i := range 4 {
		v.hear(fmt.Sprintf("started pod.c%d.0", i))
	}
	id := func(i int) container.ID { return container.ID{Pod: "pod", Name: fmt.Sprintf("c%d", i)} }
	// Its own view is not good for more than names: nothing is written by it.
	pid := func(i int) int {
		var p process
		s.must(readJSON(filepath.Join(s.boxDir(id(i)), processFile), &p))
		return p.PID
	}
	pids := []int{pid(0), pid(1), pid(2), pid(3)}
	v.kill()
	// These two end while no agent runs.
	for _, i := range []int{2, 3} {
		p := process{}
		s.must(readJSON(filepath.Join(s.boxDir(id(i)), processFile), &p))
		s.await(keeper.Dir(s.cfg.KeeperDir).LogDir(id(i).String()), func() bool { return s.saidOnDisk(id(i), "sleeping") })
		s.must(syscall.Kill(p.PID, syscall.SIGTERM))
		s.await(keeper.Dir(s.cfg.KeeperDir).Exits(), func() bool { _, err := p.key().Stat(); return err != nil || s.filed(p) })
	}
	s.open()
	s.serve()
	if got := s.status(id(0)); got.State != container.Running || got.PID != pids[0] || got.Labels["a"] != "label" {
		t.Errorf("the one that runs: %+v, want pid %d", got, pids[0])
	}
	for i, code := range map[int]int{1: 5, 2: 6, 3: 7} {
		if got := s.exited(id(i)); got.ExitCode != code {
			t.Errorf("%s: %+v, want exit code %d", id(i), got, code)
		}
	}
	if got := strings.Join(s.output(id(3)), " "); got != "early sleeping late" {
		t.Errorf("output over the change of agents: %q", got)
	}
	s.must(s.Start(t.Context(), s.spec(id(0), "exit", "1")))
	if got := s.status(id(0)); got.PID != pids[0] {
		t.Errorf("started again: %+v", got)
	}
	s.must(s.Stop(t.Context(), id(0), time.Minute))
	if got := s.status(id(0)); got.ExitCode != 0 {
		t.Errorf("stopped: %+v", got)
	}
}

func (s *scene) filed(p process) bool {
	_, err := s.keeper.ReadExit(p.PID, p.Start)
	return err == nil
}

func (s *scene) saidOnDisk(id container.ID, text string) bool {
	found := false
	_ = s.keeper.ReadLog(s.t.Context(), id.String(), keeper.ReadOptions{Tail: -1}, func(l keeper.Line) error {
		found = found || string(l.Text) == text
		return nil
	})
	return found
}

// await looks again whenever something below path has changed.
func (s *scene) await(path string, ready func() bool) {
	s.t.Helper()
	w, err := keeper.NewWatch(path, syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_MODIFY|syscall.IN_DELETE)
	s.must(err)
	defer w.Close()
	for !ready() {
		s.must(w.Wait(s.t.Context()))
	}
}

// Whichever line of Start an agent is killed at, the next one is left with a
// container that runs, or with none, and can start it.
func TestAnAgentKilledInTheMiddleOfStart(t *testing.T) {
	killedAt(t, "start", "spec", "output", "root", "message", "volumes", "bundle", "run", "process")
}

func TestAnAgentKilledInTheMiddleOfStartWithUsers(t *testing.T) {
	if hasUsers(t) {
		killedAt(t, roleUsers, "users", "spec", "output", "mapped", "root", "message", "volumes", "bundle", "run", "process")
	}
}

func killedAt(t *testing.T, role string, steps ...string) {
	t.Helper()
	for _, at := range steps {
		t.Run(at, func(t *testing.T) {
			s := newScene(t)
			v := s.victim(t, role, "sleep", at)
			_ = v.cmd.Wait()
			s.open()
			s.serve()
			id := container.ID{Pod: "pod", Name: "c0"}
			list, err := s.List(t.Context())
			s.must(err)
			if ran := at == "run" || at == "process"; ran != (len(list) == 1) {
				t.Fatalf("listed: %+v", list)
			}
			s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "pod", Hostname: "h", Users: role == roleUsers}))
			s.must(s.Start(t.Context(), s.spec(id, "sleep")))
			now := s.status(id)
			if now.State != container.Running || (len(list) == 1 && list[0].PID != now.PID) {
				t.Errorf("then: %+v, before: %+v", now, list)
			}
			s.heard(id, "sleeping")
			s.must(s.Stop(t.Context(), id, time.Minute))
			if got := s.status(id); got.ExitCode != 0 {
				t.Errorf("stopped: %+v", got)
			}
		})
	}
}

// The same with the time left to chance: runc itself is in the middle of things.
func TestAnAgentKilledWhileRuncWorks(t *testing.T) {
	s := newScene(t)
	for range 12 {
		v := s.victim(t, "start", "sleep|sleep|sleep", "")
		v.hear("ready")
		if err := pause(t.Context(), time.Duration(rand.IntN(120))*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		v.kill()
		s.open()
		stop := s.serve()
		s.prepare("pod")
		before, err := s.List(t.Context())
		s.must(err)
		for i := range 3 {
			id := container.ID{Pod: "pod", Name: fmt.Sprintf("c%d", i)}
			s.must(s.Start(t.Context(), s.spec(id, "sleep")))
			if got := s.status(id); got.State != container.Running {
				t.Errorf("%s: %+v", id, got)
			}
			s.heard(id, "sleeping")
		}
		for _, b := range before {
			if now := s.status(b.ID); b.State != container.Running || now.PID != b.PID {
				t.Errorf("%s was %+v and is %+v", b.ID, b, now)
			}
		}
		if list, err := s.List(t.Context()); err != nil || len(list) != 3 {
			t.Errorf("%d containers, %v", len(list), err)
		}
		s.must(s.RemoveSandbox(t.Context(), "pod"))
		for _, left := range leftovers(s.Driver) {
			t.Errorf("left behind: %s", left)
		}
		stop()
	}
}

func TestProgramsOfADeadAgentAreEnded(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.spec(container.ID{Pod: "pod", Name: "c0"}, "sleep"))
	v := s.victim(t, "exec", "", "")
	v.hear("stubborn")
	group := s.cgroup(id)
	if n := len(s.groups.processes(group)); n < 2 {
		t.Fatalf("%d processes in the container", n)
	}
	v.kill()
	s.open()
	s.awaitAlone(id)
	if got := s.status(id); got.State != container.Running {
		t.Errorf("the container itself: %+v", got)
	}
}

// Whose keeper has died becomes an orphan of somebody who keeps no exit files.
// The kernel, from 6.15 on, tells how it ended all the same.
func TestContainersWithoutAKeeper(t *testing.T) {
	s := newScene(t)
	v := s.victim(t, "reap", "sleep ; exit 7", "")
	v.hear("started")
	s.open()
	s.serve()
	id := container.ID{Pod: "pod", Name: "c0"}
	s.heard(id, "sleeping")
	s.must(s.box(id).signal(syscall.SIGTERM))
	want := 7
	if !kernelTellsExits(t) {
		want = -1
	}
	if got := s.exited(id); got.ExitCode != want {
		t.Errorf("%+v, want exit code %d", got, want)
	}
}

// kernelTellsExits tries it on a child.
func kernelTellsExits(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	_ = cmd.Wait()
	_, ok := exitInfo(f)
	return ok
}

// After a loss of power nothing of an earlier boot runs, whatever has its pid.
func TestContainersOfAnotherBootHaveEnded(t *testing.T) {
	s := newScene(t)
	id := s.start(s.spec(container.ID{Pod: "pod", Name: "c"}, "sleep"))
	path := filepath.Join(s.boxDir(id), processFile)
	var p process
	s.must(readJSON(path, &p))
	p.Boot = "another"
	s.must(writeJSON(path, p, keeper.WriteAside))
	s.open()
	if got := s.status(id); got.State != container.Exited || got.ExitCode != -1 || !got.Stale {
		t.Errorf("%+v, want exited, exit code unknown, of a sandbox that is no more", got)
	}
	if got := s.status(id).FinishedAt; time.Since(got) > time.Minute {
		t.Errorf("finished %v", got)
	}
}

// Where the end of a container cannot be written down, it is told all the same,
// by the next driver too.
func TestAFullDiskHidesNoExit(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep", ";", "exit", "3"))
	s.heard(id, "sleeping")
	away := filepath.Join(s.dir, "away")
	s.must(os.Rename(s.boxDir(id), away)) // nothing can be written here now
	s.must(s.Stop(t.Context(), id, time.Minute))
	if got := s.status(id); got.ExitCode != 3 {
		t.Errorf("%+v, want exit code 3", got)
	}
	s.must(os.Rename(away, s.boxDir(id)))
	s.open()
	if got := s.status(id); got.ExitCode != 3 {
		t.Errorf("another driver: %+v, want exit code 3", got)
	}
}

func TestRemoveIsGoneOnWith(t *testing.T) {
	s := newScene(t)
	stop := s.serve()
	id := s.start(s.spec(container.ID{Pod: "pod", Name: "c"}, "exit", "1"))
	s.exited(id)
	stop()
	// As if killed after all was cleared away, but before the folder was.
	s.must(s.clear(id))
	s.open()
	if got := s.status(id); got.ExitCode != 1 {
		t.Errorf("%+v", got)
	}
	s.must(s.Remove(t.Context(), id))
}
