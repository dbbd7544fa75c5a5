// Package containertest owns a container.Driver that runs nothing, for tests of
// whole clusters in virtual time, and the suite that every Driver must pass.
// The driver keeps time by package time and starts no goroutine, so a synctest
// bubble ends cleanly with containers still running in it.
package containertest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

// Forever is how long a program runs that does not end by itself.
const Forever time.Duration = 1<<63 - 1

// A Process is what a container's program does.
type Process struct {
	Err       error         // Start fails with it
	StartTime time.Duration // until Start returns
	Runs      time.Duration // until it ends by itself: 0 at once, Forever never
	Code      int           // exit code then; 128+n tells of signal n
	OOMKilled bool
	Stubborn  bool          // does nothing on SIGTERM
	TermTime  time.Duration // from SIGTERM to its end, with exit code TermCode
	TermCode  int
	Output    []container.LogLine // written at once; Time is filled in
	Message   string              // left at the MessagePath of its Spec, if that has one
	Usage     container.Usage
	// Dial answers connections to the container's Pod, or is nil: nobody
	// listens. It serves its end of the pipe as it likes.
	Dial func(network, address string) (net.Conn, error)
	Echo bool // writes each line that it reads, and ends with its input
	// Exec runs a program in the container. Nil: exit code 0 at once.
	Exec func(ctx context.Context, spec container.ExecSpec) (int, error)
}

// A Program says what a container does that is started.
type Program func(spec container.Spec) Process

// RunForever is the program that runs until it is stopped.
func RunForever(container.Spec) Process { return Process{Runs: Forever} }

// A Driver is a container.Driver that runs nothing.
type Driver struct {
	program Program
	now     func() time.Time // the wall clock, for stamps

	mu        sync.Mutex
	sandboxes map[string]container.Sandbox
	boxes     map[container.ID]*box
	changed   chan struct{}
	starts    map[container.ID]int
	leases    map[string]*lease // by Pod
	profiles  map[string]bool   // of seccomp, by name
	pid       int
}

var _ container.Driver = (*Driver)(nil)

type box struct {
	status container.Status
	spec   container.Spec
	proc   Process
	lines  []container.LogLine
	files  map[string]entry // what was copied in, by path
	input  bool             // its standard input is open
	timer  *time.Timer      // its own end, or the one that SIGTERM brings
}

// New makes a driver whose containers do as program says.
func New(program Program) *Driver {
	return &Driver{
		program: program, now: time.Now, sandboxes: map[string]container.Sandbox{}, boxes: map[container.ID]*box{},
		changed: make(chan struct{}), starts: map[container.ID]int{},
		leases: map[string]*lease{}, profiles: map[string]bool{},
	}
}

// SetClock has stamps come from another wall clock than time.Now. Call it first.
func (d *Driver) SetClock(now func() time.Time) { d.now = now }

// AddProfile gives the machine a seccomp profile.
func (d *Driver) AddProfile(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.profiles[name] = true
}

// notify must be called with mu held.
func (d *Driver) notify() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// Changed returns a channel closed when List would answer differently.
func (d *Driver) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Features are all that there are.
func (d *Driver) Features() container.Features { return container.Features{} }

// Prepare makes the sandbox of a Pod.
func (d *Driver) Prepare(ctx context.Context, s container.Sandbox) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sandboxes[s.Pod] = s
	return ctx.Err()
}

// Start starts a container's program.
func (d *Driver) Start(ctx context.Context, spec container.Spec) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.boxes[spec.ID] != nil {
		return nil
	}
	if _, ok := d.sandboxes[spec.ID.Pod]; !ok {
		return fmt.Errorf("start %s: the sandbox of %s: %w", spec.ID, spec.ID.Pod, container.ErrNotFound)
	}
	spec.Sandbox = d.sandboxes[spec.ID.Pod]
	if err := spec.Check(); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	if name := spec.Security.SeccompProfile; name != "" && !d.profiles[name] {
		return fmt.Errorf("start %s: seccomp profile %q: %w", spec.ID, name, container.ErrNoProfile)
	}
	p := d.program(spec)
	if p.StartTime > 0 {
		d.mu.Unlock()
		err := sleep(ctx, p.StartTime)
		d.mu.Lock()
		if err != nil {
			return fmt.Errorf("start %s: %w", spec.ID, err)
		}
		if _, ok := d.sandboxes[spec.ID.Pod]; !ok || d.boxes[spec.ID] != nil {
			return nil // meanwhile removed, or started by another
		}
	}
	if p.Err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, p.Err)
	}
	d.pid++
	now := d.now()
	b := &box{spec: spec, proc: p, lines: slices.Clone(p.Output), status: container.Status{
		ID: spec.ID, State: container.Running, PID: d.pid, StartedAt: now, Labels: maps.Clone(spec.Labels),
	}}
	for i := range b.lines {
		b.lines[i].Time = now
	}
	b.input = spec.Stdin
	if p.Echo && !spec.Stdin {
		p.Runs = 0 // there is nothing to read
	}
	for _, at := range spec.Volumes {
		b.folder(path.Clean("/" + at))
	}
	d.boxes[spec.ID] = b
	if l := d.leases[spec.ID.Pod]; l != nil && d.SinceBoot() >= l.kill {
		p.Runs, p.Code = 0, killed // whoever enforces leases is not asked whether it has started
		b.status.LeaseLost = true
	}
	d.starts[spec.ID]++
	if p.Runs == 0 {
		d.end(b, p.Code, p.OOMKilled)
	} else if p.Runs != Forever {
		b.timer = time.AfterFunc(p.Runs, func() { d.endLater(b, p.Code, p.OOMKilled) })
	}
	d.notify()
	return nil
}

