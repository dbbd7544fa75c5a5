package keeper

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// A Watch waits for changes below one path. The kernel queues what happens
// between two waits.
type Watch struct {
	file *os.File
	buf  [4096]byte
}

// NewWatch watches a path for the events of an inotify mask.
func NewWatch(path string, mask uint32) (*Watch, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	if _, err := syscall.InotifyAddWatch(fd, path, mask); err != nil {
		_ = syscall.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return &Watch{file: os.NewFile(uintptr(fd), "inotify")}, nil //nolint:gosec // a descriptor is not negative
}

// Wait returns when something has happened since the last Wait, or with the
// error of ctx.
func (w *Watch) Wait(ctx context.Context) error {
	_ = w.file.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := w.file.Read(w.buf[:])
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Close ends the watch.
func (w *Watch) Close() error { return w.file.Close() }

// Events calls each for the inotify events in buf.
func Events(buf []byte, each func(watch int32, mask uint32, name string)) {
	for len(buf) >= syscall.SizeofInotifyEvent {
		e := (*syscall.InotifyEvent)(unsafe.Pointer(&buf[0])) //nolint:gosec // the kernel wrote it there
		end := syscall.SizeofInotifyEvent + int(e.Len)
		if end > len(buf) {
			return
		}
		name := buf[syscall.SizeofInotifyEvent:end]
		for len(name) > 0 && name[len(name)-1] == 0 {
			name = name[:len(name)-1]
		}
		each(e.Wd, e.Mask, string(name))
		buf = buf[end:]
	}
}

// await waits until ready says so; ready is asked again whenever something
// happens below path.
func await(ctx context.Context, path string, ready func() bool) error {
	if ready() {
		return nil
	}
	w, err := NewWatch(path, syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_DELETE_SELF|syscall.IN_MOVE_SELF)
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	for !ready() {
		if err := w.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
