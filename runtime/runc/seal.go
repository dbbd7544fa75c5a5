package runc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Seal puts a program into memory where nobody can change it any more, a
// container that has got hold of it included. The file is for executing by
// /proc/PID/fd/N and lives as long as it is open.
func Seal(name string, data []byte) (_ *os.File, err error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // older than 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name) //nolint:gosec // a descriptor is not negative
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if _, err := f.Write(data); err != nil {
		return nil, fmt.Errorf("copy %s into memory: %w", name, err)
	}
	if err := f.Chmod(0o500); err != nil {
		return nil, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	return f, nil
}
