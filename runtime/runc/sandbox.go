package runc

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/network"
)

// shmOptions are those of the /dev/shm that a Pod's containers share.
const shmOptions = "mode=1777,size=65536k"

// Prepare makes the sandbox of a Pod.
func (d *Driver) Prepare(ctx context.Context, s container.Sandbox) error {
	if err := checkPod(s.Pod); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	defer d.pods.lock(s.Pod)()
	if err := d.prepare(s); err != nil {
		return fmt.Errorf("prepare the sandbox of %s: %w", s.Pod, err)
	}
	return nil
}

func (d *Driver) prepare(s container.Sandbox) error {
	spec := network.Spec{Name: s.Pod, Hostname: s.Hostname, Host: s.HostNetwork, Address: s.Address, MTU: s.MTU}
	if s.Users {
		var err error
		if spec.Users, err = d.makeUsers(s.Pod); err != nil {
			return err
		}
	}
	if err := d.pins.Set(spec); err != nil {
		return err
	}
	if err := d.shareFiles(s); err != nil {
		return err
	}
	if have, err := d.sandbox(s.Pod); err == nil && have == s {
		return nil
	}
	if err := os.MkdirAll(d.podDir(s.Pod), 0o700); err != nil {
		return err
	}
	return writeJSON(filepath.Join(d.podDir(s.Pod), sandboxFile), s, keeper.WriteAside)
}

// sandbox reads a Pod's sandbox from disk.
func (d *Driver) sandbox(pod string) (container.Sandbox, error) {
	var s container.Sandbox
	err := readJSON(filepath.Join(d.podDir(pod), sandboxFile), &s)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("the sandbox of %s: %w", pod, container.ErrNotFound)
	}
	return s, err
}

// birthFile is beside what the containers of a Pod share: gone with the sandbox,
// and another in the next.
const birthFile = "birth"

// birth names the present sandbox of a Pod, at random. Empty: it has none.
func (d *Driver) birth(pod string) string {
	text, err := os.ReadFile(filepath.Join(d.shared(pod), birthFile))
	if err != nil {
		return ""
	}
	return string(text)
}

// shareFiles makes what the Pod's containers share besides namespaces: its
// /dev/shm, and the files by which programs know names.
func (d *Driver) shareFiles(s container.Sandbox) error {
	dir := d.shared(s.Pod)
	shm := filepath.Join(dir, "shm")
	if err := os.MkdirAll(shm, 0o711); err != nil {
		return err
	}
	if d.birth(s.Pod) == "" {
		if err := keeper.WriteAside(filepath.Join(dir, birthFile), []byte(rand.Text())); err != nil {
			return err
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err != nil {
		return err
	}
	if st.Type != unix.TMPFS_MAGIC || !isMountPoint(shm) {
		if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, shmOptions); err != nil {
			return &fs.PathError{Op: "mount", Path: shm, Err: err}
		}
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if s.Address.IsValid() {
		hosts += s.Address.String() + "\t" + s.Hostname + "\n"
	} else {
		hosts = "127.0.0.1\tlocalhost " + s.Hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	}
	files := map[string]string{"hosts": hosts, "hostname": s.Hostname + "\n"}
	if s.HostNetwork {
		text, err := os.ReadFile("/etc/hosts")
		if err := ignoreMissing(err); err != nil {
			return err
		}
		files["hosts"] = string(text)
	}
	if s.Resolv != "" {
		files["resolv.conf"] = s.Resolv
	}
	files["hosts"] += s.Hosts
	for name, text := range files {
		path := filepath.Join(dir, name)
		if have, err := os.ReadFile(path); err == nil && string(have) == text {
			continue // a container may have it mounted
		}
		if err := keeper.WriteAside(path, []byte(text)); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // for the container's users to read
			return err
		}
	}
	return nil
}

func isMountPoint(path string) bool {
	var st unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st) == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// podFiles are the files a Pod's containers find in /etc, by path.
func (d *Driver) podFiles(s container.Sandbox) map[string]string {
	out := map[string]string{}
	for _, name := range []string{"hosts", "hostname"} {
		out["/etc/"+name] = filepath.Join(d.shared(s.Pod), name)
	}
	if s.Resolv != "" {
		out["/etc/resolv.conf"] = filepath.Join(d.shared(s.Pod), "resolv.conf")
	}
	return out
}

// mountable leaves out those files of the Pod for which there is no place: in a
// volume over their folder that cannot be written and has no such file.
func mountable(files map[string]string, mounts []container.Mount) map[string]string {
	maps.DeleteFunc(files, func(at, _ string) bool {
		return slices.ContainsFunc(mounts, func(m container.Mount) bool {
			if filepath.Clean("/"+m.Target) != filepath.Dir(at) || !slices.Contains(m.Options, "ro") {
				return false
			}
			_, err := os.Lstat(filepath.Join(m.Source, filepath.Base(at)))
			return errors.Is(err, fs.ErrNotExist)
		})
	})
	return files
}

// RemoveSandbox lets go of a Pod's namespaces, its cgroup and its folder, with
// any container that is left in it.
func (d *Driver) RemoveSandbox(ctx context.Context, pod string) error {
	if err := checkPod(pod); err != nil {
		return err
	}
	defer d.pods.lock(pod)()
	disk, err := d.onDisk()
	if err != nil {
		return err
	}
	for _, id := range disk[pod] {
		if err := d.Remove(ctx, id); err != nil {
			return err
		}
	}
	shm := filepath.Join(d.shared(pod), "shm")
	err = errors.Join(d.removeHolder(pod), unmountAll(shm), d.removeUsersDir(pod), d.pins.Remove(pod), d.groups.remove(d.podCgroup(pod)))
	if err == nil {
		err = errors.Join(os.RemoveAll(d.shared(pod)), os.RemoveAll(d.podDir(pod)), d.keeper.RemoveLease(pod))
		d.mu.Lock()
		delete(d.lapsed, pod)
		d.mu.Unlock()
		d.users.give(pod)
	}
	if err != nil {
		return fmt.Errorf("remove the sandbox of %s: %w", pod, err)
	}
	return nil
}

// Sandboxes reports the Pods that have a sandbox here.
func (d *Driver) Sandboxes(ctx context.Context) ([]container.Sandbox, error) {
	disk, err := d.onDisk()
	if err != nil {
		return nil, err
	}
	var out []container.Sandbox
	for pod := range disk {
		s, err := d.sandbox(pod)
		if errors.Is(err, container.ErrNotFound) || (err != nil && s.Pod == "") {
			s = container.Sandbox{Pod: pod} // broken off: for the caller to remove
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b container.Sandbox) int { return cmp.Compare(a.Pod, b.Pod) })
	return out, ctx.Err()
}

// Dial connects from inside the Pod's network.
func (d *Driver) Dial(ctx context.Context, pod, nw, address string) (net.Conn, error) {
	if err := checkPod(pod); err != nil {
		return nil, err
	}
	s, err := d.sandbox(pod)
	if err != nil {
		return nil, err
	}
	if s.HostNetwork {
		return new(net.Dialer).DialContext(ctx, nw, address)
	}
	return d.pins.Dial(ctx, pod, nw, address)
}
