package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process is one that was running when we looked. Its start time tells it from
// a later one with the same number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot
}

// findProcess looks one up; it is false for those that are gone or only wait to
// be reaped.
func findProcess(pid int) (process, bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	// The second field is a name in parentheses, which may hold anything.
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 20 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return process{}, false
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	return process{PID: pid, Start: start}, err == nil
}

func (p process) alive() bool {
	now, ok := findProcess(p.PID)
	return ok && p.PID > 0 && now == p
}

// kill ends a process, and no other that has got its number since.
func (p process) kill() error {
	if p.PID <= 1 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// readPID reads the file in which a process has written its number. It is false
// where no such process is in the given network namespace.
func readPID(path, netns string) (process, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return process{}, false
	}
	f := strings.Fields(string(text))
	if len(f) == 0 {
		return process{}, false
	}
	pid, err := strconv.Atoi(f[0])
	if err != nil || pid <= 1 {
		return process{}, false
	}
	p, ok := findProcess(pid)
	return p, ok && inNetns(pid, netns)
}

// inNetns tells whether a process is in a named network namespace; any is in "".
func inNetns(pid int, netns string) bool {
	if netns == "" {
		return true
	}
	a, aerr := os.Stat("/proc/" + strconv.Itoa(pid) + "/ns/net")
	b, berr := os.Stat(netnsPath(netns))
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

// residents are the processes in some network namespaces: keepers and agents,
// and whatever else was started there. This process is never among them.
func residents(netns ...string) ([]process, error) {
	var pins []os.FileInfo
	for _, name := range netns {
		if st, err := os.Stat(netnsPath(name)); err == nil && isNamespace(netnsPath(name)) {
			pins = append(pins, st)
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		st, err := os.Stat(filepath.Join("/proc", e.Name(), "ns", "net"))
		if err != nil || !slices.ContainsFunc(pins, func(p os.FileInfo) bool { return os.SameFile(p, st) }) {
			continue // it is gone, or elsewhere
		}
		if p, ok := findProcess(pid); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// exterminate kills what find finds, until it finds nothing: a keeper may start
// an agent just before it dies.
func exterminate(ctx context.Context, find func() ([]process, error)) error {
	var left []process
	var failed error
	gone := until(ctx, killWait, func() bool {
		if left, failed = find(); failed != nil {
			return false
		}
		for _, p := range left {
			failed = errors.Join(failed, p.kill())
		}
		return len(left) == 0
	})
	if gone {
		return nil
	}
	var pids []string
	for _, p := range left {
		pids = append(pids, strconv.Itoa(p.PID))
	}
	return errors.Join(fmt.Errorf("processes do not die: %s", strings.Join(pids, ", ")), failed)
}
