package runc

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

	"github.com/skein-dev/skein/runtime/container"
)

// What an image calls a volume is a folder of the container's own root. Its name
// comes from a stranger, and so do the links on the way: it is looked up as the
// container will see it, and bound by descriptor.

func (d *Driver) volumesDir(id container.ID) string { return filepath.Join(d.bundle(id), "volumes") }

// makeVolumes makes the folders that an image wants to write to, in the root that
// is mounted. Where the root is to be read-only it returns mounts by which they
// can be written all the same.
func (d *Driver) makeVolumes(spec container.Spec) ([]container.Mount, error) {
	var out []container.Mount
	root := d.rootfs(spec.ID)
	for i, at := range spec.Volumes {
		at = path.Clean("/" + at)
		if covered(at, spec.Mounts) {
			continue
		}
		fd, err := makeInRoot(root, at, d.usersOf(spec.ID.Pod))
		if errors.Is(err, unix.ENOTDIR) {
			continue // a file: the image does not mean it
		}
		if err != nil {
			return nil, fmt.Errorf("make the image's volume %s: %w", at, err)
		}
		m, err := d.writable(spec, fd, i)
		_ = unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("make the image's volume %s: %w", at, err)
		}
		if m != nil {
			out = append(out, *m)
		}
	}
	return out, nil
}

// writable mounts a folder of the root that is open, and says how the container
// gets it, at the path to which the links have led.
func (d *Driver) writable(spec container.Spec, fd, number int) (*container.Mount, error) {
	name := "/proc/self/fd/" + strconv.Itoa(fd)
	led, err := os.Readlink(name)
	if err != nil {
		return nil, err
	}
	at, inside := strings.CutPrefix(led, d.rootfs(spec.ID))
	switch {
	case !inside || at != "" && at[0] != '/':
		return nil, fmt.Errorf("it leads to %s", led)
	case !spec.Security.ReadOnlyRoot || covered(path.Clean("/"+at), spec.Mounts):
		return nil, nil
	}
	dir := filepath.Join(d.volumesDir(spec.ID), strconv.Itoa(number))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount(name, dir, "", unix.MS_BIND, ""); err != nil {
		return nil, &fs.PathError{Op: "bind", Path: dir, Err: err}
	}
	return &container.Mount{Type: "bind", Source: dir, Target: at, Options: []string{"bind", "rprivate", "rw", "nodev"}}, nil
}

// covered tells whether a folder is of no use in the root: it is the root itself,
// the kernel's file systems are there, or something that is mounted.
func covered(at string, mounts []container.Mount) bool {
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if below(at, kernel) {
			return true
		}
	}
	for _, m := range mounts {
		if below(at, path.Clean("/"+m.Target)) {
			return true
		}
	}
	return at == "/"
}

func below(at, dir string) bool { return at == dir || strings.HasPrefix(at, dir+"/") }

// makeInRoot opens a folder of a root as whoever has that root sees it, and makes
// what is missing of it, for the users that are given. Links, absolute ones too, lead
// nowhere but inside.
func makeInRoot(root, at string, users uint32) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	how := unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	parts := strings.Split(strings.Trim(path.Clean("/"+at), "/"), "/")
	in := dir
	defer func() {
		if in != dir {
			_ = unix.Close(in)
		}
		_ = unix.Close(dir)
	}()
	for i, part := range parts {
		prefix := strings.Join(parts[:i+1], "/")
		next, err := unix.Openat2(dir, prefix, &how)
		if errors.Is(err, unix.ENOENT) {
			err = asUsers(users, func() error { return unix.Mkdirat(in, part, 0o755) })
			if err == nil {
				err = unix.Fchmodat(in, part, 0o755, 0) // the umask may have taken some of it; nobody else is here yet
			}
			if err != nil {
				return -1, &fs.PathError{Op: "mkdir", Path: prefix, Err: err}
			}
			next, err = unix.Openat2(dir, prefix, &how)
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: prefix, Err: err}
		}
		if in != dir {
			_ = unix.Close(in)
		}
		in = next
	}
	out := in
	in = dir
	return out, nil
}

// unmountVolumes takes away what makeVolumes has mounted in a bundle.
func unmountVolumes(bundle string) error {
	list, err := os.ReadDir(filepath.Join(bundle, "volumes"))
	if err != nil {
		return ignoreMissing(err)
	}
	var errs []error
	for _, e := range list {
		errs = append(errs, unmountAll(filepath.Join(bundle, "volumes", e.Name())))
	}
	return errors.Join(errs...)
}
