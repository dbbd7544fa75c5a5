package containertest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skein-dev/skein/runtime/container"
)

// A Stage is what a test of the suite plays on.
type Stage struct {
	Driver  container.Driver
	RootFS  func(id container.ID) []container.Mount // a root for each container
	Program string                                  // path in the root of a program that understands [Words]
	Users   bool                                    // every Pod has users of its own
}

// Suite tests what every Driver must do. open makes a Stage for one test and
// cleans up after it.
func Suite(t *testing.T, open func(t *testing.T) Stage) {
	for name, test := range map[string]func(*play){
		"runs a program and tells its exit code":              testExitCode,
		"tells a signal from an exit code":                    testSignal,
		"starts a container once":                             testStartOnce,
		"starts nothing without a sandbox":                    testNoSandbox,
		"tells when a program could not be started":           testCannotStart,
		"gives nothing that is not allowed":                   testNotAllowed,
		"starts nothing without its seccomp profile":          testNoProfile,
		"makes the folders that an image writes to":           testVolumes,
		"lets a Pod share processes":                          testSharePIDs,
		"gives the machine's processes to whom may have them": testHostPIDs,
		"starts many at once":                                 testParallel,
		"stops politely, then not":                            testStop,
		"stops by the signal that is asked for":               testStopSignal,
		"tells what a container left to be told":              testMessage,
		"removes containers, running ones too":                testRemove,
		"removes a Pod with all that is in it":                testRemoveSandbox,
		"tells whenever the list changes":                     testChanged,
		"ends a Pod whose lease has run out":                  testLease,
		"keeps output, line by line":                          testLogs,
		"follows output to its end":                           testFollow,
		"runs programs in containers":                         testExec,
		"ends such a program with its context":                testExecCancelled,
		"joins the input and output of a container":           testAttach,
		"closes an input that is closed once":                 testAttachOnce,
		"copies files in and out":                             testCopy,
		"refuses to copy where there is nothing":              testCopyNothing,
		"connects inside the Pod":                             testDial,
		"shares a host name in the Pod, and tells what used":  testPod,
	} {
		t.Run(name, func(t *testing.T) {
			test(&play{Stage: open(t), t: t, ctx: t.Context()})
		})
	}
}

type play struct {
	Stage
	t   *testing.T
	ctx context.Context
}

func (p *play) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *play) sandbox(pod string) container.Sandbox {
	return container.Sandbox{Pod: pod, Namespace: "default", Name: "name-of-" + pod, Hostname: "host-" + pod, Users: p.Users}
}

func (p *play) spec(id container.ID, words ...string) container.Spec {
	return container.Spec{
		ID: id, Sandbox: p.sandbox(id.Pod), RootFS: p.RootFS(id), Args: append([]string{p.Program}, words...),
		Env: []string{"PATH=/"}, Cwd: "/", Labels: map[string]string{"words": fmt.Sprint(words)},
	}
}

// start starts a container in its sandbox.
func (p *play) start(pod, name string, words ...string) container.ID {
	p.t.Helper()
	id := container.ID{Pod: pod, Name: name}
	p.must(p.Driver.Prepare(p.ctx, p.sandbox(pod)))
	p.must(p.Driver.Start(p.ctx, p.spec(id, words...)))
	return id
}

func (p *play) status(id container.ID) (container.Status, bool) {
	p.t.Helper()
	list, err := p.Driver.List(p.ctx)
	p.must(err)
	i := slices.IndexFunc(list, func(s container.Status) bool { return s.ID == id })
	if i < 0 {
		return container.Status{}, false
	}
	return list[i], true
}

// await waits, by the driver's own word, until the list is as wanted.
func (p *play) await(ready func() bool) {
	p.t.Helper()
	for {
		changed := p.Driver.Changed()
		if ready() {
			return
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			p.t.Fatal(p.ctx.Err())
		}
	}
}

func (p *play) exited(id container.ID) container.Status {
	p.t.Helper()
	var s container.Status
	p.await(func() bool {
		var ok bool
		s, ok = p.status(id)
		return !ok || s.State == container.Exited
	})
	return s
}

