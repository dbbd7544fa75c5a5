package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A HostType says what has to be at a path of the machine, in Kubernetes' words.
// Empty: whatever is there.
type HostType string

// The types.
const (
	HostAny               HostType = ""
	HostDirectory         HostType = "Directory"
	HostDirectoryOrCreate HostType = "DirectoryOrCreate"
	HostFile              HostType = "File"
	HostFileOrCreate      HostType = "FileOrCreate"
	HostSocket            HostType = "Socket"
	HostCharDevice        HostType = "CharDevice"
	HostBlockDevice       HostType = "BlockDevice"
)

var hostModes = map[HostType]uint32{
	HostDirectory: unix.S_IFDIR, HostDirectoryOrCreate: unix.S_IFDIR, HostFile: unix.S_IFREG, HostFileOrCreate: unix.S_IFREG,
	HostSocket: unix.S_IFSOCK, HostCharDevice: unix.S_IFCHR, HostBlockDevice: unix.S_IFBLK,
}

// Host mounts a path of the machine, or what sub names below it, at a place of
// the container's own and returns that. What is looked at is what is mounted.
func (s *Store) Host(pod, container string, number int, path string, kind HostType, sub string) (string, error) {
	if err := createHost(path, kind); err != nil {
		return "", err
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if want, typed := hostModes[kind]; typed && st.Mode&unix.S_IFMT != want {
		return "", fmt.Errorf("hostPath %s is no %s", path, kind)
	}
	if sub != "" {
		in, err := openSub(fd, sub)
		if err != nil {
			return "", fmt.Errorf("open subPath %q of hostPath %s: %w", sub, path, err)
		}
		_ = unix.Close(fd)
		fd = in
	}
	return s.mountAt(fd, pod, hostDir, container, number)
}

func createHost(path string, kind HostType) error {
	switch kind {
	case HostDirectoryOrCreate:
		return os.MkdirAll(path, 0o755) //nolint:gosec // as Kubernetes has it
	case HostFileOrCreate:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o644) //nolint:gosec // as Kubernetes has it
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return f.Close()
	}
	return nil
}
