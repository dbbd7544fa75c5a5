package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// binary is the keeper as it ships, built for these tests.
var binary string

func TestMain(m *testing.M) {
	if role := os.Getenv("SKEEPER_TEST_ROLE"); role != "" {
		play(role)
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "skeeper")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "skeeper")
		build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", binary, ".")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the keeper:", err)
			return 1
		}
		return m.Run()
	}())
}

// play is what this test binary does as a keeper's agent: it says that it
// started, obeys what is written to its own FIFO, and ends on SIGTERM.
func play(role string) {
	dir := os.Getenv("SKEEPER_TEST_DIR")
	note := func(text string) {
		f, err := os.OpenFile(filepath.Join(dir, "said"), os.O_WRONLY, 0) // a FIFO
		if err == nil {
			fmt.Fprintln(f, text)
			_ = f.Close()
		}
	}
	switch role {
	case "ward":
		countOn(os.Getenv("SKEEPER_TEST_GROUP"), os.Getenv("SKEEPER_TEST_COUNTS"))
	case "agent":
		note(fmt.Sprintf("agent %d", os.Getpid()))
		_ = syscall.Pause()
	case "hopeless", "outcast":
		note(fmt.Sprintf("agent %d", os.Getpid()))
		os.Exit(map[string]int{"hopeless": keeper.ExitUsage, "outcast": keeper.ExitRemoved}[role])
	case "beating":
		beat := keeper.TakeBeat()
		if err := beat(); err != nil {
			panic(err)
		}
		note(fmt.Sprintf("agent %d", os.Getpid()))
		_ = syscall.Pause()
	case "orphans":
		// A child of a child that ends at once: the grandchildren are orphans.
		for _, script := range []string{"exit 7", "exec sh -c 'kill -9 $$'", "exit 0"} {
			out, err := exec.Command("sh", "-c", "(read x < "+dir+"/go; "+script+") >/dev/null 2>&1 & echo $!").Output()
			if err != nil {
				panic(err)
			}
			note("orphan " + strings.TrimSpace(string(out)))
		}
		note(fmt.Sprintf("agent %d", os.Getpid()))
		_ = syscall.Pause()
	}
}

// A stage is a keeper's folder and how its agent speaks.
type stage struct {
	t    *testing.T
	dir  keeper.Dir
	role string
	said *bufio.Scanner
	cmd  *exec.Cmd
}