// heard waits until a container has written so many lines.
func (p *play) heard(id container.ID, lines int) {
	p.t.Helper()
	enough := errors.New("enough")
	err := p.Driver.Logs(p.ctx, id, container.LogOptions{Tail: -1, Follow: true}, func(container.LogLine) error {
		if lines--; lines <= 0 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		p.t.Fatalf("%s wrote too little: %v", id, err)
	}
}

func testExitCode(p *play) {
	for _, code := range []int{0, 3, 255} {
		begin := time.Now().Add(-time.Second)
		id := p.start("pod", fmt.Sprintf("exits-%d", code), "exit", fmt.Sprint(code))
		s := p.exited(id)
		if s.ExitCode != code || s.Signal != 0 || s.OOMKilled || s.PID != 0 {
			p.t.Errorf("exit %d: %+v", code, s)
		}
		if s.StartedAt.Before(begin) || s.FinishedAt.Before(s.StartedAt.Add(-100*time.Millisecond)) || time.Since(s.FinishedAt) > time.Minute {
			p.t.Errorf("started %v, finished %v", s.StartedAt, s.FinishedAt)
		}
		if got, want := s.Labels["words"], fmt.Sprintf("[exit %d]", code); got != want {
			p.t.Errorf("label %q, want %q", got, want)
		}
	}
}

func testSignal(p *play) {
	id := p.start("pod", "c", "stubborn")
	p.heard(id, 1)
	p.must(p.Driver.Stop(p.ctx, id, 0))
	if s := p.exited(id); s.ExitCode != 137 || s.Signal != 9 || s.OOMKilled {
		p.t.Errorf("%+v, want exit code 137 by signal 9", s)
	}
}

func testStartOnce(p *play) {
	id := p.start("pod", "c", "sleep")
	p.heard(id, 1)
	first, _ := p.status(id)
	p.must(p.Driver.Start(p.ctx, p.spec(id, "sleep")))
	if second, ok := p.status(id); !ok || second.PID != first.PID || second.State != container.Running {
		p.t.Errorf("started again: %+v, before: %+v", second, first)
	}
	p.must(p.Driver.Stop(p.ctx, id, time.Minute))
	p.must(p.Driver.Start(p.ctx, p.spec(id, "sleep")))
	if s, _ := p.status(id); s.State != container.Exited {
		p.t.Errorf("an exited container was started again: %+v", s)
	}
	next := container.ID{Pod: id.Pod, Name: id.Name, Attempt: 1}
	p.must(p.Driver.Start(p.ctx, p.spec(next, "exit", "1")))
	if s := p.exited(next); s.ExitCode != 1 {
		p.t.Errorf("the next attempt: %+v", s)
	}
}

func testNoSandbox(p *play) {
	id := container.ID{Pod: "nowhere", Name: "c"}
	if err := p.Driver.Start(p.ctx, p.spec(id, "exit", "0")); !errors.Is(err, container.ErrNotFound) {
		p.t.Errorf("got %v, want %v", err, container.ErrNotFound)
	}
	if s, ok := p.status(id); ok {
		p.t.Errorf("listed: %+v", s)
	}
}

func testCannotStart(p *play) {
	ctx, cancel := context.WithCancel(p.ctx)
	cancel()
	id := container.ID{Pod: "pod", Name: "c"}
	p.must(p.Driver.Prepare(p.ctx, p.sandbox("pod")))
	_ = p.Driver.Start(ctx, p.spec(id, "exit", "0")) // either way: it is whole or it is not there
	p.must(p.Driver.Start(p.ctx, p.spec(id, "exit", "4")))
	if s := p.exited(id); s.ExitCode != 4 && s.ExitCode != 0 {
		p.t.Errorf("started once more: %+v", s)
	}
	if err := p.Driver.Stop(p.ctx, container.ID{Pod: "pod", Name: "never"}, 0); !errors.Is(err, container.ErrNotFound) {
		p.t.Errorf("stop what is not there: %v", err)
	}
}

func testParallel(p *play) {
	var wait sync.WaitGroup
	for pod := range 3 {
		p.must(p.Driver.Prepare(p.ctx, p.sandbox(fmt.Sprintf("pod%d", pod))))
		for n := range 3 {
			id := container.ID{Pod: fmt.Sprintf("pod%d", pod), Name: fmt.Sprintf("c%d", n)}
			for range 2 { // two callers want the same
				wait.Go(func() {
					if err := p.Driver.Start(p.ctx, p.spec(id, "exit", fmt.Sprint(10*pod+n))); err != nil {
						p.t.Error(err)
					}
				})
			}
		}
	}
	wait.Wait()
	for pod := range 3 {
		for n := range 3 {
			id := container.ID{Pod: fmt.Sprintf("pod%d", pod), Name: fmt.Sprintf("c%d", n)}
			if s := p.exited(id); s.ExitCode != 10*pod+n {
				p.t.Errorf("%s: exit code %d", id, s.ExitCode)
			}
		}
	}
}

func testStop(p *play) {
	polite := p.start("pod", "polite", "sleep")
	p.heard(polite, 1)
	p.must(p.Driver.Stop(p.ctx, polite, time.Hour))
	if s := p.exited(polite); s.ExitCode != 0 {
		p.t.Errorf("polite: %+v, want exit code 0", s)
	}
	p.must(p.Driver.Stop(p.ctx, polite, time.Hour))

	stubborn := p.start("pod", "stubborn", "stubborn")
	p.heard(stubborn, 1)
	impatient, cancel := context.WithTimeout(p.ctx, 50*time.Millisecond)
	defer cancel()
	if err := p.Driver.Stop(impatient, stubborn, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		p.t.Errorf("stop given up: %v", err)
	}
	if s, _ := p.status(stubborn); s.State != container.Running {
		p.t.Errorf("killed before its time: %+v", s)
	}
	begin := time.Now()
	p.must(p.Driver.Stop(p.ctx, stubborn, 100*time.Millisecond))
	if took := time.Since(begin); took < 100*time.Millisecond {
		p.t.Errorf("killed after %v of its 100 ms", took)
	}
	if s := p.exited(stubborn); s.Signal != 9 {
		p.t.Errorf("stubborn: %+v, want signal 9", s)
	}
}

func testStopSignal(p *play) {
	for _, signal := range []string{"SIGUSR1", "SIGQUIT"} {
		id := container.ID{Pod: "pod", Name: strings.ToLower(signal)}
		spec := p.spec(id, "heed", signal)
		spec.StopSignal = signal
		p.must(p.Driver.Prepare(p.ctx, p.sandbox(id.Pod)))
		p.must(p.Driver.Start(p.ctx, spec))
		p.heard(id, 1)
		p.must(p.Driver.Stop(p.ctx, id, time.Hour))
		if s := p.exited(id); s.ExitCode != 0 || s.Signal != 0 {
			p.t.Errorf("stopped by %s: %+v, want exit code 0", signal, s)
		}
	}
}

func testMessage(p *play) {
	for words, want := range map[string]string{"leave /dev/termination-log it was me ; exit 3": "it was me", "exit 3": "", "leave /note hidden": ""} {
		id := container.ID{Pod: "pod", Name: fmt.Sprintf("c%d", len(words))}
		spec := p.spec(id, strings.Fields(words)...)
		spec.MessagePath = "/dev/termination-log"
		p.must(p.Driver.Prepare(p.ctx, p.sandbox(id.Pod)))
		p.must(p.Driver.Start(p.ctx, spec))
		if s := p.exited(id); s.Message != want || s.Stale {
			p.t.Errorf("%s: %+v, want the message %q", words, s, want)
		}
	}
}

func testRemove(p *play) {
	done := p.start("pod", "done", "exit", "0")
	p.exited(done)
	runs := p.start("pod", "runs", "stubborn")
	for _, id := range []container.ID{done, runs} {
		p.must(p.Driver.Remove(p.ctx, id))
		p.must(p.Driver.Remove(p.ctx, id))
		if s, ok := p.status(id); ok {
			p.t.Errorf("listed after removal: %+v", s)
		}
		err := p.Driver.Logs(p.ctx, id, container.LogOptions{Tail: -1}, func(container.LogLine) error { return nil })
		if !errors.Is(err, container.ErrNotFound) {
			p.t.Errorf("output after removal: %v", err)
		}
	}
}

func testRemoveSandbox(p *play) {
	p.start("a", "runs", "stubborn")
	p.start("a", "done", "exit", "0")
	other := p.start("b", "runs", "sleep")
	p.must(p.Driver.RemoveSandbox(p.ctx, "a"))
	p.must(p.Driver.RemoveSandbox(p.ctx, "a"))
	list, err := p.Driver.List(p.ctx)
	p.must(err)
	if len(list) != 1 || list[0].ID != other || list[0].State != container.Running {
		p.t.Errorf("left: %+v, want %s alone", list, other)
	}
	pods, err := p.Driver.Sandboxes(p.ctx)
	p.must(err)
	if diff := cmp.Diff([]container.Sandbox{p.sandbox("b")}, pods, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		p.t.Errorf("sandboxes (-want +got):\n%s", diff)
	}
	// A Pod of the same name may come again.
	p.exited(p.start("a", "done", "exit", "0"))
}

func testChanged(p *play) {
	fired := func(what string, changed <-chan struct{}) {
		p.t.Helper()
		select {
		case <-changed:
		case <-p.ctx.Done():
			p.t.Fatalf("no word of %s", what)
		}
	}
	changed := p.Driver.Changed()
	id := p.start("pod", "c", "sleep")
	fired("a start", changed)
	p.heard(id, 1)
	changed = p.Driver.Changed()
	p.must(p.Driver.Stop(p.ctx, id, time.Minute))
	fired("an end", changed)
	changed = p.Driver.Changed()
	p.must(p.Driver.Remove(p.ctx, id))
	fired("a removal", changed)
}
