package runc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-dev/skein/runtime/container"
)

func TestTerminal(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep"))
	t.Run("has a size that changes", func(t *testing.T) {
		sizes := make(chan container.Size)
		out := &tellsWhen{text: "ready", said: make(chan struct{})}
		go func() {
			<-out.said
			sizes <- container.Size{Columns: 120, Rows: 40}
		}()
		code, err := s.Exec(t.Context(), id, container.ExecSpec{
			Args: []string{"/prog", "size", "1", ";", "env", "TERM", ";", "exit", "9"}, Env: []string{"TERM=vt100"}, TTY: true, Stdout: out, Resize: sizes,
		})
		if err != nil || code != 9 {
			t.Errorf("exit code %d, %v", code, err)
		}
		if got := out.buf.String(); got != "ready\r\n120 40 true\r\nvt100\r\n" {
			t.Errorf("wrote %q", got)
		}
	})
	t.Run("has its size from the beginning", func(t *testing.T) {
		var out bytes.Buffer
		code, err := s.Exec(t.Context(), id, container.ExecSpec{
			Args: []string{"/prog", "size", "0"}, TTY: true, Size: container.Size{Columns: 100, Rows: 30}, Stdout: &out,
		})
		if got := out.String(); err != nil || code != 0 || got != "ready\r\n100 30 true\r\n" {
			t.Errorf("exit code %d, %v, wrote %q", code, err, got)
		}
	})
	t.Run("is typed at", func(t *testing.T) {
		var out bytes.Buffer
		code, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "lines"}, TTY: true, Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out})
		if err != nil || code != 0 || !strings.Contains(out.String(), "got one\r\n") || !strings.Contains(out.String(), "got two\r\n") {
			t.Errorf("exit code %d, %v, wrote %q", code, err, &out)
		}
	})
	t.Run("knows ^C", func(t *testing.T) {
		r, w := io.Pipe()
		out := &tellsWhen{text: "stubborn", said: make(chan struct{})}
		go func() {
			<-out.said
			_, _ = w.Write([]byte{3})
		}()
		code, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "stubborn"}, TTY: true, Stdin: r, Stdout: out})
		_ = w.Close()
		if err != nil || code != 130 {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
	t.Run("tells what cannot be run", func(t *testing.T) {
		for _, tty := range []bool{true, false} {
			_, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/missing"}, TTY: tty})
			var told *ComplaintError
			if !errors.As(err, &told) || !strings.Contains(told.Text, "/missing") {
				t.Errorf("terminal %v: %v", tty, err)
			}
		}
	})
	if left, _ := filepath.Glob(filepath.Join(s.cfg.RunDir, "exec", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	exits, err := s.keeper.ListExits()
	if err != nil || len(exits) > 0 {
		t.Errorf("exits left: %v, %v", exits, err)
	}
}

// tellsWhen keeps what is written and tells when a text is among it.
type tellsWhen struct {
	buf  bytes.Buffer
	text string
	said chan struct{}
}

func (w *tellsWhen) Write(b []byte) (int, error) {
	had := strings.Contains(w.buf.String(), w.text)
	n, err := w.buf.Write(b)
	if !had && strings.Contains(w.buf.String(), w.text) {
		close(w.said)
	}
	return n, err
}

// A program that is given up takes what it has started with it.
func TestExecEndsWithItsChildren(t *testing.T) {
	for _, tty := range []bool{false, true} {
		s := newScene(t)
		s.serve()
		id := s.start(s.one("sleep"))
		ctx, cancel := contextWithCancel(t)
		out := &tellsWhen{text: "spawned", said: make(chan struct{})}
		go func() { <-out.said; cancel() }()
		_, err := s.Exec(ctx, id, container.ExecSpec{Args: []string{"/prog", "spawn", "stubborn", ";", "stubborn"}, Stdout: out, TTY: tty})
		if !errors.Is(err, ctx.Err()) {
			t.Errorf("terminal %v: %v", tty, err)
		}
		s.awaitAlone(id)
		if got := s.status(id); got.State != container.Running {
			t.Errorf("terminal %v: the container itself: %+v", tty, got)
		}
	}
}

// A program that is run inside is confined as the container's own.
func TestExecIsWhatItsContainerIs(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("sleep")
	spec.User, spec.Security.ReadOnlyRoot, spec.Env = "redis", true, []string{"PATH=/", "COLOUR=blue"}
	id := s.start(spec)
	var out bytes.Buffer
	run := func(words ...string) (int, error) {
		out.Reset()
		return s.Exec(t.Context(), id, container.ExecSpec{Args: append([]string{"/prog"}, words...), Stdout: &out, Stderr: &out})
	}
	if code, err := run("id", ";", "env", "COLOUR", ";", "write", "/x", ";", "status", "NoNewPrivs", ";", "status", "Seccomp"); err != nil || code != 0 {
		t.Fatal(code, err, out.String())
	}
	want := "999 998 [44]\nblue\nopen /x: read-only file system\nNoNewPrivs 1\nSeccomp 2\n"
	if out.String() != want {
		t.Errorf("says %q, want %q", &out, want)
	}
	for _, tty := range []bool{false, true} {
		for _, path := range []string{"/no/such", "no-such", "/etc/passwd"} {
			_, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{path}, TTY: tty, Stdout: &out, Stderr: &out})
			if err == nil || !strings.Contains(err.Error(), "unable to start container process") {
				t.Errorf("exec of %s, terminal %v: %v", path, tty, err)
			}
		}
	}
	if left, _ := os.ReadDir(filepath.Join(s.cfg.RunDir, "exec")); len(left) > 0 {
		t.Errorf("sessions left: %v", left)
	}
}
