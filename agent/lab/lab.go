// Package lab makes a cluster out of one machine: every node is a network
// namespace with a real agent in it, and all of them hang on a bridge that has a
// namespace of its own, where links are cut and packets lost. The machine's own
// network is never touched, but for one port on its loopback that is forwarded to
// the nodes.
//
// It owns namespaces, links, processes and files of labs. It knows of an agent
// only how it is started and stopped and what its API says, as any client does.
//
// What a lab is lies in its directory and in the kernel, not in a process: every
// command reads both, so labs outlive the commands that made them.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where labs live.
const (
	rootDir  = "/run/skein/lab"
	netnsDir = "/run/netns"
	cgroups  = "/skein-lab" // below the mount of every hierarchy
	maxNodes = 200          // of 10.213.0.0/24
	maxDelay = time.Minute
	apiPort  = 7373
)

// How long commands wait for what should be there in a moment.
const (
	lockWait  = time.Minute
	killWait  = 10 * time.Second
	startWait = 30 * time.Second
	readyWait = time.Minute
	pollEvery = 20 * time.Millisecond
)

// An Error is what went wrong, and the way out of it.
type Error struct {
	Text, hint string
	Code       int  // to exit with; 0 means 1
	absent     bool // there is no such lab
}

func (e *Error) Error() string { return e.Text }

// Hint is the command to run next, or empty.
func (e *Error) Hint() string { return e.hint }

// ExitCode is what the process ends with.
func (e *Error) ExitCode() int { return max(e.Code, 1) }

func fault(hint, format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...), hint: hint}
}

func misuse(hint, format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...), hint: hint, Code: 2}
}

// A Lab is one lab of this machine, locked against other commands that change it.
type Lab struct {
	state
	dir  string
	exe  string    // skeind
	out  io.Writer // progress, a line at a time
	lock *os.File  // nil: for reading alone
}

// labName leaves room for "-switch" in what is made of it.
var labName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$`)

func prepare(name string, out io.Writer) (*Lab, error) {
	if !labName.MatchString(name) {
		return nil, misuse("choose one like --name demo", "lab name %q: it is 1 to 30 of a-z, 0-9 and -", name)
	}
	if os.Geteuid() != 0 {
		return nil, fault("run it with sudo", "a lab is made of network namespaces, which takes root")
	}
	if out == nil {
		out = io.Discard
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return &Lab{state: state{Name: name}, dir: filepath.Join(rootDir, name), exe: exe, out: out}, nil
}

// Look reads a lab without changing it, or waiting for who does.
func Look(name string) (*Lab, error) {
	l, err := prepare(name, io.Discard)
	if err != nil {
		return nil, err
	}
	return l, l.load()
}

// Open locks a lab that is there. Close it.
func Open(ctx context.Context, name string, out io.Writer) (*Lab, error) {
	l, err := prepare(name, out)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(l.dir); err != nil {
		return nil, l.missing()
	}
	if err := l.acquire(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) missing() error {
	e := fault("raise it with \"skeind lab up"+l.flag()+"\"", "there is no lab %q", l.Name)
	e.absent = true
	return e
}

func isAbsent(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.absent
}

// flag is what a hint needs to name this lab.
func (l *Lab) flag() string {
	if l.Name == defaultName {
		return ""
	}
	return " --name " + l.Name
}

// create makes a lab's directory, or takes one that is there, and locks it.
func create(ctx context.Context, name string, out io.Writer) (*Lab, error) {
	l, err := prepare(name, out)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	if err := l.acquire(ctx); err != nil && (!isAbsent(err) || l.lock == nil) {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil // new, where it was absent
}

// acquire locks the directory and reads the state. The lock is on the directory
// itself, so nothing is left of it when the lab is gone.
func (l *Lab) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		f, err := os.Open(l.dir)
		if err != nil {
			return l.missing()
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, l.dir) {
			l.lock = f
			return l.load()
		}
		_ = f.Close() // somebody has it, or has removed what we locked
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock lab %s: %w", l.Name, err)
		}
		if !pause(ctx, pollEvery) {
			return fault("wait for it, or end it", "another command has been changing lab %q all the time", l.Name)
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, aerr := f.Stat()
	b, berr := os.Stat(path)
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

// Close lets others change the lab.
func (l *Lab) Close() error {
	if l.lock == nil {
		return nil
	}
	return l.lock.Close()
}

func (l *Lab) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l.out, format+"\n", args...) // a closed terminal stops no lab
}

// Node finds a node by name.
func (l *Lab) node(name string) (*node, error) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, misuse("see them with \"skeind lab status"+l.flag()+"\"", "lab %q has no node %q: it has %s", l.Name, name, strings.Join(l.names(), ", "))
}

func (l *Lab) names() []string {
	var out []string
	for _, n := range l.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// What belongs to a node, and where.
func (l *Lab) nodeDir(n *node) string   { return filepath.Join(l.dir, n.Name) }
func (l *Lab) dataDir(n *node) string   { return filepath.Join(l.dir, n.Name, "data") }
func (l *Lab) socket(n *node) string    { return filepath.Join(l.dir, n.Name, "skein.sock") }
func (l *Lab) agentLog(n *node) string  { return filepath.Join(l.dir, n.Name, "agent.log") }
func (l *Lab) keeperDir(n *node) string { return filepath.Join(l.dataDir(n), "keeper") }
func (l *Lab) holdFile(n *node) string  { return filepath.Join(l.keeperDir(n), "hold") }
func (l *Lab) cgroup(n *node) string    { return filepath.Join(cgroups, l.Name, n.Name) }
func (l *Lab) switchName() string       { return "skein-" + l.Name + "-switch" }
func (l *Lab) namespace(n *node) string { return "skein-" + l.Name + "-" + n.Name }

// pause waits, and tells whether ctx has outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// until looks again and again whether something is so.
func until(ctx context.Context, limit time.Duration, so func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !so() {
		if !pause(ctx, pollEvery) {
			return so()
		}
	}
	return true
}

func (n *node) addr() netip.Addr {
	last := byte(n.number())
	if n.Moved {
		last += movedBy
	}
	return netip.AddrFrom4([4]byte{10, 213, 0, last})
}

func (n *node) advertise() string {
	return netip.AddrPortFrom(n.addr(), apiPort).String()
}
