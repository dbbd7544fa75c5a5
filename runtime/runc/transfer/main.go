// Package transfer owns the process that copies files into and out of a
// container: it goes where the container's own processes are before it opens any
// path, so that whatever links a container makes, and whenever it swaps them,
// they lead to nothing but its own files. It needs no program in the image. Who
// may copy, and between which machines, is for others to say.
package transfer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Limits of one copy. What a container shows may have no end.
const (
	maxEntries = 1 << 20
	maxBytes   = 1 << 40
	maxDepth   = 256  // folders in each other
	maxName    = 4095 // bytes, of a whole path
)

// A Request is the last argument of the process.
type Request struct {
	Out     bool   `json:"out,omitempty"`     // write a tar of Path to standard output; else unpack standard input
	Path    string `json:"path"`              // absolute
	Archive bool   `json:"archive,omitempty"` // unpack all there is in the folder Path
	UID     int    `json:"uid"`               // whom the container runs as, as this machine counts
	GID     int    `json:"gid"`
	Groups  []int  `json:"groups,omitempty"`
	Caps    uint64 `json:"caps,omitempty"` // what of root's power to keep, a bit each
}

// A Result is what the process says last, on standard error, as a line of JSON.
type Result struct {
	Entries int64    `json:"entries"`
	Notices []string `json:"notices,omitempty"` // what was left out
	Error   string   `json:"error,omitempty"`
}

// Namespace is the descriptor by which the process finds the mount namespace.
const Namespace = 3

// Main is the main function of the process, and returns its exit code. args is a
// Request as JSON; descriptor 3 is the mount namespace of the container.
func Main(args []string) int {
	runtime.LockOSThread() // what is entered and given up is this thread's
	c := &copier{}
	err := c.main(args)
	res := Result{Entries: c.entries, Notices: c.notices}
	if err != nil {
		res.Error = err.Error()
	}
	if json.NewEncoder(os.Stderr).Encode(res) != nil || err != nil {
		return 1
	}
	return 0
}

// A copier counts what it copies.
type copier struct {
	entries, bytes int64
	notices        []string
	more           int // notices that were left out themselves
}

const maxNotices = 20

func (c *copier) notice(format string, args ...any) {
	if len(c.notices) < maxNotices {
		c.notices = append(c.notices, fmt.Sprintf(format, args...))
		return
	}
	if c.more == 0 {
		c.notices = append(c.notices, "")
	}
	c.more++
	c.notices[maxNotices] = fmt.Sprintf("%d more were left out", c.more)
}

var (
	errTooMany = fmt.Errorf("more than %d files", maxEntries)
	errTooMuch = fmt.Errorf("more than %d bytes", int64(maxBytes))
)

// count bounds how much is copied.
func (c *copier) count(size int64) error {
	c.entries++
	if c.entries > maxEntries {
		return errTooMany
	}
	if size < 0 || size > maxBytes-c.bytes {
		return errTooMuch
	}
	c.bytes += size
	return nil
}

func (c *copier) main(args []string) error {
	var req Request
	if len(args) != 1 {
		return errors.New("this command is skeind's own")
	}
	if err := json.Unmarshal([]byte(args[0]), &req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if err := enter(req); err != nil {
		return fmt.Errorf("enter the container: %w", err)
	}
	if req.Out {
		return c.pack(os.Stdout, req.Path)
	}
	err := c.unpack(os.Stdin, req.Path, req.Archive)
	_, _ = io.Copy(io.Discard, os.Stdin) // who sends is told why, not that nobody listens
	return err
}

// enter goes into the container's mount namespace, whose root is the
// container's, and gives up all that the container itself has not. From here on
// no path leads out.
func enter(req Request) error {
	// A thread that shares its root with others cannot have another one.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(Namespace, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Close(Namespace); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	unix.Umask(0o022)
	for _, l := range []int{unix.RLIMIT_CORE} {
		if err := unix.Setrlimit(l, &unix.Rlimit{}); err != nil {
			return err
		}
	}
	return become(req)
}

// become gives this thread the rights of the container's first process. Only
// this one opens paths.
func become(req Request) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	gids := make([]uint32, len(req.Groups))
	for i, g := range req.Groups {
		gids[i] = uint32(g) //nolint:gosec // of the kernel
	}
	// The raw calls: those of package syscall change all threads, which are in
	// the machine's namespace yet, and the runtime's own.
	if err := setgroups(gids); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(req.GID), uintptr(req.GID), uintptr(req.GID)); e != 0 { //nolint:gosec // of the kernel
		return fmt.Errorf("group: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(req.UID), uintptr(req.UID), uintptr(req.UID)); e != 0 { //nolint:gosec // of the kernel
		return fmt.Errorf("user: %w", e)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(req.Caps), Permitted: uint32(req.Caps)},             //nolint:gosec // the lower half
		{Effective: uint32(req.Caps >> 32), Permitted: uint32(req.Caps >> 32)}, //nolint:gosec // the upper half
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}
