//go:build lab

package labtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const pair = `
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: "skein/demo:v1"}
  - {name: side, image: "skein/demo:v1", args: [sleep]}
`

func TestContainersOfAPodShareLoopbackAndHostname(t *testing.T) {
	l := raise(t, 1)
	l.apply(pair + "---" + strings.ReplaceAll(pair, "name: pair", "name: other"))
	out := l.skein("exec", "pair", "-c", "side", "--", "/bin/demo", "get", "http://127.0.0.1:8080/")
	contains(l, "from the other container", out, `"pod":"pair"`, `"version":"v1"`)
	for _, c := range []string{"web", "side"} {
		contains(l, "hostname in "+c, l.skein("exec", "pair", "-c", c, "--", "/bin/demo", "cat", "/proc/sys/kernel/hostname"), "pair")
	}
	l.refused(5, "", "exec", "pair", "-c", "side", "--", "/bin/demo", "exit", "5")
}

func TestExecPassesCodesInputAndTerminalsOn(t *testing.T) {
	l := raise(t, 2)
	l.skein("image", "import", visitor(t))
	l.skein("run", "calm", "--image", "visitor:1", "--replicas", "2", "--timeout", "20s", "--", "eat", "1")
	for _, p := range l.pods("app=calm") {
		if got := l.try("exec", p.Name, "--", "/visitor", "nothing"); got.code != 2 || !strings.Contains(got.err, "visitor eat") {
			t.Errorf("exec in %s on %s: exit code %d, want 2 and the usage\n%s%s", p.Name, p.Spec.NodeName, got.code, got.out, got.err)
		}
		l.resize(p.Name)
	}
}

func TestCtrlCEndsWhatRunsOnATerminal(t *testing.T) {
	l := raise(t, 1)
	runWeb(l, "1")
	pod := l.only("web")
	master, slave, err := openPTY()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	cmd := l.command("skein", "exec", "-it", pod, "--", "/bin/demo", "cat", "/dev/tty")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	stuck := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	l.await(comeback, "the program runs", func() string {
		if got := processes(t, l.pod(pod).Spec.NodeName); len(got[string(l.pod(pod).UID)+"/web.0"]) < 2 {
			return fmt.Sprint(got)
		}
		return ""
	})
	_, _ = master.Write([]byte("hello\n"))
	lines := bufio.NewReader(master)
	for range 2 { // its own echo, and the program's
		if line, err := lines.ReadString('\n'); err != nil || strings.TrimSpace(line) != "hello" {
			t.Fatalf("the terminal shows %q (%v), want hello", line, err)
		}
	}
	_, _ = master.Write([]byte{3})
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGINT) {
		t.Errorf("exec -it ended with %v, want 130", err)
	}
}

// resize runs a program on a terminal in a Pod, whose size changes.
func (l *lab) resize(pod string) {
	l.Helper()
	master, slave, err := openPTY()
	if err != nil {
		l.Fatal(err)
	}
	defer master.Close()
	size := func(columns, rows uint16) {
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
			l.Fatal(err)
		}
	}
	size(100, 30)
	cmd := l.command("skein", "exec", "-it", pod, "--", "/visitor", "size")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	_ = slave.Close()
	stuck := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	lines := bufio.NewReader(master)
	last := ""
	expect := func(want string) {
		l.Helper()
		for {
			text, err := lines.ReadString('\n')
			line := strings.TrimSpace(text)
			if err == nil && line == last {
				continue // a program may hear twice of the size that it begins with
			}
			if last = line; line != want {
				l.Errorf("the program in %s says %q (%v), want %q", pod, line, err, want)
			}
			return
		}
	}
	expect("100x30")
	size(80, 25)
	expect("80x25")
	_, _ = master.Write([]byte{4}) // Ctrl-D ends its input
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 42 {
		l.Errorf("exec -it in %s ended with %v, want the program's own code 42", pod, err)
	}
}

func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}

func TestLogsOfAllReplicasComeTogether(t *testing.T) {
	l := raise(t, 3)
	runWeb(l, "3")
	cmd := l.command("skein", "logs", "-f", "-l", "app=web")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	lines := bufio.NewScanner(out)
	pods := l.pods("app=web")
	seen := map[string]bool{}
	for len(seen) < 3 && lines.Scan() {
		if strings.Contains(lines.Text(), "listens on") {
			seen[lines.Text()] = true
		}
	}
	for _, p := range pods { // and what they say from now on
		l.fetch(p.Name, "/healthz?of="+p.Name)
	}
	for missing := len(pods); missing > 0 && lines.Scan(); {
		if strings.Contains(lines.Text(), "of=") {
			missing--
			seen[lines.Text()] = true
		}
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	for _, p := range pods {
		found := false
		for line := range seen {
			found = found || strings.Contains(line, "of="+p.Name) && strings.Contains(strings.SplitN(line, "of=", 2)[0], p.Name)
		}
		if !found {
			t.Errorf("no line of Pod %s under its name in %v", p.Name, seen)
		}
	}
}
