package network

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// UserCount is how many users and groups there are in a namespace of users.
const UserCount = 1 << 16

// WithUsers calls f while there is a process in a namespace of users, of which root
// is the machine's user base, and in further namespaces by the flags of clone(2),
// which belong to it. The process is held before its first instruction and ends with
// f; what f has pinned or opened of its namespaces stays. They are the machine's
// root's own, who therefore has all powers in them, whatever it lacks outside.
func WithUsers(base uint32, flags uintptr, f func(pid int) error) error {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: UserCount}}
	// Whoever traces a process is a thread, and must not be another one meanwhile.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"namespaces"}, &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | flags, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("make a namespace of users: %w", err)
	}
	err = f(p.Pid)
	_ = p.Kill()
	// It is told of its stop first, and then of its end.
	for {
		var status syscall.WaitStatus
		_, werr := syscall.Wait4(p.Pid, &status, syscall.WALL, nil)
		if werr == syscall.EINTR || werr == nil && status.Stopped() {
			continue
		}
		_ = p.Release()
		return err
	}
}

// enter puts the thread into a namespace.
func enter(path string, flag int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, flag); err != nil {
		return &fs.PathError{Op: "enter", Path: path, Err: err}
	}
	return nil
}

// makeForUsers makes namespaces that belong to one of users.
func (p *Pins) makeForUsers(s Spec) error {
	return WithUsers(s.Users, s.flags(), func(pid int) error {
		if err := p.pin(s, fmt.Sprintf("/proc/%d/ns", pid)); err != nil {
			return err
		}
		return onThrowawayThread(func() error {
			for kind, flag := range map[Kind]int{UTS: unix.CLONE_NEWUTS, Net: unix.CLONE_NEWNET} {
				if kind == Net && s.Host {
					continue
				}
				if err := enter(p.Path(s.Name, kind), flag); err != nil {
					return err
				}
			}
			return furnish(s)
		})
	})
}
