package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A blockFile is a file under a loop device that does what disks do when they
// are bad: it answers late, never, or with errors. To the file system above it
// is a disk. It is served over FUSE, whose root here is no folder but that one
// file, so that a dozen of the protocol's operations are enough; their numbers
// and layouts are those of include/uapi/linux/fuse.h, version 7.31.
type blockFile struct {
	dev  int // of /dev/fuse
	file *os.File
	size uint64
	// fault tells how the disk is at this moment.
	fault func() diskFault
}

// A diskFault is how a bad disk behaves.
type diskFault struct {
	Delay time.Duration // of each flush
	Hang  bool          // writes and syncs do not come back
	Fail  bool          // they end in an error
}

// FUSE's operations, as far as a single file meets them.
const (
	fuseForget      = 2
	fuseGetattr     = 3
	fuseSetattr     = 4
	fuseOpen        = 14
	fuseRead        = 15
	fuseWrite       = 16
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseFsync       = 20
	fuseFlush       = 25
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42

	fuseHeader   = 40 // bytes before each request
	fuseMaxWrite = 128 << 10
	fuseDirect   = 1 << 0 // FOPEN_DIRECT_IO: the page cache is the loop device's alone
	fuseBig      = 1 << 5 // FUSE_BIG_WRITES
)

// hangLook is how often a write that hangs looks whether it may go on.
const hangLook = 20 * time.Millisecond

// mountBlockFile puts the file at a path, which is an empty file. Serve it.
func mountBlockFile(file *os.File, path string, fault func() diskFault) (*blockFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the size of a disk: %w", err)
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0", dev, unix.S_IFREG|0o600)
	if err := unix.Mount("skein-lab", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		_ = unix.Close(dev)
		return nil, fmt.Errorf("mount a disk at %s: %w", path, err)
	}
	return &blockFile{dev: dev, file: file, size: uint64(info.Size()), fault: fault}, nil //nolint:gosec // not negative
}

// serve answers until the file is unmounted.
func (b *blockFile) serve() error {
	defer func() { _ = unix.Close(b.dev) }()
	for {
		buf := make([]byte, fuseMaxWrite+4096)
		n, err := unix.Read(b.dev, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // the request was taken back
		case errors.Is(err, unix.ENODEV):
			return nil
		case err != nil:
			return fmt.Errorf("serve a disk: %w", err)
		case n >= fuseHeader:
			go b.answer(buf[:n]) // one that hangs must not hold up the others
		}
	}
}

// answer does what one request asks for.
func (b *blockFile) answer(req []byte) {
	op, unique := binary.NativeEndian.Uint32(req[4:]), binary.NativeEndian.Uint64(req[8:])
	switch op {
	case fuseForget, fuseBatchForget, fuseInterrupt:
		return // not answered
	}
	out, err := b.do(op, req[fuseHeader:])
	var code int32
	if err != nil {
		out, code = nil, -int32(unix.EIO)
		var errno unix.Errno
		if errors.As(err, &errno) {
			code = -int32(errno) //nolint:gosec // small
		}
	}
	msg := make([]byte, 16, 16+len(out))
	binary.NativeEndian.PutUint32(msg, uint32(16+len(out))) //nolint:gosec // 128 KB at most
	binary.NativeEndian.PutUint32(msg[4:], uint32(code))    //nolint:gosec // two's complement
	binary.NativeEndian.PutUint64(msg[8:], unique)
	_, _ = unix.Write(b.dev, append(msg, out...)) // refused once nobody waits for it
}

func (b *blockFile) do(op uint32, in []byte) ([]byte, error) {
	switch op {
	case fuseInit:
		return b.init(in), nil
	case fuseGetattr, fuseSetattr:
		return b.attr(), nil
	case fuseOpen:
		out := make([]byte, 16)
		binary.NativeEndian.PutUint32(out[8:], fuseDirect)
		return out, nil
	case fuseRead:
		at, size := binary.NativeEndian.Uint64(in[8:]), binary.NativeEndian.Uint32(in[16:])
		out := make([]byte, min(size, fuseMaxWrite))
		n, err := unix.Pread(int(b.file.Fd()), out, int64(at)) //nolint:gosec // within the file
		return out[:max(n, 0)], err
	case fuseWrite:
		if err := b.suffer(0); err != nil {
			return nil, err
		}
		at, size := binary.NativeEndian.Uint64(in[8:]), binary.NativeEndian.Uint32(in[16:])
		if len(in) < 40+int(size) {
			return nil, unix.EINVAL
		}
		n, err := unix.Pwrite(int(b.file.Fd()), in[40:40+size], int64(at)) //nolint:gosec // within the file
		out := make([]byte, 8)
		binary.NativeEndian.PutUint32(out, uint32(max(n, 0))) //nolint:gosec // not negative
		return out, err
	case fuseFsync:
		if err := b.suffer(b.fault().Delay); err != nil {
			return nil, err
		}
		return nil, unix.Fdatasync(int(b.file.Fd()))
	case fuseStatfs:
		return make([]byte, 80), nil
	case fuseFlush, fuseRelease, fuseDestroy:
		return nil, nil
	}
	return nil, unix.ENOSYS
}

// suffer is what a write goes through on this disk.
func (b *blockFile) suffer(delay time.Duration) error {
	time.Sleep(delay)
	for {
		switch f := b.fault(); {
		case f.Fail:
			return unix.EIO
		case !f.Hang:
			return nil
		}
		time.Sleep(hangLook)
	}
}

func (b *blockFile) init(in []byte) []byte {
	out := make([]byte, 64)
	binary.NativeEndian.PutUint32(out, 7)
	binary.NativeEndian.PutUint32(out[4:], 31)
	binary.NativeEndian.PutUint32(out[8:], binary.NativeEndian.Uint32(in[8:])) // what it reads ahead
	binary.NativeEndian.PutUint32(out[12:], fuseBig)
	binary.NativeEndian.PutUint16(out[16:], 16) // requests in the background
	binary.NativeEndian.PutUint16(out[18:], 12)
	binary.NativeEndian.PutUint32(out[20:], fuseMaxWrite)
	binary.NativeEndian.PutUint32(out[24:], 1) // ns
	return out
}

// attr is the answer about the one file, valid for a second.
func (b *blockFile) attr() []byte {
	out := make([]byte, 16+88)
	binary.NativeEndian.PutUint64(out, 1)
	attr := out[16:]
	binary.NativeEndian.PutUint64(attr, 1) // inode
	binary.NativeEndian.PutUint64(attr[8:], b.size)
	binary.NativeEndian.PutUint64(attr[16:], b.size/512)
	binary.NativeEndian.PutUint32(attr[60:], unix.S_IFREG|0o600)
	binary.NativeEndian.PutUint32(attr[64:], 1) // links
	binary.NativeEndian.PutUint32(attr[80:], 4096)
	return out
}
