package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/runc/transfer"
)

// CopyOut writes a tar of what is at a path in a running container.
func (d *Driver) CopyOut(ctx context.Context, id container.ID, at string, w io.Writer) ([]string, error) {
	return d.transfer(ctx, id, transfer.Request{Out: true, Path: at}, nil, w)
}

// CopyIn unpacks a tar in a running container.
func (d *Driver) CopyIn(ctx context.Context, id container.ID, spec container.CopySpec, r io.Reader) ([]string, error) {
	return d.transfer(ctx, id, transfer.Request{Path: spec.Path, Archive: spec.Archive}, r, nil)
}

// transfer runs the process that copies, and ends it with ctx.
func (d *Driver) transfer(ctx context.Context, id container.ID, req transfer.Request, r io.Reader, w io.Writer) ([]string, error) {
	b := d.box(id)
	if b == nil || b.ended() != nil {
		return nil, fmt.Errorf("container %s does not run: %w", id, container.ErrNotFound)
	}
	if !path.IsAbs(req.Path) || strings.ContainsRune(req.Path, 0) {
		return nil, fmt.Errorf("copy: %q is not an absolute path", req.Path)
	}
	namespace, err := b.identify(&req)
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	defer namespace.Close()
	res, err := d.runTransfer(ctx, req, namespace, r, w)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return res.Notices, fmt.Errorf("copy: %w", err)
	}
	return res.Notices, nil
}

func (d *Driver) runTransfer(ctx context.Context, req transfer.Request, namespace *os.File, r io.Reader, w io.Writer) (transfer.Result, error) {
	var res transfer.Result
	arg, err := json.Marshal(req)
	if err != nil {
		return res, err
	}
	if len(d.cfg.CopyCommand) == 0 {
		return res, errors.New("no program to copy with")
	}
	cmd := exec.CommandContext(ctx, d.cfg.CopyCommand[0], append(d.cfg.CopyCommand[1:], string(arg))...) //nolint:gosec // our own
	cmd.Env = []string{"GOMAXPROCS=2", "GOMEMLIMIT=64MiB"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{namespace}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return res, err
	}
	runtime.LockOSThread() // see Driver.runc
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return res, err
	}
	sent := make(chan error, 1)
	go func() { // ends with the process, or else when r gives more or ends
		var err error
		if r != nil {
			if _, err = io.Copy(stdin, r); errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
				err = nil // it ended, and says why
			}
		}
		if err != nil { // a tar cut short at the border of an entry would pass for whole
			_ = cmd.Process.Kill()
		}
		sent <- err
		_ = stdin.Close()
	}()
	ended := cmd.Wait()
	var sending error
	select {
	case sending = <-sent:
	default:
	}
	if err := json.Unmarshal(said.Bytes(), &res); err != nil && ended == nil {
		return res, fmt.Errorf("the copying process said nothing: %w", err)
	}
	switch {
	case sending != nil:
		return res, sending
	case res.Error != "":
		return res, &CopyError{Text: res.Error}
	}
	return res, ended
}

// A CopyError is why files could not be copied: what the container's file system
// said, or what was asked of it.
type CopyError struct{ Text string }

func (e *CopyError) Error() string { return e.Text }

// keptCaps are what of root's power may be kept to copy files.
const keptCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID

// identify opens the mount namespace of a container, and says as whom it runs.
func (b *box) identify(req *transfer.Request) (_ *os.File, err error) {
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", b.proc.PID))
	if err != nil {
		return nil, fmt.Errorf("it has ended: %w", container.ErrNotFound)
	}
	defer func() {
		if err != nil {
			_ = namespace.Close()
		}
	}()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.PID))
	if err != nil {
		return nil, fmt.Errorf("it has ended: %w", container.ErrNotFound)
	}
	users, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", b.proc.PID))
	if err != nil {
		return nil, fmt.Errorf("it has ended: %w", container.ErrNotFound)
	}
	if _, err := b.proc.key().Stat(); err != nil { // all of that was another's
		return nil, fmt.Errorf("it has ended: %w", container.ErrNotFound)
	}
	if err := parseStatus(status, req); err != nil {
		return nil, err
	}
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return nil, err
	}
	if own != users {
		req.Caps = 0 // its power ends at its user namespace, and so does ours
	}
	return namespace, nil
}

// parseStatus reads whose a process is, of what /proc/PID/status says. A user other
// than root keeps over its program's start what is ambient, and only that: before
// that start runc has given it more.
func parseStatus(text []byte, req *transfer.Request) error {
	have := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			have[key] = strings.Fields(value)
		}
	}
	if len(have["Uid"]) < 2 || len(have["Gid"]) < 2 || len(have["CapEff"]) != 1 {
		return errors.New("whose the process is cannot be read")
	}
	var errs [3]error
	req.UID, errs[0] = strconv.Atoi(have["Uid"][1])
	req.GID, errs[1] = strconv.Atoi(have["Gid"][1])
	req.Caps, errs[2] = strconv.ParseUint(have["CapEff"][0], 16, 64)
	req.Caps &= keptCaps
	if req.UID != 0 {
		ambient := uint64(0)
		if len(have["CapAmb"]) == 1 {
			var err error
			if ambient, err = strconv.ParseUint(have["CapAmb"][0], 16, 64); err != nil {
				return err
			}
		}
		req.Caps &= ambient
	}
	for _, text := range have["Groups"] {
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		req.Groups = append(req.Groups, n)
	}
	return errors.Join(errs[:]...)
}
