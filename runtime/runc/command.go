package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// runc runs the runc program until it has ended. Its own complaints go to
// logFile: its output is the container's.
func (d *Driver) runc(ctx context.Context, logFile string, stdio [3]*os.File, args ...string) error {
	cmd := d.command(ctx, logFile, args...)
	for i, f := range stdio {
		if f == nil {
			continue
		}
		switch i {
		case 0:
			cmd.Stdin = f
		case 1:
			cmd.Stdout = f
		case 2:
			cmd.Stderr = f
		}
	}
	// runc is told to die when the thread that started it ends, so this one
	// must not end before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return complaint(cmd.Run(), logFile)
}

func (d *Driver) command(ctx context.Context, logFile string, args ...string) *exec.Cmd {
	args = append([]string{"--root", d.runcRoot(), "--log", logFile, "--log-format", "json"}, args...)
	cmd := exec.CommandContext(ctx, d.program, args...)
	cmd.Args[0] = "runc"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	// Nothing half-done goes on behind the back of the next agent.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// A ComplaintError is what runc itself complained of.
type ComplaintError struct{ Text string }

func (e *ComplaintError) Error() string { return "runc: " + e.Text }

// complaint puts runc's own words in the place of its exit code.
func complaint(err error, logFile string) error {
	var ended *exec.ExitError
	if err == nil || !errors.As(err, &ended) {
		return err
	}
	if text := lastError(logFile); text != "" {
		return &ComplaintError{Text: text}
	}
	return fmt.Errorf("runc: %w", err)
}

// lastError is the last error in a log of runc's, or "".
func lastError(logFile string) string {
	text, err := os.ReadFile(logFile)
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			last = entry.Msg
		}
	}
	return last
}

// clear removes every trace of a container but its folder: runc's state, what
// runs, cgroups, mounts, bundle and output. It works from whatever point a start
// was broken off at, and may be repeated.
func (d *Driver) clear(id container.ID) error {
	d.killRunc(id)
	group := d.cgroup(id)
	d.groups.kill(group)
	errs := []error{
		d.groups.remove(group),
		os.RemoveAll(d.runcDir(id)),
		d.hideRoot(id), unmountAll(filepath.Join(d.bundle(id), "layers")),
		unmountAll(d.rootfs(id)),
		unmountAll(d.messageDir(id)), unmountVolumes(d.bundle(id)),
	}
	if err := errors.Join(errs...); err != nil {
		return err // the bundle stays: what is still mounted in it must not be deleted
	}
	return errors.Join(os.RemoveAll(d.bundle(id)), d.keeper.RemoveLog(id.String()))
}

func (d *Driver) killRunc(id container.ID) { d.endRunc(id.String(), d.bundle(id)) }

// endRunc ends what is left of a runc that worked on a container for an agent
// that died. The kernel has told it to die already.
func (d *Driver) endRunc(id, bundle string) {
	if _, err := os.Stat(bundle); err != nil {
		return // it was not got to
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return
	}
	want := []byte("runc\x00--root\x00" + d.runcRoot() + "\x00")
	for _, path := range procs {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(text, want) || !bytes.Contains(text, []byte("\x00"+id+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil || pid == os.Getpid() {
			continue
		}
		for unix.Kill(pid, unix.SIGKILL) == nil {
			now, err := os.ReadFile(path)
			if err != nil || len(now) == 0 { // gone, or a zombie
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}
