package runc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/network"
)

// A Pod with users of its own has 65,536 of the machine's that nobody else has, out
// of those which systemd's list of users leaves to nobody: from 0x70000000 to
// 0x7ffdffff (https://systemd.io/UIDS-GIDS). They are on no disk: files of its image
// and its volumes are mapped by the mounts through which it sees them.
const (
	firstUsers = 0x70000000
	lastUsers  = 0x7ffd0000

	usersFile = "users" // beside a Pod's sandbox
)

// userRanges tells which Pods have which users.
type userRanges struct {
	mu    sync.Mutex
	of    map[string]uint32 // by Pod, the first of them
	taken map[uint32]bool
	next  uint32
}

func newUserRanges() *userRanges {
	return &userRanges{of: map[string]uint32{}, taken: map[uint32]bool{}, next: firstUsers}
}

// take gives a Pod users, those longest free first. It keeps those that it has.
func (r *userRanges) take(pod string) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if base := r.of[pod]; base > 0 {
		return base, nil
	}
	for range (lastUsers-firstUsers)/network.UserCount + 1 {
		base := r.next
		if r.next += network.UserCount; r.next > lastUsers {
			r.next = firstUsers
		}
		if !r.taken[base] {
			r.of[pod], r.taken[base] = base, true
			return base, nil
		}
	}
	return 0, errors.New("all users that this machine has for Pods are taken")
}

// keep notes what a Pod has had since before. Two that have the same cannot both.
func (r *userRanges) keep(pod string, base uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if base < firstUsers || base > lastUsers || base%network.UserCount != 0 || r.taken[base] && r.of[pod] != base {
		return fmt.Errorf("users from %d on cannot be those of Pod %s", base, pod)
	}
	r.of[pod], r.taken[base] = base, true
	return nil
}

func (r *userRanges) give(pod string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.taken, r.of[pod])
	delete(r.of, pod)
}

// Features tells what this machine can do that not all can.
func (d *Driver) Features() container.Features { return container.Features{Users: d.host.users} }

// usersOf are the first of a Pod's own users, 0 where it has none.
func (d *Driver) usersOf(pod string) uint32 {
	d.users.mu.Lock()
	defer d.users.mu.Unlock()
	return d.users.of[pod]
}

// adoptUsers reads whose users are whose.
func (d *Driver) adoptUsers(pods []string) error {
	for _, pod := range pods {
		text, err := os.ReadFile(filepath.Join(d.podDir(pod), usersFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var base uint64
		if err == nil {
			base, err = strconv.ParseUint(string(text), 10, 32)
		}
		if err == nil {
			err = d.users.keep(pod, uint32(base))
		}
		if err != nil {
			return fmt.Errorf("read the users of Pod %s: %w", pod, err)
		}
	}
	return nil
}

// makeUsers gives a sandbox its users, and the folder in which they find its roots:
// they can walk through no folder of ours, and nobody else through this one.
func (d *Driver) makeUsers(pod string) (uint32, error) {
	if err := d.host.users; err != nil {
		return 0, fmt.Errorf("this machine has no users for Pods: %w", err)
	}
	base, err := d.users.take(pod)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(d.podDir(pod), 0o700); err != nil {
		return 0, err
	}
	path := filepath.Join(d.podDir(pod), usersFile)
	if _, err := os.Stat(path); err != nil {
		if err := keeper.WriteAside(path, strconv.AppendUint(nil, uint64(base), 10)); err != nil {
			return 0, err
		}
	}
	dir := d.usersDir(pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	return base, os.Chown(dir, int(base), int(base))
}

func (d *Driver) usersDir(pod string) string { return filepath.Join(d.cfg.UsersDir, pod) }

// UsersDir is where an agent with that data directory has Config.UsersDir: anybody
// can walk there, and of several agents of a machine each has its own.
func UsersDir(data string) string {
	sum := sha256.Sum256([]byte(data))
	return filepath.Join("/run/skein-users", hex.EncodeToString(sum[:6]))
}

// openUsersDir makes the folder for roots of Pods with users of their own, and clears
// it of Pods that are gone.
func (d *Driver) openUsersDir(pods []string) error {
	dir := d.cfg.UsersDir
	if dir == "" {
		return nil
	}
	for _, at := range []string{filepath.Dir(dir), dir} {
		err := os.Mkdir(at, 0o711) //nolint:gosec // to be walked through
		if err == nil {
			err = os.Chmod(at, 0o711) //nolint:gosec // whatever the umask is
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := network.MountPrivate(dir); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, pod := range pods {
		known[pod] = true
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if !known[e.Name()] {
			if err := d.removeUsersDir(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Driver) removeUsersDir(pod string) error {
	if d.cfg.UsersDir == "" {
		return nil
	}
	dir := d.usersDir(pod)
	list, err := os.ReadDir(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range list {
		if err := d.hideRoot(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// shownRoot is where the root of a container with users of its own is for them.
func (d *Driver) shownRoot(id container.ID) string {
	return filepath.Join(d.usersDir(id.Pod), id.Name+"."+strconv.Itoa(id.Attempt))
}

func (d *Driver) showRoot(id container.ID) error {
	at := d.shownRoot(id)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(d.rootfs(id), at, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "bind", Path: at, Err: err}
	}
	return nil
}

func (d *Driver) hideRoot(at string) error {
	if d.cfg.UsersDir == "" {
		return nil
	}
	if err := unmountAll(at); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(at))
}

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
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	err := setFS(int(base))
	if err == nil {
		err = unix.Capset(&header, &caps[0]) // a change of user takes those over files
	}
	if err == nil {
		err = f()
	}
	return errors.Join(err, setFS(0))
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
	at, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(at)) }()
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

func probeOverlay(at string, ns *os.File) (err error) {
	root := filepath.Join(at, "root")
	layers := filepath.Join(at, "layers")
	m := container.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + layers + "/lower", "upperdir=" + layers + "/upper", "workdir=" + layers + "/work"}}
	if err := mountMapped([]container.Mount{m}, root, filepath.Join(at, "aside"), ns, firstUsers); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountAll(root)) }()
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

func probeMemory(at string, ns *os.File) (err error) {
	memory, mapped := filepath.Join(at, "memory"), filepath.Join(at, "mapped")
	if err := unix.Mount("probe", memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=700"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountAll(memory)) }()
	if err := bindMapped(memory, mapped, ns); err != nil {
		return err
	}
	return unmountAll(mapped)
}
