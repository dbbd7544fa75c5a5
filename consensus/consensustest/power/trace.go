package power

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Life is how a program is run. It finds a pipe at descriptor 3: what it says
// there is what it promises.
type Life struct {
	Args []string // the program and its arguments
	Env  []string
	Root string // a directory that is empty; elsewhere the program may do as it likes

	// Cut is when the power goes: with 1, as the first sync below Root begins,
	// with 2, when it has ended, and so on. With 0, or more than there are, the
	// program ends by itself.
	Cut int
	// Skip makes nothing of a sync of the file or directory at a path relative
	// to Root, as if the program had forgotten it; nil: none.
	Skip func(path string) bool
}

// A Death is what is left.
type Death struct {
	Disk *Disk
	Said []byte
	At   string // which sync was cut; empty if the program had ended by itself
}

// Run runs a program until the power goes. It fails if the program does, or does
// what is not modelled.
func Run(life Life) (*Death, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer out.Close()
	said := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(out)
		said <- all
	}()
	t := &tracer{life: life, disk: &Disk{root: newDir()}, calls: make(map[int]*call)}
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // which is the only one that may trace; it ends with the goroutine
		err := t.run(in)
		ended <- errors.Join(err, in.Close())
	}()
	err = <-ended
	return &Death{Disk: t.disk, Said: <-said, At: t.at}, err
}

// A tracer follows one process and its threads.
type tracer struct {
	life  Life
	disk  *Disk
	calls map[int]*call // by thread: nil is a thread that is in no call
	syncs int
	at    string
}

func (t *tracer) run(pipe *os.File) error {
	p, err := os.StartProcess(t.life.Args[0], t.life.Args, &os.ProcAttr{
		Env: t.life.Env, Files: []*os.File{nil, os.Stderr, os.Stderr, pipe},
		Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	pid := p.Pid
	defer p.Release() //nolint:errcheck // it was waited for below
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL|unix.WNOTHREAD, nil); err != nil || !status.Stopped() {
		return fmt.Errorf("wait for the program to start: %v, %w", status, err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := errors.Join(unix.PtraceSetOptions(pid, options), unix.PtraceSyscall(pid, 0)); err != nil {
		return errors.Join(fmt.Errorf("trace: %w", err), p.Kill())
	}
	t.calls[pid] = nil
	return t.follow(pid)
}

// follow follows the process until its end.
func (t *tracer) follow(pid int) error {
	var failed error
	dead := false
	kill := func() {
		dead = true
		failed = errors.Join(failed, ignore(unix.Kill(pid, unix.SIGKILL), unix.ESRCH))
	}
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return errors.Join(failed, fmt.Errorf("wait: %w", err))
		case !status.Stopped():
			if tid != pid {
				continue
			}
			if !dead && status.ExitStatus() != 0 {
				failed = fmt.Errorf("the program ended with %d, signal %v", status.ExitStatus(), status.Signal())
			}
			return failed
		case dead:
			continue
		}
		pass, cut, err := t.stopped(pid, tid, status)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			failed = err
		}
		if cut || failed != nil {
			kill()
			continue
		}
		failed = ignore(unix.PtraceSyscall(tid, pass), unix.ESRCH)
	}
}

// stopped looks at a thread that has stopped, and returns the signal to pass on,
// and whether the power goes now.
func (t *tracer) stopped(pid, tid int, status unix.WaitStatus) (pass int, cut bool, err error) {
	_, known := t.calls[tid]
	if !known {
		t.calls[tid] = nil
	}
	switch signal := status.StopSignal(); {
	case signal == unix.SIGTRAP|0x80:
		cut, err = t.syscall(pid, tid)
		return 0, cut, err
	case signal == unix.SIGTRAP, signal == unix.SIGSTOP && !known: // a thread was made; or is this one
		return 0, false, nil
	default:
		return int(signal), false, nil
	}
}

// What the kernel says of a thread that stopped at a system call.
type syscallInfo struct {
	op     uint8
	_      [3]uint8
	_      uint32 // architecture
	_, _   uint64 // where it is
	number uint64 // or, at the end, what it returned
	args   [6]uint64
	_      [4]uint64
}

func (t *tracer) syscall(pid, tid int) (cut bool, err error) {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0) //nolint:gosec // how the kernel is called
	if errno != 0 {
		return false, errno
	}
	if info.op == 1 { // it begins
		c, err := t.begun(pid, info.number, info.args)
		t.calls[tid] = c
		if err != nil || c == nil || !c.sync {
			return false, err
		}
		t.syncs++
		c.nth = t.syncs
		return t.cuts(2*c.nth-1, "before", c), nil
	}
	c := t.calls[tid]
	t.calls[tid] = nil
	result := int64(info.number) //nolint:gosec // negative is an error
	if c == nil || result < 0 {
		return false, nil
	}
	if err := c.done(result); err != nil {
		return false, err
	}
	return c.sync && t.cuts(2*c.nth, "after", c), nil
}

func (t *tracer) cuts(now int, when string, c *call) bool {
	if now != t.life.Cut {
		return false
	}
	t.at = fmt.Sprintf("%s sync %d, of %s", when, c.nth, c.path)
	return true
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

func sorted(names map[string]*node) []string { return slices.Sorted(maps.Keys(names)) }
