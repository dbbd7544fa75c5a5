// Package volume owns the folders that Pods mount: it makes them, fills those
// that hold small files, resolves what a container names inside one, and removes
// all of a Pod's with it. What a container may have written is only ever followed
// by descriptor, and never out of its volume. Which volumes a Pod has and what
// policy allows is not known here.
package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Config says where a store's folders are. They belong to it alone.
type Config struct {
	// StateDir holds what is on disk, and lasts as long as its Pod.
	StateDir string
	// RunDir becomes a file system in memory, which no swap takes where the kernel
	// can keep it out. Small files, folders in memory and all mounts are in it.
	RunDir string
}

// A Store makes the volumes of this machine. What it knows is on disk and in the
// kernel, so a new one goes on where another was killed.
type Store struct {
	cfg Config
}

// The folders of one Pod in RunDir. That of a Pod in StateDir holds its volumes.
const (
	filesDir  = "files" // small files, by volume
	memoryDir = "mem"   // mounts, by volume
	subDir    = "sub"   // mounts, by container and number
	hostDir   = "host"  // as subDir, of folders of the machine
	keptDir   = ".kept"
)

// Open makes the folders and mounts, unless an earlier store has.
func Open(cfg Config) (*Store, error) {
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(cfg.StateDir, 0o700); err != nil { //nolint:gosec // a folder
		return nil, err
	}
	if err := mountMemory(cfg.RunDir, "mode=700"); err != nil {
		return nil, err
	}
	if err := unix.Mount("", cfg.RunDir, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, &fs.PathError{Op: "make private", Path: cfg.RunDir, Err: err}
	}
	return &Store{cfg: cfg}, os.MkdirAll(filepath.Join(cfg.RunDir, keptDir), 0o700)
}

// mountMemory mounts a file system in memory unless there is one.
func mountMemory(dir, options string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == unix.TMPFS_MAGIC && mountPoint(dir) {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	err := unix.Mount("skein", dir, "tmpfs", flags, options+",noswap")
	if errors.Is(err, unix.EINVAL) { // Linux 6.4 and later know noswap, outside of user namespaces
		err = unix.Mount("skein", dir, "tmpfs", flags, options)
	}
	if err != nil {
		return &fs.PathError{Op: "mount", Path: dir, Err: err}
	}
	return nil
}

func mountPoint(path string) bool {
	var st unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st) == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// Dirs are the folders in which every mount of a volume is, below the Pod's uid.
func (s *Store) Dirs() []string { return []string{s.cfg.StateDir, s.cfg.RunDir} }

// HostDir is the folder below a Pod's uid where folders of the machine are
// mounted, so that who checks a mount can tell them.
const HostDir = hostDir

func (s *Store) run(pod string, parts ...string) string {
	return filepath.Join(append([]string{s.cfg.RunDir, pod}, parts...)...)
}

// plainName refuses what could not be one folder's name.
func plainName(names ...string) error {
	for _, n := range names {
		if n == "" || n[0] == '.' || strings.ContainsAny(n, "/\x00") {
			return fmt.Errorf("%q is no name of a folder", n)
		}
	}
	return nil
}

// An Owner is what a Pod's fsGroup makes of a volume. The zero value leaves it
// to root and to everybody.
type Owner struct {
	Group      int64 // 0: none
	OnMismatch bool  // nothing is changed where the top of the volume is right already
}

// An Empty is a folder that is empty when its Pod begins.
type Empty struct {
	Memory bool
	Size   int64 // bytes of one in memory; 0: half of the machine's memory, as the kernel has it
	Owner  Owner
}

// Empty returns the folder of an empty volume. What is in it stays.
func (s *Store) Empty(pod, name string, e Empty) (string, error) {
	if err := plainName(pod, name); err != nil {
		return "", err
	}
	dir := filepath.Join(s.cfg.StateDir, pod, name)
	if e.Memory {
		dir = s.run(pod, memoryDir, name)
	}
	made, err := makeDir(dir)
	if err != nil {
		return "", err
	}
	if e.Memory && !mountPoint(dir) {
		options := "mode=777"
		if e.Size > 0 {
			options += fmt.Sprintf(",size=%d", e.Size)
		}
		if err := mountMemory(dir, options); err != nil {
			return "", err
		}
		made = true
	}
	if made { // the umask may have taken some of it
		if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // as Kubernetes has it: any user of the Pod's
			return "", err
		}
	}
	owner := e.Owner
	owner.OnMismatch = owner.OnMismatch || !made // it was done when the Pod began
	return dir, own(dir, owner, writableBits)
}

// makeDir makes a folder and those around it, and tells whether it was not there.
func makeDir(dir string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return false, err
	}
	err = os.Mkdir(dir, 0o777) //nolint:gosec // what is in the volume is for the Pod
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// Release takes away what was mounted for one container.
func (s *Store) Release(pod, container string) error {
	if err := plainName(pod, container); err != nil {
		return err
	}
	var errs []error
	for _, kind := range []string{subDir, hostDir} {
		errs = append(errs, clearMounts(s.run(pod, kind, container)))
	}
	return errors.Join(errs...)
}

// clearMounts takes away a folder of mounts.
func clearMounts(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		at := filepath.Join(dir, e.Name())
		_ = unix.Mount("", at, "", unix.MS_SLAVE|unix.MS_REC, "") // of a start that was broken off; if it is no mount, nothing is lost
		if err := unmount(at); err != nil {
			return err
		}
		if err := os.Remove(at); err != nil { // empty, or nothing of ours: never more than that
			return err
		}
	}
	return os.Remove(dir)
}

// unmount takes away all that is mounted at a path, however often.
func unmount(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return &fs.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// Remove takes away all volumes of a Pod, and what is in them. What is mounted
// goes first: nothing of the machine's own is ever removed.
func (s *Store) Remove(pod string) error {
	if err := plainName(pod); err != nil {
		return err
	}
	for _, kind := range []string{subDir, hostDir} {
		list, err := os.ReadDir(s.run(pod, kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range list {
			if err := clearMounts(s.run(pod, kind, e.Name())); err != nil {
				return err
			}
		}
	}
	mounts, err := os.ReadDir(s.run(pod, memoryDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range mounts {
		if err := unmount(s.run(pod, memoryDir, e.Name())); err != nil {
			return err
		}
	}
	if mounted, err := anyMount(s.run(pod)); err != nil || mounted {
		return errors.Join(err, fmt.Errorf("remove the volumes of %s: something is mounted there still", pod))
	}
	return errors.Join(os.RemoveAll(s.run(pod)), os.RemoveAll(filepath.Join(s.cfg.StateDir, pod)))
}

// anyMount tells whether something is mounted below a folder of a Pod.
func anyMount(dir string) (bool, error) {
	if at, err := filepath.EvalSymlinks(dir); err == nil {
		dir = at // as the kernel names it
	}
	body, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(body)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			return true, nil
		}
	}
	return false, nil
}

// Pods lists the Pods that have volumes here.
func (s *Store) Pods() ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, dir := range s.Dirs() {
		list, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if n := e.Name(); n[0] != '.' && e.IsDir() && !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// Close takes away the mount of RunDir. It is for a machine whose Pods are gone.
func (s *Store) Close() error { return unmount(s.cfg.RunDir) }
