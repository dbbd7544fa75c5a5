package runc

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// An ear collects what is written, and tells when it holds a text.
type ear struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newEar() *ear { return &ear{more: make(chan struct{}, 1)} }

func (e *ear) Write(b []byte) (int, error) {
	e.mu.Lock()
	e.text.Write(b)
	e.mu.Unlock()
	select {
	case e.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (e *ear) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.String()
}

func (e *ear) await(t *testing.T, text string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for !strings.Contains(e.String(), text) {
		select {
		case <-e.more:
		case <-limit:
			t.Fatalf("never heard %q, but %q", text, e)
		}
	}
}

// A sitting is one who is attached.
type sitting struct {
	*ear
	t     *testing.T
	keys  *io.PipeWriter
	sizes chan container.Size
	leave context.CancelFunc
	ended chan error
	code  int
}

func (s *scene) attach(t *testing.T, id container.ID) *sitting {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	a := &sitting{ear: newEar(), t: t, keys: w, sizes: make(chan container.Size), leave: cancel, ended: make(chan error, 1)}
	d := s.Driver
	go func() {
		var err error
		a.code, err = d.Attach(ctx, id, container.AttachSpec{Stdin: r, Stdout: a, Stderr: a, Resize: a.sizes, Replay: true})
		_ = r.Close()
		a.ended <- err
	}()
	return a
}

func (a *sitting) types(text string) {
	a.t.Helper()
	if _, err := io.WriteString(a.keys, text); err != nil {
		a.t.Fatal(err)
	}
}

// A container's terminal outlives the agent and the program of the keeper.
func TestATerminalOutlivesAgentAndKeeper(t *testing.T) {
	s := newScene(t)
	stop := s.serve()
	spec := s.one("size", "1", ";", "lines", ";", "exit", "5")
	spec.TTY, spec.Stdin = true, true
	id := s.start(spec)
	first := s.attach(t, id)
	first.await(t, "ready\r\n")
	first.sizes <- container.Size{Columns: 133, Rows: 44}
	first.await(t, "133 44 true\r\n")
	first.types("one\n")
	first.await(t, "got one\r\n")
	first.leave()
	if err := <-first.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("left with %v", err)
	}

	stop() // else both would wait for its end, and one take the word of it away
	s.open()
	s.serve()
	second := s.attach(t, id)
	second.types("two\n")
	second.await(t, "got two\r\n")

	pid, err := keeper.ReadPID(keeper.Dir(s.cfg.KeeperDir).KeeperPID())
	s.must(err)
	before, err := os.Stat(s.keeper.Features())
	s.must(err)
	s.must(syscall.Kill(pid, syscall.SIGHUP)) // the keeper executes itself anew
	s.await(s.cfg.KeeperDir, func() bool {
		now, err := os.Stat(s.keeper.Features())
		return err == nil && !os.SameFile(before, now)
	})
	third := s.attach(t, id)
	third.types("three\n")
	third.await(t, "got three\r\n")
	second.await(t, "got three\r\n") // who looks on hears it too
	if !strings.Contains(third.String(), "got one\r\n") {
		t.Errorf("what was kept is %q", third)
	}
	third.types("\x04") // the end, by the keyboard
	for _, a := range []*sitting{second, third} {
		if err := <-a.ended; err != nil || a.code != 5 {
			t.Errorf("exit code %d, %v", a.code, err)
		}
	}
	if got := s.output(id); len(got) == 0 || strings.TrimSpace(got[0]) != "ready" {
		t.Errorf("the log holds %q", got)
	}
}

// Who is attached and leaves, in whatever way, leaves no goroutine and no
// descriptor behind.
func TestAttachLeavesNothing(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("lines")
	spec.Stdin = true
	id := s.start(spec)
	census := func() (goroutines, files int) {
		entries, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(entries)
	}
	try := func() {
		a := s.attach(t, id)
		a.types("x\n")
		a.await(t, "got x")
		a.leave()
		<-a.ended
		_ = a.keys.Close()
	}
	try()
	goroutines, files := census()
	for range 10 {
		try()
	}
	for limit := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		g, f := census()
		if g <= goroutines && f <= files {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d goroutines and %d descriptors, before %d and %d", g, f, goroutines, files)
		}
	}
}

// Without the keeper's word that it holds terminals, none is promised.
func TestAnOldKeeperIsToldOf(t *testing.T) {
	s := newScene(t)
	s.serve()
	features := s.keeper.Features()
	aside := filepath.Join(s.dir, "features")
	s.must(os.Rename(features, aside))
	defer func() { s.must(os.Rename(aside, features)) }()
	spec := s.one("lines")
	spec.Stdin = true
	s.prepare("pod")
	if err := s.Start(t.Context(), spec); !errors.Is(err, container.ErrOldKeeper) {
		t.Errorf("started: %v", err)
	}
}
