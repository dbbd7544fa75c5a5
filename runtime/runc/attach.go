package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// Attach joins the input and output of a running container and returns its exit
// code once it has ended. The keeper has both: what the container writes is read
// from its log, so that any number may look on and none holds it up, and what is
// typed goes to the container itself.
func (d *Driver) Attach(ctx context.Context, id container.ID, spec container.AttachSpec) (int, error) {
	b := d.box(id)
	if b == nil || (b.ended() != nil && !spec.Replay) {
		return 0, fmt.Errorf("container %s does not run: %w", id, container.ErrNotFound)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ran container.Spec
	if err := readJSON(filepath.Join(d.boxDir(id), specFile), &ran); err != nil {
		return 0, fmt.Errorf("attach to %s: %w", id, err)
	}
	leave, err := d.attachInput(b, ran, spec)
	if err != nil {
		return 0, fmt.Errorf("attach to %s: %w", id, err)
	}
	defer leave()
	if err := d.attachOutput(ctx, id, spec); err != nil {
		return 0, fmt.Errorf("attach to %s: %w", id, err)
	}
	if err := d.awaitEnd(ctx, b); err != nil {
		return 0, fmt.Errorf("attach to %s: %w", id, err)
	}
	return b.ended().Code, nil
}

// attachOutput passes on what the container writes, until it has ended.
func (d *Driver) attachOutput(ctx context.Context, id container.ID, spec container.AttachSpec) error {
	from := keeper.FromNow
	if spec.Replay {
		from = keeper.FromFirst
	}
	return d.keeper.FollowLog(ctx, id.String(), from, func(stream byte, _ time.Time, data []byte) error {
		w := spec.Stdout
		if stream != keeper.Stdout {
			w = spec.Stderr
		}
		if stream == keeper.Lost {
			data = fmt.Appendf(nil, "[skein: lost %s bytes of output that could not be written]\n", data)
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(data)
		return err
	})
}

// attachInput passes on what is typed, until leave is called. Stdin may still be
// waited for then.
func (d *Driver) attachInput(b *box, ran container.Spec, spec container.AttachSpec) (leave func(), err error) {
	none := func() {}
	if b.ended() != nil || (spec.Stdin == nil && !ran.TTY) {
		return none, nil
	}
	if spec.Stdin != nil && !ran.Stdin {
		return none, container.ErrNoInput
	}
	var to *os.File
	if ran.TTY {
		to, err = d.terminal(b.id)
	} else {
		to, err = d.input(b.id)
	}
	if err != nil {
		return none, err
	}
	ended := make(chan struct{})
	var wait sync.WaitGroup
	if ran.TTY {
		sizes := spec.Resize
		if spec.Size != (container.Size{}) {
			setSize(to, spec.Size)
		}
		wait.Go(func() { resize(to, sizes, ended) })
	}
	if spec.Stdin != nil {
		go func() { // ends with to, or else when Stdin gives more or ends
			if _, err := io.Copy(to, spec.Stdin); err == nil {
				d.inputEnded(b.id, ran)
				_ = to.Close()
			}
		}()
	}
	return func() {
		close(ended)
		wait.Wait()
		_ = to.Close() // the keeper has its own
		if spec.Stdin != nil {
			d.inputEnded(b.id, ran)
		}
	}, nil
}

// inputEnded closes an input that is closed once.
func (d *Driver) inputEnded(id container.ID, ran container.Spec) {
	if !ran.StdinOnce || ran.TTY {
		return
	}
	if err := d.keeper.EndInput(id.String()); err != nil {
		d.log.Warn("a container's input cannot be closed", "container", id, "err", err)
	}
}

// input opens a container's standard input for writing.
func (d *Driver) input(id container.ID) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.keeper.LogDir(id.String()), keeper.Input), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil, errors.New("its standard input was closed: stdinOnce")
	}
	return f, err
}

// terminal asks the keeper for a container's terminal.
func (d *Driver) terminal(id container.ID) (*os.File, error) {
	dir, err := os.Open(d.keeper.LogDir(id.String()))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), keeper.Console)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("ask the keeper for the terminal: %w", err)
	}
	return receiveFrom(conn)
}
