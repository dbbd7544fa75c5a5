package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// How a name inside a volume is followed: links may lead about in the volume and
// never out of it, and no link of /proc is followed. The kernel sees to it in one
// step, so nothing can be swapped between a look and its use.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// The kernel gives up with EAGAIN when something around a name is moved while it
// is followed.
const raceTries = 1000

func openBeneath(root int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: beneath}
	for range raceTries {
		fd, err := unix.Openat2(root, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// openSub opens what sub names below root, and makes the folders that are
// missing, with the mode of the volume.
func openSub(root int, sub string) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return -1, err
	}
	sub = path.Clean(sub)
	for range raceTries {
		fd, err := openBeneath(root, sub, unix.O_PATH)
		if !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		if err := makeBeneath(root, sub, st.Mode&0o7777); err != nil && !errors.Is(err, unix.ENOENT) {
			return -1, err
		}
	}
	return -1, unix.ENOENT // somebody removes it as fast as it is made
}

// makeBeneath makes a folder and those around it. One that is made meanwhile is
// as good.
func makeBeneath(root int, name string, mode uint32) error {
	parts := strings.Split(name, "/")
	for i := range parts {
		in, err := openBeneath(root, path.Join(".", path.Join(parts[:i]...)), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(in, parts[i], 0o700)
		if err == nil {
			err = modeOf(in, parts[i], mode)
		}
		_ = unix.Close(in)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// modeOf sets the mode of a folder that was just made, unless it was swapped.
func modeOf(in int, name string, mode uint32) error {
	fd, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode)
}

// Sub mounts what sub names in a volume at a place of the container's own and
// returns that. The container, or another of its Pod, may swap what it names for
// a link at any time: what is mounted was in the volume when it was opened, and
// is looked at again once it is mounted.
func (s *Store) Sub(pod, container string, number int, volume, sub string) (string, error) {
	if sub == "" || path.IsAbs(sub) || !filepath.IsLocal(sub) {
		return "", fmt.Errorf("%q is no path in a volume", sub)
	}
	root, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open volume", Path: volume, Err: err}
	}
	defer unix.Close(root)
	fd, err := openSub(root, sub)
	if err != nil {
		if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
			return "", fmt.Errorf("subPath %q leads out of its volume", sub)
		}
		return "", fmt.Errorf("open subPath %q: %w", sub, err)
	}
	defer unix.Close(fd)
	return s.mountAt(fd, pod, subDir, container, number)
}

// mountAt mounts what a descriptor has open and returns where.
func (s *Store) mountAt(fd int, pod, kind, container string, number int) (string, error) {
	if err := plainName(pod, container); err != nil {
		return "", err
	}
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return "", err
	}
	at := s.run(pod, kind, container, strconv.Itoa(number))
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return "", err
	}
	if err := unmount(at); err != nil { // of a start that was broken off
		return "", err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var err error
	if want.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	source := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", &fs.PathError{Op: "bind", Path: at, Err: err}
	}
	// Else to unmount it would unmount, on the machine, what is mounted below.
	err = unix.Mount("", at, "", unix.MS_SLAVE|unix.MS_REC, "")
	var have unix.Stat_t
	if err == nil {
		err = unix.Lstat(at, &have)
	}
	if err == nil && (have.Dev != want.Dev || have.Ino != want.Ino) {
		err = errors.New("something else is mounted than was opened")
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("mount %s: %w", at, err), unmount(at))
	}
	return at, nil
}
