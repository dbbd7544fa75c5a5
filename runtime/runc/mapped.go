package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/network"
)

// Here is how users of a namespace see files: through mounts that map the numbers on
// the disk to theirs.

// mountMapped mounts a root file system whose files belong to users of a namespace:
// all of its layers are seen through one mount that maps them, which the file system
// keeps and nobody else sees.
func mountMapped(mounts []container.Mount, target, aside string, users *os.File, base uint32) (err error) {
	if len(mounts) != 1 {
		return fmt.Errorf("a root of %d mounts", len(mounts))
	}
	m := mounts[0]
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountAll(aside), ignoreMissing(os.Remove(aside))) }()
	if m.Type == "bind" {
		return bindMapped(m.Source, target, users)
	}
	folder := commonFolder(m.Options)
	if m.Type != "overlay" || folder == "" {
		return fmt.Errorf("a root of type %s cannot be mapped", m.Type)
	}
	if err := bindMapped(folder, aside, users); err != nil {
		return err
	}
	m.Options = append([]string(nil), m.Options...)
	for i, o := range m.Options {
		if k, v, ok := strings.Cut(o, "="); ok && layered[k] {
			list := strings.Split(v, ":")
			for j := range list {
				list[j] = aside + strings.TrimPrefix(list[j], folder)
			}
			m.Options[i] = k + "=" + strings.Join(list, ":")
		}
	}
	// An overlay makes files as whoever has mounted it.
	if err := asUsers(base, func() error { return mount(m, target) }); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Type, target, err)
	}
	return nil
}

// layered are the options of an overlay that name folders.
var layered = map[string]bool{"lowerdir": true, "upperdir": true, "workdir": true}

// commonFolder is the innermost folder that holds all that an overlay is made of.
func commonFolder(options []string) string {
	common := ""
	for _, o := range options {
		k, v, ok := strings.Cut(o, "=")
		if !ok || !layered[k] {
			continue
		}
		for dir := range strings.SplitSeq(v, ":") {
			if common == "" {
				common = filepath.Dir(dir)
			}
			for common != "/" && !strings.HasPrefix(dir, common+"/") {
				common = filepath.Dir(common)
			}
		}
	}
	return common
}

// bindMapped binds a folder, whose files belong there to users of a namespace by
// the numbers that they have on the disk.
func bindMapped(from, to string, users *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: from, Err: err}
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &fs.PathError{Op: "map the users of", Path: from, Err: err}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: to, Err: err}
	}
	return nil
}

// mapping is how OCI has it.
func mapping(base uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: network.UserCount}}
}

// mapVolumes has what a container mounts belong to its users by the numbers on the
// disk. What is of its own root does already; a device is no file system's.
func mapVolumes(s *specs.Spec, c container.Spec, base uint32, own string) {
	volumes := map[string]bool{}
	for _, m := range c.Mounts {
		if !m.Device && !strings.HasPrefix(m.Source, own+"/") {
			volumes[m.Source] = true
		}
	}
	for i := range s.Mounts {
		if m := &s.Mounts[i]; bound(*m) && volumes[m.Source] {
			m.UIDMappings, m.GIDMappings = mapping(base), mapping(base)
		}
	}
}

// asUsers runs f so that what it makes belongs to root of those users: where files
// are mapped, that of the machine has no number on the disk. Its powers stay.
func asUsers(base uint32, f func() error) error {
	if base == 0 {
		return f()
	}
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("capget: %w", err)
	}
	err := setFS(int(base))
	if err == nil {
		err = unix.Capset(&header, &caps[0]) // a change of user takes those over files
	}
	if err == nil {
		err = f()
	}
	if back := setFS(0); back != nil {
		return errors.Join(err, back) // and never unlock: the thread is of no more use
	}
	runtime.UnlockOSThread()
	return err
}

// setFS sets the thread's user and group for files. The calls tell no error: they
// answer what was before.
func setFS(id int) error {
	_, _ = unix.SetfsgidRetGid(id)
	_, _ = unix.SetfsuidRetUid(id)
	gid, err1 := unix.SetfsgidRetGid(-1)
	uid, err2 := unix.SetfsuidRetUid(-1)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if gid != id || uid != id {
		return fmt.Errorf("act as user %d: the kernel has it %d, of group %d", id, uid, gid)
	}
	return nil
}

// canMap tells why this machine cannot have Pods with users of their own; nil: it
// can. It tries what such a Pod needs, on the disk that holds dir and in memory:
// mapped layers of an overlay (Linux 5.19) and a mapped tmpfs (6.3).
func canMap(dir string) (err error) {
	at := filepath.Join(dir, ".probe") // no Pod is called so
	sweep := func() error {
		for _, name := range []string{"root", "aside", "mapped", "memory"} {
			if err := unmountAll(filepath.Join(at, name)); err != nil {
				return err
			}
		}
		return os.RemoveAll(at)
	}
	if err := sweep(); err != nil { // of an agent that was killed in the middle
		return err
	}
	defer func() { err = errors.Join(err, sweep()) }()
	for _, name := range []string{"layers/lower", "layers/upper", "layers/work", "root", "aside", "memory", "mapped"} {
		if err := os.MkdirAll(filepath.Join(at, name), 0o700); err != nil {
			return err
		}
	}
	return network.WithUsers(firstUsers, 0, func(pid int) error {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		if err != nil {
			return err
		}
		defer ns.Close()
		return errors.Join(probeOverlay(at, ns), probeMemory(at, ns))
	})
}

func probeOverlay(at string, ns *os.File) error {
	root := filepath.Join(at, "root")
	layers := filepath.Join(at, "layers")
	m := container.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + layers + "/lower", "upperdir=" + layers + "/upper", "workdir=" + layers + "/work"}}
	if err := mountMapped([]container.Mount{m}, root, filepath.Join(at, "aside"), ns, firstUsers); err != nil {
		return err
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(fd)
	if err := asUsers(firstUsers, func() error { return unix.Mkdirat(fd, "made", 0o700) }); err != nil {
		return fmt.Errorf("make a file as another user: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(layers+"/upper/made", &st); err != nil {
		return err
	}
	if st.Uid != 0 {
		return fmt.Errorf("what root of a namespace makes belongs to %d", st.Uid)
	}
	return nil
}

func probeMemory(at string, ns *os.File) error {
	memory := filepath.Join(at, "memory")
	if err := unix.Mount("probe", memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=700"); err != nil {
		return &fs.PathError{Op: "mount", Path: memory, Err: err}
	}
	return bindMapped(memory, filepath.Join(at, "mapped"), ns)
}
