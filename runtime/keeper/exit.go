package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An Exit tells how a process ended.
type Exit struct {
	PID    int
	Start  uint64 // ticks of 10 ms since boot
	Status syscall.WaitStatus
	Time   time.Time
}

// Code is the exit code as shells have it: 128+n after signal n.
func (e Exit) Code() int {
	if e.Status.Signaled() {
		return 128 + int(e.Status.Signal())
	}
	return e.Status.ExitStatus()
}

// Signal is what ended the process, or 0.
func (e Exit) Signal() int {
	if e.Status.Signaled() {
		return int(e.Status.Signal())
	}
	return 0
}

func exitName(pid int, start uint64) string {
	return strconv.Itoa(pid) + "-" + strconv.FormatUint(start, 10)
}

// WriteExit keeps an exit, synced. The keeper calls it before it reaps, so that
// a process is either still there or its exit is.
func (d Dir) WriteExit(e Exit) error {
	text := strconv.FormatUint(uint64(e.Status), 10) + " " + strconv.FormatInt(e.Time.UnixNano(), 10) + "\n"
	return WriteSynced(filepath.Join(d.Exits(), exitName(e.PID, e.Start)), []byte(text))
}

// ReadExit reads how a process ended. The error is [fs.ErrNotExist] when the
// keeper has not reaped such a process.
func (d Dir) ReadExit(pid int, start uint64) (Exit, error) {
	return d.readExit(exitName(pid, start))
}

// FindExit is ReadExit for a caller who only knows that the process started at
// or after a tick.
func (d Dir) FindExit(pid int, since uint64) (Exit, error) {
	all, err := d.ListExits()
	if err != nil {
		return Exit{}, err
	}
	for _, e := range all {
		if e.PID == pid && e.Start >= since {
			return e, nil
		}
	}
	return Exit{}, fs.ErrNotExist
}

// ListExits reads all exits that are kept.
func (d Dir) ListExits() ([]Exit, error) {
	entries, err := os.ReadDir(d.Exits())
	if err != nil {
		return nil, err
	}
	var out []Exit
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if exit, err := d.readExit(e.Name()); err == nil {
			out = append(out, exit)
		}
	}
	return out, nil
}

// RemoveExit forgets an exit.
func (d Dir) RemoveExit(pid int, start uint64) error {
	err := os.Remove(filepath.Join(d.Exits(), exitName(pid, start)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

var errMalformed = errors.New("malformed exit file")

func (d Dir) readExit(name string) (Exit, error) {
	text, err := os.ReadFile(filepath.Join(d.Exits(), name))
	if err != nil {
		return Exit{}, err
	}
	return parseExit(name, string(text))
}

// parseExit reads an exit file by its name and text.
func parseExit(name, text string) (Exit, error) {
	pid, start, ok := strings.Cut(name, "-")
	f := strings.Fields(text)
	if !ok || len(f) < 2 { // a later keeper may say more
		return Exit{}, errMalformed
	}
	var e Exit
	var errs [4]error
	var status uint64
	var nano int64
	e.PID, errs[0] = strconv.Atoi(pid)
	e.Start, errs[1] = strconv.ParseUint(start, 10, 64)
	status, errs[2] = strconv.ParseUint(f[0], 10, 32)
	nano, errs[3] = strconv.ParseInt(f[1], 10, 64)
	if errors.Join(errs[:]...) != nil {
		return Exit{}, errMalformed
	}
	e.Status, e.Time = syscall.WaitStatus(status), time.Unix(0, nano)
	return e, nil
}