func sleep(ctx context.Context, wait time.Duration) error {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (d *Driver) endLater(b *box, code int, oom bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end(b, code, oom)
}

// end ends a program, once. It must be called with mu held.
func (d *Driver) end(b *box, code int, oom bool) {
	if b.status.State == container.Exited {
		return
	}
	if b.timer != nil {
		b.timer.Stop()
	}
	b.status.State, b.status.PID, b.status.FinishedAt = container.Exited, 0, d.now()
	b.status.ExitCode, b.status.OOMKilled = code, oom
	if code > 128 && code < 128+65 {
		b.status.Signal = code - 128
	}
	if b.spec.MessagePath != "" {
		b.status.Message = container.Clip([]byte(b.proc.Message), container.MaxMessage)
	}
	d.notify()
}

// Stop sends SIGTERM and, after grace, SIGKILL.
func (d *Driver) Stop(ctx context.Context, id container.ID, grace time.Duration) error {
	d.mu.Lock()
	b := d.boxes[id]
	if b == nil {
		d.mu.Unlock()
		return fmt.Errorf("stop %s: %w", id, container.ErrNotFound)
	}
	if b.status.State == container.Running && grace > 0 && !b.proc.Stubborn {
		if b.proc.TermTime == 0 {
			d.end(b, b.proc.TermCode, false)
		} else {
			if b.timer != nil {
				b.timer.Stop()
			}
			b.timer = time.AfterFunc(b.proc.TermTime, func() { d.endLater(b, b.proc.TermCode, false) })
		}
	}
	d.mu.Unlock()
	deadline := time.NewTimer(max(grace, 0))
	defer deadline.Stop()
	for {
		changed := d.Changed()
		if d.ended(b) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", id, ctx.Err())
		case <-deadline.C:
			d.endLater(b, 137, false)
		case <-changed:
		}
	}
}

func (d *Driver) ended(b *box) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return b.status.State == container.Exited
}

// Remove forgets a container.
func (d *Driver) Remove(ctx context.Context, id container.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.boxes[id]; b != nil {
		d.end(b, 137, false)
		delete(d.boxes, id)
		d.notify()
	}
	return ctx.Err()
}

// RemoveSandbox forgets a Pod.
func (d *Driver) RemoveSandbox(ctx context.Context, pod string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, b := range d.boxes {
		if id.Pod == pod {
			d.end(b, 137, false)
			delete(d.boxes, id)
			d.notify()
		}
	}
	delete(d.sandboxes, pod)
	if l := d.leases[pod]; l != nil {
		l.end.Stop()
		delete(d.leases, pod)
	}
	return ctx.Err()
}

// List reports the containers.
func (d *Driver) List(ctx context.Context) ([]container.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]container.Status, 0, len(d.boxes))
	for _, b := range d.boxes {
		s := b.status
		s.Labels = maps.Clone(s.Labels)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b container.Status) int {
		return cmp.Or(cmp.Compare(a.ID.Pod, b.ID.Pod), cmp.Compare(a.ID.Name, b.ID.Name), cmp.Compare(a.ID.Attempt, b.ID.Attempt))
	})
	return out, ctx.Err()
}

// Sandboxes reports the Pods.
func (d *Driver) Sandboxes(ctx context.Context) ([]container.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Values(d.sandboxes), func(a, b container.Sandbox) int { return cmp.Compare(a.Pod, b.Pod) }), ctx.Err()
}
