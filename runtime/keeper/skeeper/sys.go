package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// What package syscall has no names for.
const (
	prSetChildSubreaper = 36
	idAll               = 0 // P_ALL
	waitExited          = 4 // WEXITED
	codeExited          = 1 // CLD_EXITED
	codeDumped          = 3 // CLD_DUMPED
	setPipeSize         = 1031
)

// heldFDs hands the FIFOs to the keeper that is executed in place, so that what
// is in them is not lost with a container that ends just then, and the terminals
// by container, FD:ID: they cannot be opened again.
const heldFDs = "SKEEPER_HELD"

func takeInherited() (fds []int, terminals map[string]int) {
	list := os.Getenv(heldFDs)
	_ = os.Unsetenv(heldFDs)
	terminals = map[string]int{}
	for text := range strings.FieldsSeq(list) {
		number, id, terminal := strings.Cut(text, ":")
		fd, err := strconv.Atoi(number)
		if err != nil || fd <= 2 {
			continue
		}
		syscall.CloseOnExec(fd)
		if terminal {
			terminals[id] = fd
			continue
		}
		fds = append(fds, fd)
	}
	return fds, terminals
}

func keepOnExec(fd int) {
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, 0) //nolint:gosec // a descriptor is not negative
}

func becomeSubreaper() error {
	_, _, e := syscall.Syscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	if e != 0 {
		return os.NewSyscallError("become subreaper", e)
	}
	return nil
}

// lockFile takes the lock or says that another keeper has it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor is small
		_ = f.Close()
		return nil, errors.New("another keeper serves this folder: lock " + path + ": " + err.Error())
	}
	return f, nil
}

// ended finds a child that has ended and leaves it to be reaped. It answers 0
// when there is none.
func ended() (pid int, status syscall.WaitStatus) {
	var info [128]byte // siginfo_t
	for {
		_, _, e := syscall.Syscall6(syscall.SYS_WAITID, idAll, 0, uintptr(unsafe.Pointer(&info)), //nolint:gosec // the kernel writes it
			waitExited|syscall.WNOHANG|syscall.WNOWAIT, 0, 0)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 {
			return 0, 0
		}
		break
	}
	at := func(offset int) int32 { return *(*int32)(unsafe.Pointer(&info[offset])) } //nolint:gosec // inside info
	code, value := at(8), uint32(at(24))                                             //nolint:gosec // a code or a signal
	switch code {
	case codeExited:
		return int(at(16)), syscall.WaitStatus(value << 8)
	case codeDumped:
		return int(at(16)), syscall.WaitStatus(value | 0x80)
	default:
		return int(at(16)), syscall.WaitStatus(value)
	}
}

func reap(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

func pidLine(pid int) []byte { return append(strconv.AppendInt(nil, int64(pid), 10), '\n') }
