package containertest

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

// Exit ends a running container's program, with 128+n as of signal n. It says
// whether there was one.
func (d *Driver) Exit(id container.ID, code int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.boxes[id]
	if b == nil || b.status.State == container.Exited {
		return false
	}
	d.end(b, code, false)
	return true
}

// Reboot is what a loss of power does: nothing runs any more, and nobody can
// tell how it ended.
func (d *Driver) Reboot() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.boxes {
		d.end(b, -1, false)
		b.status.Stale = true
	}
}

// Starts counts how often a container was really started: at most once, if its
// callers and this driver keep their word.
func (d *Driver) Starts(id container.ID) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.starts[id]
}

// Spec gives what a container was started with.
func (d *Driver) Spec(id container.ID) (container.Spec, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.boxes[id]
	if b == nil {
		return container.Spec{}, false
	}
	return b.spec, true
}

// Write adds a line to a container's output.
func (d *Driver) Write(id container.ID, line container.LogLine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.boxes[id]; b != nil {
		line.Time = time.Now()
		b.lines = append(b.lines, line)
		d.notify()
	}
}

// Exec runs a program in a running container.
func (d *Driver) Exec(ctx context.Context, id container.ID, spec container.ExecSpec) (int, error) {
	d.mu.Lock()
	b := d.boxes[id]
	running := b != nil && b.status.State == container.Running
	d.mu.Unlock()
	switch {
	case !running:
		return 0, fmt.Errorf("container %s does not run: %w", id, container.ErrNotFound)
	case b.proc.Exec == nil:
		return 0, ctx.Err()
	}
	code, err := b.proc.Exec(ctx, spec)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	return code, nil
}

// Logs calls each for the container's output.
func (d *Driver) Logs(ctx context.Context, id container.ID, opt container.LogOptions, each func(container.LogLine) error) error {
	d.mu.Lock()
	b := d.boxes[id]
	d.mu.Unlock()
	if b == nil {
		return fmt.Errorf("read the output of %s: %w", id, container.ErrNotFound)
	}
	given, first := 0, true
	for {
		d.mu.Lock()
		changed := d.changed
		lines := b.lines[given:]
		given = len(b.lines)
		ended := b.status.State == container.Exited || d.boxes[id] != b
		d.mu.Unlock()
		var out []container.LogLine
		for _, l := range lines {
			if !l.Time.Before(opt.Since) {
				out = append(out, l)
			}
		}
		if first && opt.Tail >= 0 && int64(len(out)) > opt.Tail {
			out = out[int64(len(out))-opt.Tail:]
		}
		first = false
		for _, l := range out {
			if err := each(l); err != nil {
				return err
			}
		}
		if !opt.Follow || ended {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Dial connects to whichever container of the Pod answers.
func (d *Driver) Dial(ctx context.Context, pod, network, address string) (net.Conn, error) {
	d.mu.Lock()
	_, ok := d.sandboxes[pod]
	var answer []func(network, address string) (net.Conn, error)
	for id, b := range d.boxes {
		if id.Pod == pod && b.status.State == container.Running && b.proc.Dial != nil {
			answer = append(answer, b.proc.Dial)
		}
	}
	d.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("the sandbox of %s: %w", pod, container.ErrNotFound)
	}
	for _, dial := range answer {
		if conn, err := dial(network, address); err == nil {
			return conn, ctx.Err()
		}
	}
	return nil, fmt.Errorf("dial %s %s: %w", network, address, syscall.ECONNREFUSED)
}

// Usage reports what the running containers say they use.
func (d *Driver) Usage(ctx context.Context) ([]container.Usage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []container.Usage
	for id, b := range d.boxes {
		if b.status.State == container.Running {
			u := b.proc.Usage
			u.ID = id
			out = append(out, u)
		}
	}
	return out, ctx.Err()
}
