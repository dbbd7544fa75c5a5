package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// mountFlags are the options that mount(2) takes as bits.
var mountFlags = map[string]struct {
	clear bool
	bits  uintptr
}{
	"ro": {bits: unix.MS_RDONLY}, "rw": {clear: true, bits: unix.MS_RDONLY},
	"nosuid": {bits: unix.MS_NOSUID}, "suid": {clear: true, bits: unix.MS_NOSUID},
	"nodev": {bits: unix.MS_NODEV}, "dev": {clear: true, bits: unix.MS_NODEV},
	"noexec": {bits: unix.MS_NOEXEC}, "exec": {clear: true, bits: unix.MS_NOEXEC},
	"noatime": {bits: unix.MS_NOATIME}, "relatime": {bits: unix.MS_RELATIME}, "strictatime": {bits: unix.MS_STRICTATIME},
	"sync": {bits: unix.MS_SYNCHRONOUS}, "dirsync": {bits: unix.MS_DIRSYNC},
	"bind": {bits: unix.MS_BIND}, "rbind": {bits: unix.MS_BIND | unix.MS_REC}, "defaults": {},
}

// mountAll mounts a root file system, layer by layer, and undoes all when one
// fails.
func mountAll(mounts []container.Mount, target string) (err error) {
	if len(mounts) == 0 {
		return errors.New("no root file system")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unmountAll(target))
		}
	}()
	for _, m := range mounts {
		if err := mount(m, target); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.Type, target, err)
		}
	}
	return nil
}

func mount(m container.Mount, target string) error {
	var flags uintptr
	var data []string
	for _, o := range m.Options {
		f, ok := mountFlags[o]
		switch {
		case !ok:
			data = append(data, o)
		case f.clear:
			flags &^= f.bits
		default:
			flags |= f.bits
		}
	}
	text := strings.Join(data, ",")
	if m.Type == "overlay" && len(text) >= os.Getpagesize() {
		err := mountOverlay(m.Source, data, flags, target)
		if errors.Is(err, errNotOneByOne) {
			err = mountByDescriptor(m.Source, data, flags, target)
		}
		return err
	}
	kind := m.Type
	if flags&unix.MS_BIND != 0 {
		kind = ""
	}
	if err := unix.Mount(m.Source, target, kind, flags, text); err != nil {
		return err
	}
	// A bind mount takes its flags only when mounted once more.
	if flags&unix.MS_BIND != 0 && flags&^(unix.MS_BIND|unix.MS_REC) != 0 {
		return unix.Mount("", target, "", flags|unix.MS_REMOUNT, "")
	}
	return nil
}

// mountOverlay mounts more layers than fit into the page that mount(2) has for
// options: they are handed over one by one, as Linux 6.8 and later allow. Others
// answer errNotOneByOne.
func mountOverlay(source string, data []string, flags uintptr, target string) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigSetString(fsfd, "source", source); err != nil {
		return err
	}
	for _, option := range data {
		k, v, _ := strings.Cut(option, "=")
		values := []string{v}
		if k == "lowerdir" {
			k, values = "lowerdir+", strings.Split(v, ":")
		}
		for _, v := range values {
			if v == "" {
				err = unix.FsconfigSetFlag(fsfd, k)
			} else {
				err = unix.FsconfigSetString(fsfd, k, v)
			}
			switch {
			case k == "lowerdir+" && errors.Is(err, unix.EINVAL):
				return errNotOneByOne
			case err != nil:
				return fmt.Errorf("option %s: %w", k, err)
			}
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return err
	}
	attr := 0
	for bit, a := range map[uintptr]int{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.MS_NODEV: unix.MOUNT_ATTR_NODEV,
		unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC, unix.MS_NOATIME: unix.MOUNT_ATTR_NOATIME,
	} {
		if flags&bit != 0 {
			attr |= a
		}
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

var errNotOneByOne = errors.New("this kernel does not take layers one by one")

// mountByDescriptor is mountOverlay for kernels before 6.8: it names each layer
// by a descriptor of this process, in so few bytes that more than 200 fit.
func mountByDescriptor(source string, data []string, flags uintptr, target string) error {
	for i, option := range data {
		layers, ok := strings.CutPrefix(option, "lowerdir=")
		if !ok {
			continue
		}
		var short []string
		for dir := range strings.SplitSeq(layers, ":") {
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &fs.PathError{Op: "open layer", Path: dir, Err: err}
			}
			defer unix.Close(fd)
			short = append(short, "/proc/self/fd/"+strconv.Itoa(fd))
		}
		data = slices.Clone(data)
		data[i] = "lowerdir=" + strings.Join(short, ":")
	}
	text := strings.Join(data, ",")
	if len(text) >= os.Getpagesize() {
		return errors.New("more layers than this kernel takes")
	}
	return unix.Mount(source, target, "overlay", flags, text)
}

// unmountAll takes away all that is mounted at a path, however often.
func unmountAll(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return &fs.PathError{Op: "unmount", Path: target, Err: err}
		}
	}
}
