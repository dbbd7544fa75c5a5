package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// A manager is a service manager as a keeper knows it.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv(notifySocket, path)
	return &manager{t: t, conn: conn}
}

// hear reads on until one datagram has the line.
func (m *manager) hear(line string) string {
	m.t.Helper()
	_ = m.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 4096)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("wait for %q: %v", line, err)
		}
		if slices.Contains(strings.Split(string(buf[:n]), "\n"), line) {
			return string(buf[:n])
		}
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	m := newManager(t)
	s := newStage(t, "beating")
	s.start()
	m.hear("READY=1")
	agent := s.hear("agent")
	if ready, err := keeper.ReadPID(s.dir.AgentReady()); err != nil || ready != agent {
		t.Errorf("agent.ready holds %d, %v; want %d", ready, err, agent)
	}
	m.hear("WATCHDOG=1")
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	m.hear("STOPPING=1")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the keeper ended with %v", err)
	}
	if exists(s.dir.AgentReady()) {
		t.Error("agent.ready is left")
	}
}

func TestAgentWithoutABeatIsNotReady(t *testing.T) {
	m := newManager(t)
	s := newStage(t, "agent")
	s.start()
	s.hear("agent")
	if text := m.hear("WATCHDOG=1"); strings.Contains(text, "READY") {
		t.Errorf("told %q", text)
	}
	if exists(s.dir.AgentReady()) {
		t.Error("an agent that has not said so is ready")
	}
}

// What the manager told is for the keeper: a container runtime below the agent
// would take it for itself.
func TestAgentIsSparedTheServiceManager(t *testing.T) {
	t.Setenv(notifySocket, "/nowhere")
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("KEPT", "1")
	env := strings.Join(agentEnv(), "\n")
	if strings.Contains(env, notifySocket) || strings.Contains(env, "WATCHDOG") || !strings.Contains(env, "KEPT=1") {
		t.Errorf("the agent gets\n%s", env)
	}
}

func TestReplaceChangesKeeperAndAgent(t *testing.T) {
	m := newManager(t)
	s := newStage(t, "beating")
	s.start()
	m.hear("READY=1")
	old := s.hear("agent")
	// The new build is another file, executed in the same process.
	next := filepath.Join(t.TempDir(), "skeeper")
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(next, text, 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	argv := []string{next, string(s.dir), "--", os.Args[0]}
	if err := keeper.WriteAside(s.dir.Reload(), []byte(strings.Join(argv, "\x00"))); err != nil {
		t.Fatal(err)
	}
	if got, err := s.dir.ReloadArgs(); err != nil || !slices.Equal(got, argv) {
		t.Errorf("ReloadArgs = %q, %v", got, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if err := s.dir.Replace(ctx); err != nil {
		t.Fatal(err)
	}
	m.hear("RELOADING=1")
	m.hear("READY=1")
	if next := s.hear("agent"); next == old {
		t.Error("the agent is the old one")
	}
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/exe"); err != nil || exe != next {
		t.Errorf("the keeper is %s, %v; want %s", exe, err, next)
	}
}

// A build that cannot be executed leaves all as it was.
func TestFailedReloadChangesNothing(t *testing.T) {
	m := newManager(t)
	s := newStage(t, "beating")
	s.start()
	m.hear("READY=1")
	old := s.hear("agent")
	if err := keeper.WriteAside(s.dir.Reload(), []byte("/nonexistent")); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	if text := m.hear("READY=1"); !strings.Contains(text, "reload failed") {
		t.Errorf("told %q", text)
	}
	if now, err := keeper.ReadPID(s.dir.AgentPID()); err != nil || now != old {
		t.Errorf("agent %d, %v; want %d", now, err, old)
	}
}

func TestReplaceWithoutAKeeper(t *testing.T) {
	dir := keeper.Dir(t.TempDir())
	if err := dir.Replace(t.Context()); err == nil || !strings.Contains(err.Error(), "no keeper") {
		t.Errorf("Replace = %v", err)
	}
}

func TestSilentAgentIsEnded(t *testing.T) {
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	for _, c := range []struct {
		name   string
		health health
		ended  bool
	}{
		{"well", health{last: ago(time.Second), looked: ago(lookEvery)}, false},
		{"never told", health{looked: ago(lookEvery)}, false},
		{"silent", health{last: ago(wedgedAfter + time.Second), looked: ago(lookEvery)}, true},
		{"silent, but so was the keeper", health{last: ago(wedgedAfter + time.Second), looked: ago(time.Minute)}, false},
		{"asked to stop", health{last: ago(wedgedAfter + time.Second), asked: ago(time.Second), looked: ago(lookEvery)}, false},
		{"does not stop", health{asked: ago(stopWithin + time.Second), looked: ago(lookEvery)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sleep", "100")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Process.Signal(syscall.SIGSTOP) // as wedged as can be
			s := supervisor{agent: cmd.Process.Pid, health: &c.health}
			s.look()
			if !c.ended {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				_ = cmd.Process.Signal(syscall.SIGCONT)
			}
			_ = cmd.Wait()
			got := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL //nolint:forcetypeassert // on Linux
			if got != c.ended {
				t.Errorf("killed: %v, want %v", got, c.ended)
			}
		})
	}
}
