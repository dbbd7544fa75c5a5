package runc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// A box is one container that has run. Its folder on disk says the same; what
// is held here besides are descriptors of it.
type box struct {
	id     container.ID
	labels map[string]string
	proc   process
	stale  bool // of a sandbox that is no more

	mu    sync.Mutex
	exit  *exit    // once it has ended
	pidfd *os.File // while it has not; the kernel keeps an exit for whoever holds one
	meter *meter
}

func (b *box) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pidfd != nil {
		_ = b.pidfd.Close()
		b.pidfd = nil
	}
	b.meter.close()
	b.meter = nil
}

// ended is how the container ended, or nil.
func (b *box) ended() *exit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.exit
}

// openPidfd opens a process for certain, or answers keeper.ErrNoProcess.
func openPidfd(p keeper.Process) (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, keeper.ErrNoProcess
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd") //nolint:gosec // a descriptor is not negative
	if _, err := p.Stat(); err != nil {   // another has the pid
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// duplicate gives a pidfd that can be waited for beside others.
func (b *box) duplicate() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pidfd == nil {
		return nil, keeper.ErrNoProcess
	}
	return duplicate(b.pidfd)
}

func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); e != nil || err != nil {
		return nil, errors.Join(e, err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil //nolint:gosec // a descriptor is not negative
}

// awaitPidfd waits until a process has ended, reaped or not.
func awaitPidfd(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // small
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// signal signals the container's first process.
func (b *box) signal(sig syscall.Signal) error {
	f, err := b.duplicate()
	if err != nil {
		return nil // it has ended
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil { //nolint:gosec // small
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// awaitEnd waits until a container has ended and it is known how.
func (d *Driver) awaitEnd(ctx context.Context, b *box) error {
	if b.ended() != nil {
		return nil
	}
	f, err := b.duplicate()
	if err == nil {
		err = awaitPidfd(ctx, f)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, keeper.ErrNoProcess) {
		return err
	}
	// The keeper reaps within milliseconds. Without one it takes as long as the
	// machine's init likes.
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if d.box(b.id) != b {
			return fmt.Errorf("container %s was removed: %w", b.id, container.ErrNotFound)
		}
		if d.record(b) {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, wait time.Duration) error {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// record writes down how a container ended, once that is known.
func (d *Driver) record(b *box) (known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.exit != nil {
		return true
	}
	e := d.exitOf(b)
	if e == nil {
		return false
	}
	// The cgroup is there until finish, so this is the time to ask it.
	if e.Code != 0 && d.groups.oomKills(d.cgroup(b.id)) > 0 {
		e.OOMKilled = true
	}
	e.Message = d.message(b.id)
	e.LeaseLost = !e.OOMKilled && d.leaseLost(b.id.Pod, e)
	path := filepath.Join(d.boxDir(b.id), exitFile)
	written := writeJSON(path, e, keeper.WriteSynced)
	b.exit = e
	if b.pidfd != nil {
		_ = b.pidfd.Close()
		b.pidfd = nil
	}
	b.meter.close()
	b.meter = nil
	switch {
	case written != nil:
		// A full disk. The keeper's file stays, and the next driver asks it again.
		d.log.Warn("how a container ended cannot be written down", "container", b.id, "err", written)
	default:
		if err := d.keeper.RemoveExit(b.proc.PID, b.proc.Start); err != nil {
			d.log.Warn("an exit file is left", "container", b.id, "err", err)
		}
	}
	d.notify()
	return true
}

// exitOf finds out how a container ended, or nil while it has not, or nobody
// has reaped it: the keeper writes first and reaps then, so whose process is
// gone without a word of the keeper's was not the keeper's.
func (d *Driver) exitOf(b *box) *exit {
	if e, err := d.keeper.ReadExit(b.proc.PID, b.proc.Start); err == nil {
		return exitFrom(e)
	}
	if _, err := b.proc.key().Stat(); err == nil {
		return nil
	}
	e, err := d.keeper.ReadExit(b.proc.PID, b.proc.Start)
	if err == nil {
		return exitFrom(e)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("an exit file cannot be read", "container", b.id, "err", err)
	}
	if b.pidfd != nil {
		if status, ok := exitInfo(b.pidfd); ok {
			return exitFrom(keeper.Exit{Status: status, Time: time.Now()})
		}
	}
	return &exit{Code: -1, Finished: time.Now()}
}

func exitFrom(e keeper.Exit) *exit {
	return &exit{Code: e.Code(), Signal: e.Signal(), Finished: e.Time}
}

// exitInfo asks the kernel how a process ended. Linux 6.15 and later tell, once
// it was reaped, whoever holds a pidfd.
func exitInfo(f *os.File) (syscall.WaitStatus, bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if e := raw.Control(func(fd uintptr) { err = unix.IoctlPidfdInfo(int(fd), &info) }); e != nil || err != nil { //nolint:gosec // small
		return 0, false
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return syscall.WaitStatus(info.Exit_code), true //nolint:gosec // a wait status
}

// sweepExits removes exit files of processes that were nobody's container.
func (d *Driver) sweepExits(age time.Duration) {
	exits, err := d.keeper.ListExits()
	if err != nil {
		return
	}
	ours := map[int]bool{}
	for _, b := range d.all() {
		ours[b.proc.PID] = true
	}
	for _, e := range exits {
		if !ours[e.PID] && time.Since(e.Time) >= age {
			_ = d.keeper.RemoveExit(e.PID, e.Start)
		}
	}
}
