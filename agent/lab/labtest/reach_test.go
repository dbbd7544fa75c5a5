//go:build lab

package labtest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const shell = `
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - {name: c, image: "skein/demo:v1", args: [echo], stdin: true, tty: true}
`

// A seat is a person at a terminal.
type seat struct {
	l      *lab
	cmd    *exec.Cmd
	master *os.File
	lines  *bufio.Reader
	stuck  *time.Timer
}

// sit runs skein at a terminal.
func (l *lab) sit(args ...string) *seat {
	l.Helper()
	master, slave, err := openPTY()
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = master.Close() })
	s := &seat{l: l, cmd: l.command("skein", args...), master: master, lines: bufio.NewReader(master)}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	_ = slave.Close()
	s.stuck = time.AfterFunc(40*time.Second, func() { _ = s.cmd.Process.Kill() })
	return s
}

// hear reads on to a line.
func (s *seat) hear(want string) {
	s.l.Helper()
	for {
		line, err := s.lines.ReadString('\n')
		if strings.TrimSpace(line) == want {
			return
		}
		if err != nil {
			s.l.Fatalf("never heard %q: %v", want, err)
		}
	}
}

func (s *seat) types(keys string) {
	s.l.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.l.Fatal(err)
	}
}

// leaves waits until the command has ended, and tells its exit code.
func (s *seat) leaves() int {
	s.l.Helper()
	go func() { _, _ = io.Copy(io.Discard, s.lines) }()
	err := s.cmd.Wait()
	s.stuck.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.l.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

func TestATerminalIsThereAfterItsAgentWas(t *testing.T) {
	l := raise(t, 2)
	l.apply(shell, "--timeout", "20s")
	before := l.pod("shell")
	const greeting = "If no prompt shows, press Enter. Ctrl-P Ctrl-Q leaves it running."
	first := l.sit("attach", "-it", "shell")
	first.hear(greeting)
	first.types("one\n")
	first.hear("got one")
	second := l.sit("attach", "-it", "shell")
	second.hear(greeting)
	second.types("two\n")
	first.hear("got two") // both are there
	second.hear("got two")
	second.types("\x10\x11")
	if code := second.leaves(); code != 0 {
		t.Errorf("who detached ended with %d", code)
	}
	node := before.Spec.NodeName
	l.lab("stop", node)
	if code := first.leaves(); code != 1 {
		t.Errorf("whose agent died ended with %d, want 1", code)
	}
	l.lab("start", node)
	l.awaitNode(comeback, node, "True AgentReady")
	third := l.sit("attach", "-it", "shell")
	third.hear(greeting)
	third.types("three\n")
	third.hear("got three")
	after := l.pod("shell")
	if a, b := before.Status.ContainerStatuses[0].ContainerID, after.Status.ContainerStatuses[0].ContainerID; a != b {
		t.Errorf("another container: %s, was %s", b, a)
	}
	third.types("\x04") // the program's input ends
	if code := third.leaves(); code != 5 {
		t.Errorf("attached to the end: exit code %d, want the program's 5", code)
	}
	contains(l, "logs", l.skein("logs", "shell"), "got one", "got two", "got three")
}

func TestFilesGoInAndOutOfAContainer(t *testing.T) {
	l := raise(t, 2)
	runWeb(l, "2")
	dir := t.TempDir()
	noise := make([]byte, 20<<20)
	_, _ = rand.Read(noise)
	for name, data := range map[string][]byte{"tree/a": []byte("a\x00\xff\n"), "tree/sub/noise": noise} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "tree/link")); err != nil {
		t.Fatal(err)
	}
	for _, p := range l.pods("app=web") { // one here, one on another node than who is asked
		l.skein("cp", filepath.Join(dir, "tree"), p.Name+":/dev/shm/tree")
		back := filepath.Join(dir, "back-"+p.Name)
		l.skein("cp", p.Name+":/dev/shm/tree", back)
		if out, err := exec.Command("diff", "-r", "--no-dereference", filepath.Join(dir, "tree"), back).CombinedOutput(); err != nil {
			t.Errorf("%s on %s: %v\n%s", p.Name, p.Spec.NodeName, err, out)
		}
		info, err := os.Stat(filepath.Join(back, "a"))
		if err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: %v, %v", p.Name, info, err)
		}
		l.refused(1, "permission denied", "cp", filepath.Join(dir, "tree/a"), p.Name+":/etc/a")
		l.refused(1, "is not in the container", "cp", p.Name+":/no/such", back+"2")
	}
}

