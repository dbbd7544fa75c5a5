package keeper

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The names in the folder of one container's output.
const (
	PipeOut  = "stdout" // FIFOs, gone once the keeper has closed them
	PipeErr  = "stderr"
	LimitAt  = "limit"    // bytes to keep, in decimal
	OpenedAt = "open"     // the keeper reads the FIFOs
	ClosedAt = "closed"   // nothing will follow
	Input    = "stdin"    // FIFO of a container's standard input, if it has one
	Terminal = "terminal" // there: the container runs at a terminal
	Console  = "console"  // the socket by which the keeper is given the terminal, and gives it on
	LogNow   = "log"      // frames
	LogOld   = "log.1"    // the frames before those
	EndMark  = ".end"     // logs/ID.end: drain and close
	InputEnd = ".eof"     // logs/ID.eof: close the standard input
)

// LogDir is the folder of one container's output.
func (d Dir) LogDir(id string) string { return filepath.Join(d.Logs(), id) }

// LogOptions say what a container's output is, and what belongs to it.
type LogOptions struct {
	Limit    int64 // bytes to keep; 0: [DefaultLogLimit]
	Input    bool  // a standard input that the keeper holds open
	Terminal bool  // a terminal, which the keeper holds, in place of all three
}

// Streams are a container's standard input, output and error; nil at a terminal,
// and the input where there is none.
type Streams [3]*os.File

// Close closes them.
func (s Streams) Close() {
	for _, f := range s {
		_ = f.Close() // of nothing, or of a FIFO
	}
}

// OpenLog makes the folder of a container's output, which the keeper then finds
// complete, and opens both ends of its FIFOs. Held by the container, they never
// break, whoever dies: at worst they are full after 1 MiB, and the container
// waits. Of its input it gets the end to read alone, so that it can end.
func (d Dir) OpenLog(id string, opt LogOptions) (s Streams, err error) {
	if err := d.RemoveLog(id); err != nil {
		return s, err
	}
	if opt.Limit <= 0 {
		opt.Limit = DefaultLogLimit
	}
	aside := filepath.Join(d.Logs(), ".new-"+id)
	if err := os.RemoveAll(aside); err != nil {
		return s, err
	}
	if err := os.Mkdir(aside, 0o700); err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			s.Close()
			_ = os.RemoveAll(aside)
		}
	}()
	if err := os.WriteFile(filepath.Join(aside, LimitAt), strconv.AppendInt(nil, opt.Limit, 10), 0o600); err != nil {
		return s, err
	}
	if opt.Terminal {
		if err := os.WriteFile(filepath.Join(aside, Terminal), nil, 0o600); err != nil {
			return s, err
		}
		return s, os.Rename(aside, d.LogDir(id))
	}
	if s[1], err = makePipe(filepath.Join(aside, PipeOut), syscall.O_RDWR); err != nil {
		return s, err
	}
	if s[2], err = makePipe(filepath.Join(aside, PipeErr), syscall.O_RDWR); err != nil {
		return s, err
	}
	if opt.Input {
		if s[0], err = makePipe(filepath.Join(aside, Input), syscall.O_RDONLY|syscall.O_NONBLOCK); err != nil {
			return s, err
		}
		if err := syscall.SetNonblock(int(s[0].Fd()), false); err != nil { //nolint:gosec // a descriptor is small
			return s, err
		}
	}
	return s, os.Rename(aside, d.LogDir(id))
}

// EndInput asks the keeper to let go of a container's standard input, which ends
// once nobody else holds it.
func (d Dir) EndInput(id string) error {
	if !exists(filepath.Join(d.LogDir(id), Input)) {
		return nil
	}
	return os.WriteFile(d.LogDir(id)+InputEnd, nil, 0o600)
}

// makePipe makes a FIFO and opens it. It blocks when full, as programs expect of
// their output, so Go's poller must not have it.
func makePipe(path string, flags int) (*os.File, error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil //nolint:gosec // a descriptor is not negative
}

// AwaitLog waits until the keeper reads a container's output.
func (d Dir) AwaitLog(ctx context.Context, id string) error {
	return await(ctx, d.LogDir(id), func() bool { return exists(filepath.Join(d.LogDir(id), OpenedAt)) })
}

// EndLog asks the keeper to read what is left of a container's output and to
// close it, and waits until it has. When ctx ends before, as it will without a
// keeper, the output is closed as it is.
func (d Dir) EndLog(ctx context.Context, id string) error {
	dir := d.LogDir(id)
	closed := filepath.Join(dir, ClosedAt)
	if !exists(dir) || exists(closed) {
		return nil
	}
	mark := dir + EndMark
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	err := await(ctx, dir, func() bool { return exists(closed) || !exists(dir) })
	if err == nil || !exists(dir) {
		return nil
	}
	return errors.Join(remove(mark), os.WriteFile(closed, nil, 0o600))
}

// RemoveLog forgets a container's output. The folder is moved aside first: the
// keeper lets go of it, and cannot make another file in it.
func (d Dir) RemoveLog(id string) error {
	aside := filepath.Join(d.Logs(), ".gone-"+id)
	err := os.Rename(d.LogDir(id), aside)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		if err = os.RemoveAll(aside); err == nil {
			err = os.Rename(d.LogDir(id), aside)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(os.RemoveAll(aside), remove(d.LogDir(id)+EndMark), remove(d.LogDir(id)+InputEnd))
}

// ListLogs lists the containers whose output is kept.
func (d Dir) ListLogs() ([]string, error) {
	entries, err := os.ReadDir(d.Logs())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