func newStage(t *testing.T, role string) *stage {
	t.Helper()
	s := &stage{t: t, dir: keeper.Dir(t.TempDir()), role: role}
	said := filepath.Join(string(s.dir), "said")
	if err := syscall.Mkfifo(said, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(said, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s.said = bufio.NewScanner(f)
	return s
}

func (s *stage) start() {
	s.t.Helper()
	s.cmd = exec.Command(binary, string(s.dir), "--", os.Args[0])
	s.cmd.Env = append(keeper.Environ(), "SKEEPER_TEST_ROLE="+s.role, "SKEEPER_TEST_DIR="+string(s.dir))
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.cmd
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
}

// hear gives the number behind a word that the agent says next.
func (s *stage) hear(word string) int {
	s.t.Helper()
	if !s.said.Scan() {
		s.t.Fatalf("the agent says no more: %v", s.said.Err())
	}
	var n int
	if _, err := fmt.Sscanf(s.said.Text(), word+" %d", &n); err != nil {
		s.t.Fatalf("the agent says %q, want %q", s.said.Text(), word)
	}
	return n
}

// await looks again, whenever the folder at path has changed, until ready.
func (s *stage) await(path string, ready func() bool) {
	s.t.Helper()
	w, err := keeper.NewWatch(path, syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_DELETE|syscall.IN_MODIFY)
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	for !ready() {
		if err := w.Wait(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestAnAgentThatWillNeverWorkEndsItsKeeper(t *testing.T) {
	for role, want := range map[string]int{"hopeless": 2, "outcast": keeper.ExitRemoved} {
		t.Run(role, func(t *testing.T) {
			s := newStage(t, role)
			s.start()
			s.hear("agent")
			state, err := s.cmd.Process.Wait()
			if err != nil || state.ExitCode() != want {
				t.Errorf("the keeper ended with %v, %v, want exit code %d", state, err, want)
			}
			if _, err := os.Stat(s.dir.KeeperPID()); err == nil {
				t.Error("its pid file is still there")
			}
		})
	}
}

func TestAgentIsStartedAgain(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	first := s.hear("agent")
	if got, err := keeper.ReadPID(s.dir.AgentPID()); err != nil || got != first {
		t.Errorf("agent.pid holds %d, %v; want %d", got, err, first)
	}
	if got, err := keeper.ReadPID(s.dir.KeeperPID()); err != nil || got != s.cmd.Process.Pid {
		t.Errorf("keeper.pid holds %d, %v; want %d", got, err, s.cmd.Process.Pid)
	}
	begin := time.Now()
	_ = syscall.Kill(first, syscall.SIGKILL)
	second := s.hear("agent")
	t.Logf("started again after %v", time.Since(begin))
	_ = syscall.Kill(second, syscall.SIGKILL)
	if third := s.hear("agent"); third == second || third == first {
		t.Errorf("the third agent is an earlier one")
	}
}

func TestAgentIsHeldBack(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	first := s.hear("agent")
	if err := os.WriteFile(s.dir.Hold(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(first, syscall.SIGKILL)
	s.await(string(s.dir), func() bool { return !exists(s.dir.AgentPID()) })
	if err := os.Remove(s.dir.Hold()); err != nil {
		t.Fatal(err)
	}
	if second := s.hear("agent"); second == first {
		t.Error("the agent came back from the dead")
	}
}

func TestTermStopsAgentThenKeeper(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	agent, err := keeper.Find(s.hear("agent"))
	if err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the keeper ended with %v", err)
	}
	if _, err := agent.Stat(); err == nil {
		t.Error("the agent runs on")
	}
	for _, path := range []string{s.dir.AgentPID(), s.dir.KeeperPID(), s.dir.AgentState()} {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
}

func TestAnAbortedKeeperEndsByTheSignal(t *testing.T) {
	t.Setenv(keeper.TracebackEnv, "single") // of an operator: Go takes the first that there is
	s := newStage(t, "agent")
	s.start()
	agent := s.hear("agent")
	_ = s.cmd.Process.Signal(syscall.SIGABRT)
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the keeper ended with %v", err)
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGABRT {
		t.Errorf("the keeper ended with %v: a service manager takes that for an exit code of its own", err)
	}
	_ = syscall.Kill(agent, syscall.SIGKILL)
}

func TestOrphansAreReapedAndTheirEndIsKept(t *testing.T) {
	s := newStage(t, "orphans")
	release := filepath.Join(string(s.dir), "go")
	if err := syscall.Mkfifo(release, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	var orphans []keeper.Process
	for range 3 {
		p, err := keeper.Find(s.hear("orphan"))
		if err != nil {
			t.Fatal(err)
		}
		orphans = append(orphans, p)
	}
	s.hear("agent")
	// A keeper that is executed in place keeps its children, the agent too.
	agent, err := keeper.ReadPID(s.dir.AgentPID())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.dir.KeeperPID()); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	s.await(string(s.dir), func() bool { return exists(s.dir.KeeperPID()) })
	f, err := os.OpenFile(release, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.WriteString("\n\n\n")
	for i, want := range []struct{ code, signal int }{{7, 0}, {137, 9}, {0, 0}} {
		var got keeper.Exit
		s.await(s.dir.Exits(), func() bool {
			got, err = s.dir.ReadExit(orphans[i].PID, orphans[i].Start)
			return err == nil
		})
		if got.Code() != want.code || got.Signal() != want.signal {
			t.Errorf("orphan %d: code %d, signal %d; want %d, %d", i, got.Code(), got.Signal(), want.code, want.signal)
		}
		if time.Since(got.Time) > time.Minute {
			t.Errorf("orphan %d ended at %v", i, got.Time)
		}
	}
	if now, err := keeper.ReadPID(s.dir.AgentPID()); err != nil || now != agent {
		t.Errorf("agent %d, %v; want %d as before the reload", now, err, agent)
	}
	_ = syscall.Kill(agent, syscall.SIGKILL)
	for range 3 {
		s.hear("orphan")
	}
	if next := s.hear("agent"); next == agent {
		t.Error("the agent came back from the dead")
	}
}

func TestAnotherKeeperDismissesTheAgentOfADeadOne(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	agent, err := keeper.Find(s.hear("agent"))
	if err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.start()
	if next := s.hear("agent"); next == agent.PID {
		t.Error("the agent came back from the dead")
	}
	if stat, err := agent.Stat(); err == nil && stat.State != 'Z' {
		t.Error("two agents run")
	}
}

func TestTwoKeepersDoNotShareAFolder(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	s.hear("agent")
	out, err := exec.Command(binary, string(s.dir), "--", "/bin/true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another keeper") {
		t.Errorf("the second one: %v, %s", err, out)
	}
}
