// Package network owns the namespaces that the containers of a Pod share,
// network, IPC and hostname, and the link by which each network is reached. The
// namespaces are pinned by bind mounts below one folder, so no process has to hold
// them. Which address a Pod has is for others to say, and so is the way from one
// machine to another.
package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Kind is a kind of namespace.
type Kind string

// The kinds that a Pod shares.
const (
	Net Kind = "net"
	IPC Kind = "ipc"
	UTS Kind = "uts"
	// User is pinned for those that have users of their own, whose the others are then.
	User Kind = "user"
	// PID is pinned for a Pod whose containers share processes, by [Pins.Pin].
	PID Kind = "pid"
)

// Pins are pinned namespaces, by name, below one folder.
type Pins struct{ dir string }

// Open makes dir the place of pins. It becomes a mount of its own, and private:
// else mount namespaces made later would hold the pins for ever.
func Open(dir string) (*Pins, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := MountPrivate(dir); err != nil {
		return nil, err
	}
	return &Pins{dir: dir}, nil
}

// MountPrivate makes dir a private mount of its own, once.
func MountPrivate(dir string) error {
	mounted, err := isMount(dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return &fs.PathError{Op: "bind", Path: dir, Err: err}
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return &fs.PathError{Op: "make private", Path: dir, Err: err}
	}
	return nil
}

func isMount(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, &fs.PathError{Op: "statx", Path: dir, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// Path is where a namespace is pinned, for whoever joins it.
func (p *Pins) Path(name string, kind Kind) string { return filepath.Join(p.dir, name, string(kind)) }

// A Spec is a set of namespaces to pin.
type Spec struct {
	Name     string
	Hostname string
	Host     bool // share the machine's network: none is pinned
	// Users is the machine's user and group that root inside is, and Users+1 the next,
	// so on for UserCount of them. 0: users are the machine's.
	Users uint32
	// Address is the Pod's on the cluster's network, IPv4; zero: it has its loopback
	// alone. MTU is that of its link, in bytes; 0: the kernel's.
	Address netip.Addr
	MTU     int
}

func (s Spec) kinds() []Kind {
	kinds := []Kind{IPC, UTS}
	if !s.Host {
		kinds = append(kinds, Net)
	}
	if s.Users > 0 {
		kinds = append(kinds, User)
	}
	return kinds
}

func (s Spec) flags() uintptr {
	if s.Host {
		return unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	return unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET
}

// Set sees to it that the namespaces are pinned, and that the network is wired
// where it has an address. What is so stays as it is; of a set that is not whole,
// all are made anew.
func (p *Pins) Set(s Spec) error {
	if s.Name == "" || s.Name != filepath.Base(s.Name) || strings.HasPrefix(s.Name, ".") {
		return fmt.Errorf("no name for a namespace: %q", s.Name)
	}
	whole := true
	for _, kind := range s.kinds() {
		whole = whole && p.pinned(s.Name, kind)
	}
	if !whole {
		if err := p.make(s); err != nil {
			return err
		}
	}
	if s.Host || !s.Address.IsValid() {
		return nil
	}
	if err := p.wire(s); err != nil {
		return fmt.Errorf("wire %s: %w", s.Name, err)
	}
	return nil
}

// make pins the namespaces of a set anew.
func (p *Pins) make(s Spec) (err error) {
	if err := p.Remove(s.Name); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(p.dir, s.Name), 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Remove(s.Name))
		}
	}()
	if s.Users > 0 {
		return p.makeForUsers(s)
	}
	return onThrowawayThread(func() error {
		if err := unix.Unshare(int(s.flags())); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := furnish(s); err != nil {
			return err
		}
		return p.pin(s, "/proc/thread-self/ns")
	})
}

// onThrowawayThread runs f on a thread that ends afterwards, with whatever
// namespaces f has left it in. It is never the main thread: that one cannot
// end, and /proc/self is its view.
func onThrowawayThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThrowawayThread(f) // on another one, as this one is taken
			runtime.UnlockOSThread()
			return
		}
		done <- f() // and never unlock
	}()
	return <-done
}

// furnish gives the thread's namespaces their name and their loopback.
func furnish(s Spec) error {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", s.Hostname, err)
		}
	}
	if !s.Host {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bring up lo: %w", err)
		}
	}
	return nil
}

// pin binds namespaces that somebody is in, by their links in a folder of /proc.
func (p *Pins) pin(s Spec, of string) error {
	for _, kind := range s.kinds() {
		if err := p.Pin(s.Name, kind, of+"/"+string(kind)); err != nil {
			return err
		}
	}
	return nil
}

// loopbackUp brings up lo in the thread's network.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := ioctl(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return ioctl(fd, unix.SIOCSIFFLAGS, req)
}

func ioctl(fd int, request uintptr, req *unix.Ifreq) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(req))) //nolint:gosec // as ioctl wants it
	if e != 0 {
		return e
	}
	return nil
}

// Pin pins one more namespace of a set that is pinned: that of a process, by its
// file in /proc. It takes the place of one of its kind that was pinned before.
func (p *Pins) Pin(name string, kind Kind, source string) error {
	path := p.Path(name, kind)
	for p.pinned(name, kind) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return &fs.PathError{Op: "unpin", Path: path, Err: err}
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "pin", Path: path, Err: err}
	}
	return nil
}

// Same tells whether what is pinned is the namespace of a process, by its file in
// /proc.
func (p *Pins) Same(name string, kind Kind, source string) bool {
	var a, b unix.Stat_t
	return p.pinned(name, kind) && unix.Stat(p.Path(name, kind), &a) == nil && unix.Stat(source, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

func (p *Pins) pinned(name string, kind Kind) bool {
	var st unix.Statfs_t
	return unix.Statfs(p.Path(name, kind), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Remove lets go of the namespaces. The kernel ends them once nobody else is in
// them.
func (p *Pins) Remove(name string) error {
	if p.pinned(name, Net) {
		if err := p.unwire(name); err != nil {
			return err
		}
	}
	for _, kind := range []Kind{Net, IPC, UTS, PID, User} {
		for p.pinned(name, kind) {
			if err := unix.Unmount(p.Path(name, kind), unix.MNT_DETACH); err != nil {
				return &fs.PathError{Op: "unpin", Path: p.Path(name, kind), Err: err}
			}
		}
	}
	return os.RemoveAll(filepath.Join(p.dir, name))
}

// List lists the names of which something is pinned.
func (p *Pins) List() ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Close unmounts the folder of pins, where nothing is pinned any more.
func (p *Pins) Close() error {
	err := unix.Unmount(p.dir, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
