package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"golang.org/x/sys/unix"
)

func netnsPath(name string) string { return filepath.Join(netnsDir, name) }

// inside runs do on a thread that is in a pinned network namespace. What do
// starts, processes and sockets, stays there; it must not hand work to other
// goroutines.
func inside(name string, do func() error) error {
	ns, err := unix.Open(netnsPath(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", name, err)
	}
	defer func() { _ = unix.Close(ns) }()
	return apart(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return do()
	})
}

// apart runs do on a thread that may leave the machine's namespace: it is put
// back, or else ends with its goroutine.
func apart(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("open the machine's network namespace: %w", err)
			return
		}
		defer func() { _ = unix.Close(home) }()
		err = do()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// pinNamespace makes a network namespace that lasts, where `ip netns` finds it.
func pinNamespace(name string) error {
	path := netnsPath(name)
	if isNamespace(path) {
		return nil
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	_ = f.Close() // nothing was written
	return apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace %s: %w", name, err)
		}
		return nil
	})
}

func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && int64(fs.Type) == unix.NSFS_MAGIC //nolint:unconvert // 32 bits wide on some systems
}

// unpinNamespace lets a namespace go. The kernel removes it with all its links
// once no process and no socket is in it.
func unpinNamespace(name string) error {
	path := netnsPath(name)
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin network namespace %s: %w", name, err)
	}
	return nil
}

var ofLab = regexp.MustCompile(`^(switch|n[0-9]+)$`)

// namespaces are those of the lab that are there, whatever its state says.
func (l *Lab) namespaces() ([]string, error) {
	prefix := "skein-" + l.Name + "-"
	paths, err := filepath.Glob(netnsPath(prefix + "*"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, path := range paths {
		name := filepath.Base(path)
		if ofLab.MatchString(name[len(prefix):]) { // not those of a lab whose name begins like ours
			out = append(out, name)
		}
	}
	return out, nil
}
