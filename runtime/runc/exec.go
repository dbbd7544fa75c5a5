package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// A session is one program that is run inside a container. Its folder holds
// what runc is told, and the pid that runc tells.
type session struct {
	driver *Driver
	id     container.ID
	dir    string
}

func (s session) file(name string) string { return filepath.Join(s.dir, name) }

// Exec runs a program in a running container and returns its exit code, 128+n
// after signal n. When ctx ends, the program is killed with its session. Stdin
// may still be waited for when Exec returns.
func (d *Driver) Exec(ctx context.Context, id container.ID, spec container.ExecSpec) (int, error) {
	b := d.box(id)
	if b == nil || b.ended() != nil {
		return 0, fmt.Errorf("container %s does not run: %w", id, container.ErrNotFound)
	}
	s, err := d.newSession(id, spec)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	defer func() { _ = os.RemoveAll(s.dir) }()
	var code int
	if spec.TTY {
		code, err = s.runTerminal(ctx, spec)
	} else {
		code, err = s.run(ctx, spec)
	}
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("exec in %s: %w", id, ctx.Err())
	case err != nil:
		if d.record(b) {
			err = errors.Join(err, container.ErrNotFound) // under our hands
		}
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	return code, nil
}

func (d *Driver) newSession(id container.ID, spec container.ExecSpec) (session, error) {
	if len(spec.Args) == 0 || spec.Args[0] == "" {
		return session{}, errors.New("nothing to run")
	}
	var oci specs.Spec
	if err := readJSON(filepath.Join(d.bundle(id), "config.json"), &oci); err != nil {
		return session{}, err
	}
	dir, err := os.MkdirTemp(filepath.Join(d.cfg.RunDir, "exec"), "")
	if err != nil {
		return session{}, err
	}
	p := oci.Process // as the container's own: user, capabilities, limits
	p.Args, p.Terminal = spec.Args, spec.TTY
	if spec.TTY {
		p.Env = append(p.Env, "TERM=xterm")
		if spec.Size != (container.Size{}) {
			p.ConsoleSize = &specs.Box{Width: uint(spec.Size.Columns), Height: uint(spec.Size.Rows)}
		}
	}
	p.Env = append(p.Env, spec.Env...)
	s := session{driver: d, id: id, dir: dir}
	if err := writeJSON(s.file("process.json"), p, keeper.WriteAside); err != nil {
		return s, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s session) args(more ...string) []string {
	args := append([]string{"exec", "--process", s.file("process.json"), "--pid-file", s.file("pid")}, more...)
	return append(args, s.id.String())
}

// run runs a program without a terminal. runc stays as its parent, and passes
// on its exit code: so its end costs no word, and no sync, of the keeper.
func (s session) run(ctx context.Context, spec container.ExecSpec) (int, error) {
	log := s.file("runc.log")
	cmd := s.driver.command(context.WithoutCancel(ctx), log, s.args()...)
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	cmd.WaitDelay = 0 // a slow reader gets all of it
	var stdin io.WriteCloser
	if spec.Stdin != nil {
		var err error
		if stdin, err = cmd.StdinPipe(); err != nil {
			return 0, err
		}
	}
	runtime.LockOSThread() // see Driver.runc
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if stdin != nil {
		go func() { // ends with the program, or else when Stdin gives more or ends
			_, _ = io.Copy(stdin, spec.Stdin)
			_ = stdin.Close()
		}()
	}
	ended := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { s.killAtEnd(ctx, cmd.Process, ended) })
	err := cmd.Wait()
	close(ended)
	wait.Wait()
	var exited *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exited) && exited.Exited():
		if text := lastError(log); text != "" {
			return 0, &ComplaintError{Text: text}
		}
		return exited.ExitCode(), nil
	}
	return 0, err
}

// killAtEnd kills the program when ctx ends before it. Its parent, runc, ends
// with it. It is given a moment to note the pid; killed before, it might leave
// behind a program that nobody can name.
func (s session) killAtEnd(ctx context.Context, parent *os.Process, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	for begin := time.Now(); time.Since(begin) < undoPatience/4; {
		s.kill()
		select {
		case <-ended:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	_ = parent.Kill()
	s.kill()
}

// pid is the program's, as runc has noted it.
func (s session) pid() (int, error) { return keeper.ReadPID(s.file("pid")) }

// kill kills the program and all of its session: it leads one of its own, and
// what it started is in it unless it left on purpose.
func (s session) kill() {
	pid, err := s.pid()
	if err != nil || pid <= 1 {
		return
	}
	s.driver.killSession(s.id, pid)
}

// killSession kills a process of a container and those that are in the session
// it leads.
func (d *Driver) killSession(id container.ID, leader int) {
	for range 10 { // a process may be forked while we look
		killed := false
		for _, p := range d.groups.processes(d.cgroup(id)) {
			stat, err := keeper.ReadStat(p)
			if err == nil && stat.State != 'Z' && (p == leader || stat.Session == leader) {
				killed = unix.Kill(p, unix.SIGKILL) == nil || killed
			}
		}
		if !killed {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// endExecs ends programs that an agent ran inside containers and died over. They
// are those whose parent is outside: what a container starts itself has a parent
// in it, its first process if no other.
func (d *Driver) endExecs() {
	noted := d.noted()
	for _, b := range d.boxes {
		if b.exit != nil || b.pidfd == nil {
			continue
		}
		inside := d.groups.processes(d.cgroup(b.id))
		shared := d.shareProcesses(b.id.Pod) // then whose parent has ended has another outside, too
		for _, p := range inside {
			if shared && !noted[p] {
				continue
			}
			stat, err := keeper.ReadStat(p)
			if err == nil && p != b.proc.PID && !slices.Contains(inside, stat.Parent) {
				d.killSession(b.id, p)
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(d.cfg.RunDir, "exec"))
	if err != nil {
		return
	}
	for _, e := range entries {
		_ = os.RemoveAll(filepath.Join(d.cfg.RunDir, "exec", e.Name()))
	}
}

// ticks is the time since boot in the unit of process start times.
func ticks() (uint64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, err
	}
	return uint64(t.Nano()) / uint64(10*time.Millisecond), nil //nolint:gosec // after boot
}

// awaitOrphan waits for a program whose parent has gone, and is told by the
// keeper how it ended.
func (s session) awaitOrphan(ctx context.Context, pid int, since uint64) (int, error) {
	stat, err := keeper.ReadStat(pid)
	p := keeper.Process{PID: pid, Start: stat.Start, Boot: keeper.BootID()}
	if err == nil && stat.Start >= since {
		f, err := openPidfd(p)
		if err == nil {
			defer f.Close()
			err = awaitPidfd(ctx, f)
		}
		if err != nil && !errors.Is(err, keeper.ErrNoProcess) {
			return 0, err
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if e, err := s.driver.keeper.FindExit(pid, since); err == nil {
			_ = s.driver.keeper.RemoveExit(e.PID, e.Start)
			return e.Code(), nil
		}
		if now, err := keeper.ReadStat(pid); err != nil || now.Start != stat.Start {
			if _, err := s.driver.keeper.FindExit(pid, since); err != nil {
				return 0, errors.New("how it ended is not known: pid " + strconv.Itoa(pid) + " is gone")
			}
			continue
		}
		if err := pause(ctx, wait); err != nil {
			return 0, err
		}
	}
}
