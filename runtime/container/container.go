// Package container owns the words in which this machine's containers are
// spoken of: what to run, what runs, and the Driver that makes it so. It knows
// no kernel and no cluster.
package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// ErrNotFound says that this machine has no such container or sandbox.
var ErrNotFound = errors.New("not found")

// An ID names one run of one container: a restart is another attempt and so
// another container.
type ID struct {
	Pod     string // the Pod's uid
	Name    string // the container's name in the Pod
	Attempt int    // 0 the first time
}

func (id ID) String() string { return fmt.Sprintf("%s.%s.%d", id.Pod, id.Name, id.Attempt) }

// A Sandbox is what the containers of one Pod share: network, IPC and hostname,
// and processes if it is told to. It holds no process but then, and that one is
// no container.
type Sandbox struct {
	Pod         string // the Pod's uid
	Namespace   string // of the Pod, for people who look at this machine
	Name        string // of the Pod
	Hostname    string
	HostNetwork bool   // share the machine's network; IPC and hostname stay the Pod's own
	SharePIDs   bool   `json:",omitempty"` // the Pod's containers see each other's processes
	HostPIDs    bool   `json:",omitempty"` // they see those of the machine
	HostIPC     bool   `json:",omitempty"` // they share IPC and /dev/shm with the machine
	Hosts       string `json:",omitempty"` // more lines of /etc/hosts, each ended by a newline
	Users       bool   `json:",omitempty"` // have users of its own, who are nobody on this machine
	Resolv      string `json:",omitempty"` // the text of /etc/resolv.conf; empty: what the image has
	// Address is the Pod's on the cluster's network; zero: it has none of its own, and
	// without HostNetwork its loopback alone. MTU is that of its link, in bytes.
	Address netip.Addr `json:",omitzero"`
	MTU     int        `json:",omitempty"`
}

// Features are what not every machine can do for containers.
type Features struct {
	Users error // why no Sandbox can have users of its own; nil: it can
}

// A Spec is one container to run. Nothing in it is interpreted any further than
// said here: defaults have been filled in and policy has been applied.
type Spec struct {
	ID      ID
	Sandbox Sandbox
	RootFS  []Mount // one layered file system, as the image store gave it
	Args    []string
	Env     []string // K=V
	Cwd     string
	User    string   // "", "1000", "redis", "1000:1000", "redis:redis": names are looked up in the image
	Groups  []uint32 // supplementary
	Mounts  []Mount  // into the container
	// Volumes are folders of the root, absolute, that are made if missing and can be
	// written even where the root cannot. They are a part of the root, and go with
	// it. One in what Mounts cover, or among the kernel's own, is left as it is.
	Volumes   []string
	Resources Resources
	Security  Security
	Ulimits   []Ulimit          // on each of its processes, beside the Driver's own on open files
	Sysctls   map[string]string // the kernel's settings in the Pod's namespaces, by name with dots
	Labels    map[string]string // kept with the container, returned by List
	Stdin     bool              // keep an input open that Attach can write to
	StdinOnce bool              // close it once the first who attached has no more
	TTY       bool              // run it at a terminal
	// StopSignal is what Stop sends first: "SIGQUIT", "QUIT" or "3". Empty, or one
	// that this machine's kernel does not have: SIGTERM.
	StopSignal string
	// MessagePath is a file in the container that it may leave a last message in,
	// for its Status. Empty: none.
	MessagePath string
	LogLimit    int64 // bytes kept on disk for this container's output; 0: 10 MiB in two files
}

// A Mount is as mount(2) understands it. Target is empty for a root file system.
type Mount struct {
	Type    string
	Source  string
	Target  string
	Options []string
	// Device says that Source is a device of the machine that the container may
	// use: to read, write and make it, or to read it only with the option "ro".
	Device bool
}

// Resources are limits. Zero means none.
type Resources struct {
	CPUMilli    int64 // thousandths of a core
	CPUShares   int64 // relative weight in thousandths of a core, from the request
	MemoryBytes int64
	PIDs        int64
	OOMScoreAdj int
}

// A Ulimit is a limit of the kernel's on each process of a container.
type Ulimit struct {
	Name       string // as docker names it: "nofile"
	Soft, Hard uint64 // in the kernel's own unit; Unlimited: none
}

// Unlimited is no limit.
const Unlimited uint64 = math.MaxUint64

// Security is what a container may do. The zero value is the default of
// Docker: its capabilities, its seccomp profile, no new privileges, masked paths.
type Security struct {
	Privileged               bool
	AllowPrivilegeEscalation bool
	ReadOnlyRoot             bool
	AddCapabilities          []string // "NET_ADMIN", without CAP_
	DropCapabilities         []string // "ALL" drops all
	Unconfined               bool     // no seccomp profile
	SeccompProfile           string   // one of the machine's, by its path among them; empty: Docker's
	Allowed                  Allowed  // what of all this may be
}

// State is where a container is in its life.
type State string

// The states. A container that was never started is not listed.
const (
	Running State = "running"
	Exited  State = "exited"
)

// A Status is one container as found on disk and in the kernel.
type Status struct {
	ID         ID
	State      State
	PID        int
	StartedAt  time.Time
	FinishedAt time.Time
	// ExitCode is 128+n after signal n, and -1 when nobody could tell.
	ExitCode  int
	Signal    int
	OOMKilled bool
	LeaseLost bool // killed because its Pod's lease had run out
	// Stale says that its sandbox is no more: the machine was started anew since.
	// What a stale container has done for the others of its Pod may be lost.
	Stale   bool
	Message string // the end of what it left at its MessagePath: at most MaxMessage bytes, valid UTF-8
	Labels  map[string]string
}

