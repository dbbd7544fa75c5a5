package cli

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A console is a terminal with skein running on it, as its own session.
type console struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	fake   *fake
	before unix.Termios // how the terminal was set
	seen   bytes.Buffer
}

// onTerminal runs skein on a terminal of 100 by 30.
func onTerminal(t *testing.T, f *fake, line string, env ...string) *console {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(serve(f, listener))
	master, slave := openTerminal(t)
	defer slave.Close()
	c := &console{t: t, master: master, fake: f, cmd: exec.CommandContext(t.Context(), "skein", strings.Fields(line)...)}
	c.resize(100, 30)
	c.before = c.modes()
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	c.cmd.Env = append(os.Environ(), append([]string{"SKEIN_SOCKET=" + filepath.Join(dir, "s"), "TERM=xterm"}, env...)...)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx") // non-blocking, so that deadlines work
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (c *console) resize(columns, rows uint16) {
	c.t.Helper()
	raw, err := c.master.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	if err := errors.Join(err, failed); err != nil {
		c.t.Fatal(err)
	}
}

func (c *console) modes() unix.Termios {
	c.t.Helper()
	raw, err := c.master.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var termios *unix.Termios
	var failed error
	err = raw.Control(func(fd uintptr) { termios, failed = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if err := errors.Join(err, failed); err != nil {
		c.t.Fatal(err)
	}
	return *termios
}

func (c *console) press(keys string) {
	c.t.Helper()
	if _, err := c.master.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

// sees reads until the terminal has shown text.
func (c *console) sees(text string) {
	c.t.Helper()
	buffer := make([]byte, 4096)
	if err := c.master.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	for !strings.Contains(c.seen.String(), text) {
		n, err := c.master.Read(buffer)
		c.seen.Write(buffer[:n])
		if err != nil && !strings.Contains(c.seen.String(), text) {
			c.t.Fatalf("no %q on the terminal: %v; it shows:\n%q", text, err, c.seen.String())
		}
	}
}

// ends reads to the end and returns all that the terminal showed.
func (c *console) ends(code int) string {
	c.t.Helper()
	if _, err := io.Copy(&c.seen, c.master); err != nil && !errors.Is(err, syscall.EIO) { // EIO: nobody has it open
		c.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.t.Errorf("exit code %d, want %d; the terminal shows:\n%q", got, code, c.seen.String())
	}
	return c.seen.String()
}

// called waits until the cluster was called.
func (c *console) called(name string) {
	c.t.Helper()
	for call := range c.fake.calls {
		if call == name {
			return
		}
	}
}

func TestExecHandsTheTerminalOver(t *testing.T) {
	c := onTerminal(t, newFake(), "exec -it web-1 -- size")
	c.sees("size 100x30 tty=true env=[TERM=xterm]")
	c.press("\x03") // a letter for the program, no signal for us
	c.sees(`key "\x03"`)
	c.resize(120, 40)
	c.sees("resized 120x40")
	c.ends(3)
}

func TestExecLeavesTheTerminalAsItWas(t *testing.T) {
	c := onTerminal(t, newFake(), "exec -it web-1 -- fail")
	c.ends(42)
	if after := c.modes(); after != c.before {
		t.Errorf("modes %v, before %v", after, c.before)
	}
}

func TestWaitingIsDrawnOverAndOver(t *testing.T) {
	shown := onTerminal(t, newFake(), "scale deploy/web --replicas 1").ends(0)
	if !strings.Contains(shown, "\x1b[2K") {
		t.Errorf("nothing was redrawn: %q", shown)
	}
	want := "deployment/web scaled to 1\npod/web-1 is ready on n1\ndeployment/web: 1 of 1 ready\n"
	if got := screen(strings.ReplaceAll(shown, "\r\n", "\n")); got != want {
		t.Errorf("screen:\n%s\nwant:\n%s", got, want)
	}
}

func TestCtrlCWhileWaitingSaysThatTheChangeGoesOn(t *testing.T) {
	c := onTerminal(t, newFake(), "scale deploy/late --replicas 1")
	c.called("Await")
	c.press("\x03")
	if shown := c.ends(130); !strings.Contains(shown, "skein: no longer waiting for deployment/late; the change itself goes on") {
		t.Errorf("the terminal shows:\n%q", shown)
	}
}

func TestCtrlCEndsAWatchQuietly(t *testing.T) {
	f := newFake()
	f.mode = "endless"
	c := onTerminal(t, f, "get pods -w")
	c.called("watching")
	c.sees("web-1")
	c.press("\x03")
	if shown := c.ends(130); strings.Contains(shown, "skein:") {
		t.Errorf("the terminal shows:\n%q", shown)
	}
}

func TestLogsHaveAColourPerPodOnATerminalAlone(t *testing.T) {
	coloured := onTerminal(t, newFake(), "logs deploy/web").ends(0)
	for _, want := range []string{"\x1b[36mweb-1 | \x1b[0mfrom one", "\x1b[33mweb-22 | \x1b[0mfrom the other"} {
		if !strings.Contains(coloured, want) {
			t.Errorf("no %q in %q", want, coloured)
		}
	}
	if plain := onTerminal(t, newFake(), "logs deploy/web", "NO_COLOR=1").ends(0); strings.Contains(plain, "\x1b") {
		t.Errorf("colour in spite of NO_COLOR: %q", plain)
	}
}

func TestAttachIsLeftByTwoKeys(t *testing.T) {
	c := onTerminal(t, newFake(), "attach -it shell")
	c.sees("size 100x30")
	c.press("a\x10b") // held back until it is known what follows
	c.sees(`got "a\x10b"`)
	c.press("\x03") // for the container
	c.sees(`got "\x03"`)
	c.press("\x10\x11")
	c.sees("detached; it runs on")
	c.ends(0)
	if after := c.modes(); after != c.before {
		t.Errorf("modes %v, before %v", after, c.before)
	}
}

func TestForwardedConnectionsEndOnBothSidesAndWithCtrlC(t *testing.T) {
	c := onTerminal(t, newFake(), "port-forward web-1 :80 :9")
	c.sees("-> 9\r\n")
	var addrs []string
	for line := range strings.Lines(c.seen.String()) {
		addrs = append(addrs, strings.Fields(line)[2])
	}
	conn, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello "); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // dialled so
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "HELLO bye" {
		t.Errorf("read %q, %v", got, err)
	}
	refused, err := net.Dial("tcp", addrs[1])
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	if _, err := refused.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("where nobody listens the connection ended with %v, want it reset", err)
	}
	c.sees("nothing listens on port 9")
	held, err := net.Dial("tcp", addrs[0]) // one that stays
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := io.WriteString(held, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.press("\x03")
	c.ends(130)
}

// TestConnectionsToAServiceNameIt leaves the choice of a Pod to the server, for each
// connection anew; a port by name is one of the Service's.
func TestConnectionsToAServiceNameIt(t *testing.T) {
	f := newFake()
	c := onTerminal(t, f, "port-forward svc/web :http")
	c.sees("-> 80\r\n")
	addr := strings.Fields(c.seen.String())[2]
	f.takeAsked()
	for range 2 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // dialled so
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
			t.Errorf("read %q, %v", got, err)
		}
		_ = conn.Close()
	}
	first := 0
	for _, line := range f.takeAsked() {
		if strings.HasPrefix(line, `PortForward {"pod":{"kind":"svc","namespace":"default","name":"web"},"port":80}`) {
			first++
		}
	}
	if first != 2 {
		t.Errorf("%d connections named the Service, want 2", first)
	}
	c.press("\x03")
	c.ends(130)
}
