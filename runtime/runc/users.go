package runc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

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

// adoptUsers reads whose users are whose. A Pod of which that cannot be read, as a
// loss of power can leave it, begins anew with others.
func (d *Driver) adoptUsers(pods []string) error {
	for _, pod := range pods {
		path := filepath.Join(d.podDir(pod), usersFile)
		text, err := os.ReadFile(path)
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
		if err == nil {
			continue
		}
		d.log.Warn("the users of a Pod cannot be read, it gets others", "pod", pod, "err", err)
		if err := errors.Join(d.pins.Remove(pod), os.Remove(path)); err != nil {
			return fmt.Errorf("forget the users of Pod %s: %w", pod, err)
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
	d.cfg.step("users")
	return base, d.makeUsersDir(pod, base)
}

func (d *Driver) usersDir(pod string) string { return filepath.Join(d.cfg.UsersDir, pod) }

// UsersDir is where an agent with that data directory has Config.UsersDir: anybody
// can walk there, and of several agents of a machine each has its own.
func UsersDir(data string) string {
	sum := sha256.Sum256([]byte(data))
	return filepath.Join("/run/skein-users", hex.EncodeToString(sum[:6]))
}

// makeUsersDir makes the folder for the roots of a Pod, and the one around it with
// the first of them: a mount of its own, so that what is in it stays in this
// machine's view.
func (d *Driver) makeUsersDir(pod string, base uint32) error {
	d.users.mu.Lock()
	defer d.users.mu.Unlock()
	for _, at := range []string{filepath.Dir(d.cfg.UsersDir), d.cfg.UsersDir} {
		err := os.Mkdir(at, 0o711) //nolint:gosec // to be walked through
		if err == nil {
			err = os.Chmod(at, 0o711) //nolint:gosec // whatever the umask is
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := network.MountPrivate(d.cfg.UsersDir); err != nil {
		return err
	}
	dir := d.usersDir(pod)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chown(dir, int(base), int(base))
}

// closeUsersDir takes the folder away once no Pod is in it. One that was made
// meanwhile stays.
func (d *Driver) closeUsersDir() error {
	d.users.mu.Lock()
	defer d.users.mu.Unlock()
	list, err := os.ReadDir(d.cfg.UsersDir)
	if err != nil || len(list) > 0 {
		return ignoreMissing(err)
	}
	if err := unmountAndRemove(d.cfg.UsersDir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(d.cfg.UsersDir)) // others may be in it
	return nil
}

// sweepUsers clears the folder of Pods that are gone.
func (d *Driver) sweepUsers(known []string) error {
	list, err := os.ReadDir(d.cfg.UsersDir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range list {
		if !slices.Contains(known, e.Name()) {
			if err := d.removeUsersDir(e.Name()); err != nil {
				return err
			}
		}
	}
	return d.closeUsersDir()
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
		if err := unmountAndRemove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(dir), d.closeUsersDir())
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

func (d *Driver) hideRoot(id container.ID) error {
	if d.cfg.UsersDir == "" {
		return nil
	}
	return unmountAndRemove(d.shownRoot(id))
}

func unmountAndRemove(at string) error {
	if err := unmountAll(at); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(at))
}