// MaxMessage is how much of a container's last message is kept, in bytes, as in
// Kubernetes.
const MaxMessage = 4096

// Clip gives the end of a text that a container wrote: at most so many bytes, as
// UTF-8, without the zeros and white space around it.
func Clip(text []byte, most int) string {
	text = text[max(0, len(text)-most):]
	text = bytes.TrimFunc(text, func(r rune) bool { return r == 0 || unicode.IsSpace(r) })
	return strings.ToValidUTF8(string(text), "?")
}

// An ExecSpec is a program to run inside a running container.
type ExecSpec struct {
	Args   []string
	Env    []string
	TTY    bool
	Stdin  io.Reader // nil: none
	Stdout io.Writer
	Stderr io.Writer // unused with TTY
	Resize <-chan Size
	Size   Size // of the terminal as the program begins; zero: not known
}

// An AttachSpec is what is joined to a running container.
type AttachSpec struct {
	Stdin  io.Reader // nil: none; its end closes the container's input if that is to be closed once
	Stdout io.Writer
	Stderr io.Writer // unused where the container has a terminal
	Resize <-chan Size
	Size   Size // of the terminal as it is joined; zero: not known
	Replay bool // begin with all output that is kept
}

// A CopySpec says where to unpack. With Archive all of the tar goes into the
// folder Path, which is made if missing. Otherwise the tar holds one file or
// folder, which goes into the folder of that path where there is one, and else
// takes the path itself.
type CopySpec struct {
	Path    string
	Archive bool
}

// ErrNoInput says that a container was started without standard input.
var ErrNoInput = errors.New("it has no standard input")

// ErrOldKeeper says that what keeps terminals and input on this machine is of an
// older build, and must be reloaded before it can.
var ErrOldKeeper = errors.New("not supported by this machine's keeper until it is reloaded")

// A Size is that of a terminal, in characters.
type Size struct{ Columns, Rows uint16 }

// LogOptions choose what of a container's output to read.
type LogOptions struct {
	Since  time.Time // zero: from the first that is kept
	Tail   int64     // last lines only; -1: all
	Follow bool      // until the container has exited and all was read
}

// A LogLine is one line of output without its newline, or a piece of a long one.
type LogLine struct {
	Time    time.Time
	Stderr  bool
	Partial bool // goes on in the next LogLine
	Text    []byte
}

// A Driver runs containers on this machine. Every method may be repeated:
// asking for what is already so is not an error.
type Driver interface {
	// Features tells what this machine can do that not all can.
	Features() Features
	// Prepare makes the sandbox of a Pod.
	Prepare(ctx context.Context, sandbox Sandbox) error
	// Start runs a container in its Pod's sandbox, which must be there, and
	// returns once its process runs. A container that ran before with this ID
	// is left as it is, whatever became of it.
	Start(ctx context.Context, spec Spec) error
	// Stop sends the stop signal and, after grace, SIGKILL to all of the container, and
	// returns when it has exited. Stopping an exited one does nothing.
	Stop(ctx context.Context, id ID, grace time.Duration) error
	// Remove forgets an exited container, its root and its output. It stops a
	// running one at once.
	Remove(ctx context.Context, id ID) error
	// RemoveSandbox lets go of a Pod's namespaces, its cgroup and its folder,
	// with any container that is left in it.
	RemoveSandbox(ctx context.Context, pod string) error
	// List reports our containers as found on disk and in the kernel, so it is
	// as right after a restart of the agent as before.
	List(ctx context.Context) ([]Status, error)
	// Sandboxes reports the Pods that have a sandbox here.
	Sandboxes(ctx context.Context) ([]Sandbox, error)
	// Changed returns a channel closed when List would answer differently.
	// Take it before calling List.
	Changed() <-chan struct{}
	// Exec runs a program in a running container and returns its exit code.
	Exec(ctx context.Context, id ID, spec ExecSpec) (int, error)
	// Attach joins the input and output of a running container, and returns its
	// exit code once it has ended and all was given. Any number may do so at once.
	Attach(ctx context.Context, id ID, spec AttachSpec) (int, error)
	// CopyOut writes a tar of what is at a path in a running container, as its
	// own user sees it: names begin with the last element of the path, links stay
	// links. It returns, for a person, what it left out.
	CopyOut(ctx context.Context, id ID, path string, w io.Writer) (notices []string, err error)
	// CopyIn unpacks a tar in a running container, as its own user may. It
	// returns, for a person, what it left out.
	CopyIn(ctx context.Context, id ID, spec CopySpec, r io.Reader) (notices []string, err error)
	// Logs calls each for the container's output, in order. It returns when all
	// was read, each fails, or ctx ends.
	Logs(ctx context.Context, id ID, opt LogOptions, each func(LogLine) error) error
	// Dial connects from inside the Pod's network.
	Dial(ctx context.Context, pod, network, address string) (net.Conn, error)
	// SinceBoot reads the clock that leases are counted on. It goes on while the
	// machine sleeps, and no wall clock moves it.
	SinceBoot() time.Duration
	// Lease lets all that runs in a Pod's sandbox run until then, both since
	// boot: at freeze its processes stop, and go on if a later lease comes; at
	// kill they end, and what is started is killed too. That happens whatever
	// becomes of the caller. A Pod that never had a lease runs without end.
	Lease(ctx context.Context, pod string, freeze, kill time.Duration) error
	// Usage reports what the running containers use now.
	Usage(ctx context.Context) ([]Usage, error)
}

// Usage is what one container has used and uses now.
type Usage struct {
	ID          ID
	CPU         time.Duration // in all, over its life
	MemoryBytes int64         // resident, less what the kernel can drop at once
	PIDs        int64
}
