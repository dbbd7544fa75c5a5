package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// runTerminal runs a program at a terminal, the other end of which is held
// here. runc leaves at once, so the keeper reaps the program.
func (s session) runTerminal(ctx context.Context, spec container.ExecSpec) (int, error) {
	since, err := ticks()
	if err != nil {
		return 0, err
	}
	terminal, err := s.launchTerminal(ctx)
	if err != nil {
		return 0, err
	}
	defer terminal.Close()
	pid, err := s.pid()
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { resize(terminal, spec.Resize, ended) })
	if spec.Stdin != nil {
		go func() { // ends with the terminal, or else when Stdin gives more or ends
			_, err := io.Copy(terminal, spec.Stdin)
			if err == nil {
				_, _ = terminal.Write([]byte{4}) // ^D: no more input
			}
		}()
	}
	output := make(chan struct{})
	wait.Go(func() {
		defer close(output)
		out := spec.Stdout
		if out == nil {
			out = io.Discard
		}
		_, _ = io.Copy(out, terminal) // EIO once nobody is at the terminal
	})
	code, err := s.awaitOrphan(ctx, pid, since)
	s.kill()
	// What the program wrote is in the terminal until read. Who still holds the
	// terminal now has left the session on purpose, and is not waited for.
	select {
	case <-output:
	case <-time.After(time.Second):
		_ = terminal.SetReadDeadline(time.Unix(1, 0))
	}
	close(ended)
	wait.Wait()
	return code, err
}

// resize gives the terminal its size whenever it changes.
func resize(terminal *os.File, sizes <-chan container.Size, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			setSize(terminal, size)
		}
	}
}

func setSize(terminal *os.File, size container.Size) {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns}) //nolint:gosec // small
	})
}

// launchTerminal starts the program and receives its terminal from runc.
func (s session) launchTerminal(ctx context.Context) (_ *os.File, err error) {
	dir, err := os.Open(s.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// By way of a descriptor, since the address of a socket holds 107 bytes.
	at := fmt.Sprintf("/proc/%d/fd/%d/tty", os.Getpid(), dir.Fd())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the terminal: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false) // goes with its folder
	type result struct {
		file *os.File
		err  error
	}
	received := make(chan result, 1)
	go func() {
		f, err := receive(l)
		received <- result{f, err}
	}()
	err = s.driver.runc(ctx, s.file("runc.log"), [3]*os.File{}, s.args("--detach", "--tty", "--console-socket", at)...)
	if err != nil {
		_ = l.Close()
		if got := <-received; got.file != nil {
			_ = got.file.Close()
		}
		s.kill()
		return nil, err
	}
	got := <-received
	if got.err != nil {
		s.kill()
	}
	return got.file, got.err
}

// receive takes the terminal that runc sends.
func receive(l *net.UnixListener) (*os.File, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return receiveFrom(conn)
}

// receiveFrom takes the terminal that comes by a connection.
func receiveFrom(conn *net.UnixConn) (*os.File, error) {
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(undoPatience)); err != nil {
		return nil, err
	}
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("no terminal was sent"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("no terminal was sent"), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil //nolint:gosec // a descriptor is not negative
}