func TestAHundredMegabytesGoThroughAForwardedPort(t *testing.T) {
	l := raise(t, 2)
	l.skein("image", "import", visitor(t))
	l.skein("run", "back", "--image", "visitor:1", "--replicas", "2", "--timeout", "30s", "--", "back", ":7000")
	for _, p := range l.pods("app=back") {
		cmd := l.command("skein", "port-forward", p.Name, ":7000", ":7001")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stuck := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		var open, closed string
		for _, to := range []*string{&open, &closed} {
			if lines.Scan() {
				*to = strings.Fields(lines.Text())[2]
			}
		}
		var wait sync.WaitGroup
		for _, size := range []int{100 << 20, 1, 0, 1 << 20} { // at once
			wait.Go(func() { thereAndBack(t, open, size) })
		}
		// It is told off at once, maybe before it knows that it was let in.
		if conn, err := net.Dial("tcp", closed); err != nil {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		} else {
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("where nobody listens: %d bytes, %v", n, err)
			}
			_ = conn.Close()
		}
		wait.Wait()
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("port-forward ended with %v, want 130", err)
		}
		stuck.Stop()
		contains(l, "port-forward", complaints.String(), "nothing listens on port 7001 of the Pod")
	}
}

// thereAndBack sends so many bytes, ends, and reads them back with the word that
// follows their end.
func thereAndBack(t *testing.T, addr string, size int) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	go func() {
		_, _ = conn.Write(data)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if want := string(data) + fmt.Sprintf("%d bytes came", size); err != nil || string(got) != want {
		t.Errorf("%d bytes there, %d back, %v", size, len(got), err)
	}
}

// Who is cut off by the network leaves nothing running in a container, and no
// folder of a session.
func TestTenSessionsThatAreCutOffEnd(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "3")
	leader, _ := l.leader()
	var pod, node, key string
	for _, p := range l.pods("app=web") {
		if p.Spec.NodeName != leader { // whoever is asked passes it on to the leader, and that one to the node
			pod, node, key = p.Name, p.Spec.NodeName, string(p.UID)+"/web.0"
		}
	}
	var wait sync.WaitGroup
	for i := range 10 {
		cmd := l.command("skein", "exec", "-i", pod, "--", "/bin/demo", "sleep")
		if i%2 == 0 {
			cmd = l.command("skein", "exec", "-i", pod, "--", "/bin/demo", "cat", "/dev/stdin")
		}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			if cmd.Wait() == nil {
				t.Error("a session that was cut off ended well")
			}
			_ = stdin.Close()
		})
	}
	l.await(comeback, "ten programs run", func() string {
		if got := len(processes(t, node)[key]); got != 11 {
			return fmt.Sprintf("%d processes", got)
		}
		return ""
	})
	var rest []string
	for _, n := range []string{"n1", "n2", "n3"} {
		if n != node {
			rest = append(rest, n)
		}
	}
	l.lab("partition", strings.Join(rest, ","), node)
	took := l.await(60*time.Second, "all of them have ended, and the container has not", func() string {
		left, _ := filepath.Glob(filepath.Join(l.dir, node, "run", "exec", "*"))
		if got := len(processes(t, node)[key]); got != 1 || len(left) > 0 {
			return fmt.Sprintf("%d processes, sessions %v", got, left)
		}
		return ""
	})
	t.Logf("ten sessions that were cut off were gone after %.1f s", took.Seconds())
	l.lab("heal")
	wait.Wait()
}

func TestALineOfAHundredMegabytesIsFollowedWhole(t *testing.T) {
	l := raise(t, 1)
	l.skein("image", "import", visitor(t))
	l.apply(`
apiVersion: v1
kind: Pod
metadata: {name: long}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "visitor:1", args: [long, "100"], resources: {limits: {memory: 64Mi}}}
`, "--timeout", "20s")
	got := l.try("logs", "-f", "long")
	line, end, _ := strings.Cut(got.out, "\n")
	if len(line) != 100<<20 || strings.Count(line, "0123456789abcdef") != len(line)/16 || end != "the end\n" {
		t.Errorf("followed %d bytes, then %.40q; want %d", len(line), end, 100<<20)
	}
	kept := l.skein("logs", "long")
	if len(kept) > 11<<20 || !strings.HasSuffix(kept, "the end\n") {
		t.Errorf("%d bytes are kept, the end %v", len(kept), strings.HasSuffix(kept, "the end\n"))
	}
	if last := l.skein("logs", "long", "--tail", "1"); last != "the end\n" {
		t.Errorf("the last line is %.40q", last)
	}
}

func TestOnePodIsRunAndJoined(t *testing.T) {
	l := raise(t, 2)
	cmd := l.command("skein", "run", "once", "-i", "--rm", "--image", "skein/demo:v1", "--", "echo")
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	if got := l.do(cmd); got.code != 5 || got.out != "got one\ngot two\n" {
		t.Errorf("exit code %d, %q\n%s", got.code, got.out, got.err)
	}
	// It has ended before anybody could join it: its words and its code are there.
	if got := l.try("run", "short", "--rm", "--image", "skein/demo:v1", "--", "print", "gone"); got.code != 0 || got.out != "gone\n" {
		t.Errorf("exit code %d, %q\n%s", got.code, got.out, got.err)
	}
	l.await(comeback, "both are deleted", func() string { return strings.TrimSpace(l.skein("get", "pods", "-o", "name")) })
}
