package keeper

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// A Lease is how long the processes of one Pod may run. The keeper freezes and
// kills them by itself, so that it does not matter what became of the agent.
//
// On disk it is leases/POD: the boot, when to freeze and when to kill, in
// nanoseconds since boot, then the Pod's control groups, one a line, the one
// that freezes first. It is written aside and renamed, never in place.
type Lease struct {
	Boot         string
	Freeze, Kill time.Duration // since boot, by CLOCK_BOOTTIME
	// Groups are folders. With "cgroup.freeze" or "freezer.state" in the first it
	// is frozen so, else its processes are stopped one by one.
	Groups []string
}

// Leases is where leases are.
func (d Dir) Leases() string { return d.join("leases") }

// SinceBoot reads CLOCK_BOOTTIME, which no wall clock moves and which goes on
// while the machine sleeps.
func SinceBoot() time.Duration {
	const bootTime = 7
	var ts syscall.Timespec
	_, _, _ = syscall.Syscall(syscall.SYS_CLOCK_GETTIME, bootTime, uintptr(unsafe.Pointer(&ts)), 0) //nolint:gosec // the kernel writes it; it never fails
	return time.Duration(ts.Nano())
}

// WriteLease sets or renews the lease of a Pod.
func (d Dir) WriteLease(pod string, l Lease) error {
	text := l.Boot + " " + strconv.FormatInt(int64(l.Freeze), 10) + " " + strconv.FormatInt(int64(l.Kill), 10) + "\n" +
		strings.Join(l.Groups, "\n") + "\n"
	return WriteAside(filepath.Join(d.Leases(), pod), []byte(text))
}

// ReadLease reads the lease of a Pod, as [Dir.WriteLease] wrote it.
func (d Dir) ReadLease(pod string) (Lease, error) {
	text, err := os.ReadFile(filepath.Join(d.Leases(), pod))
	if err != nil {
		return Lease{}, err
	}
	l, ok := parseLease(string(text))
	if !ok {
		return Lease{}, errMalformedLease
	}
	return l, nil
}

// RemoveLease forgets a lease: nothing is frozen or killed for it any more.
func (d Dir) RemoveLease(pod string) error { return remove(filepath.Join(d.Leases(), pod)) }

const errMalformedLease = malformed("malformed lease file")

type malformed string

func (m malformed) Error() string { return string(m) }

func parseLease(text string) (Lease, bool) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	f := strings.Fields(lines[0])
	if len(f) < 3 || len(lines) < 2 { // a later agent may say more
		return Lease{}, false
	}
	freeze, err1 := strconv.ParseInt(f[1], 10, 64)
	kill, err2 := strconv.ParseInt(f[2], 10, 64)
	return Lease{Boot: f[0], Freeze: time.Duration(freeze), Kill: time.Duration(kill), Groups: lines[1:]}, err1 == nil && err2 == nil
}
