package containertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

// logs reads a container's output, stderr marked.
func (p *play) logs(id container.ID, opt container.LogOptions) []string {
	p.t.Helper()
	var out []string
	p.must(p.Driver.Logs(p.ctx, id, opt, func(l container.LogLine) error {
		text := string(l.Text)
		if l.Stderr {
			text = "! " + text
		}
		if l.Partial {
			text += "…"
		}
		out = append(out, text)
		return nil
	}))
	return out
}

func testLogs(p *play) {
	id := p.start("pod", "c", "say", "one", ";", "say", "two", ";", "mumble", "three")
	p.exited(id)
	// Once with Follow: then the output is whole.
	all := container.LogOptions{Tail: -1, Follow: true}
	if diff := cmp.Diff([]string{"one", "two", "three"}, p.logs(id, all)); diff != "" {
		p.t.Errorf("all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"two", "three"}, p.logs(id, container.LogOptions{Tail: 2})); diff != "" {
		p.t.Errorf("tail (-want +got):\n%s", diff)
	}
	if got := p.logs(id, container.LogOptions{Tail: -1, Since: time.Now().Add(time.Hour)}); len(got) > 0 {
		p.t.Errorf("of the future: %v", got)
	}
	loud := p.start("pod", "loud", "shout", "help")
	if diff := cmp.Diff([]string{"! help"}, p.logs(loud, all)); diff != "" {
		p.t.Errorf("stderr (-want +got):\n%s", diff)
	}
	many := p.start("pod", "many", "count", "5000")
	got := p.logs(many, all)
	if len(got) != 5000 || got[0] != "0" || got[4999] != "4999" {
		p.t.Errorf("%d lines of 5000", len(got))
	}
}

func testFollow(p *play) {
	id := p.start("pod", "c", "say", "one", ";", "sleep")
	var got []string
	p.must(p.Driver.Logs(p.ctx, id, container.LogOptions{Tail: -1, Follow: true}, func(l container.LogLine) error {
		if got = append(got, string(l.Text)); len(got) == 2 {
			return p.Driver.Stop(p.ctx, id, time.Minute) // so that following ends
		}
		return nil
	}))
	if diff := cmp.Diff([]string{"one", "sleeping"}, got); diff != "" {
		p.t.Errorf("followed (-want +got):\n%s", diff)
	}
	runs := p.start("pod", "runs", "sleep")
	ctx, cancel := context.WithCancel(p.ctx)
	err := p.Driver.Logs(ctx, runs, container.LogOptions{Tail: -1, Follow: true}, func(container.LogLine) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		p.t.Errorf("following ended with %v", err)
	}
}

func testExec(p *play) {
	id := p.start("pod", "c", "sleep")
	var stdout, stderr bytes.Buffer
	run := func(stdin io.Reader, words ...string) int {
		p.t.Helper()
		stdout.Reset()
		stderr.Reset()
		code, err := p.Driver.Exec(p.ctx, id, container.ExecSpec{
			Args: append([]string{p.Program}, words...), Stdin: stdin, Stdout: &stdout, Stderr: &stderr,
		})
		p.must(err)
		return code
	}
	if code := run(nil, "say", "out", ";", "shout", "err", ";", "exit", "7"); code != 7 || stdout.String() != "out\n" || stderr.String() != "err\n" {
		p.t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
	}
	text := strings.Repeat("there and back\n", 10000)
	if code := run(strings.NewReader(text), "cat"); code != 0 || stdout.String() != text {
		p.t.Errorf("exit code %d, %d bytes of %d came back", code, stdout.Len(), len(text))
	}
	p.must(p.Driver.Stop(p.ctx, id, time.Minute))
	_, err := p.Driver.Exec(p.ctx, id, container.ExecSpec{Args: []string{p.Program}})
	if !errors.Is(err, container.ErrNotFound) {
		p.t.Errorf("in an exited container: %v", err)
	}
}

// cancels is a writer that ends a context.
type cancels struct{ cancel context.CancelFunc }

func (c cancels) Write(b []byte) (int, error) {
	c.cancel()
	return len(b), nil
}

func testExecCancelled(p *play) {
	id := p.start("pod", "c", "sleep")
	ctx, cancel := context.WithCancel(p.ctx)
	_, err := p.Driver.Exec(ctx, id, container.ExecSpec{Args: []string{p.Program, "stubborn"}, Stdout: cancels{cancel}})
	if !errors.Is(err, context.Canceled) {
		p.t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if s, _ := p.status(id); s.State != container.Running {
		p.t.Errorf("the container itself: %+v", s)
	}
}

func testDial(p *play) {
	id := p.start("pod", "c", "serve", "127.0.0.1:7000", ";", "sleep")
	p.heard(id, 1)
	p.await(func() bool {
		_, err := p.Driver.Dial(p.ctx, "pod", "tcp", "127.0.0.1:7000")
		return err == nil || !errors.Is(err, syscall.ECONNREFUSED)
	})
	conn, err := p.Driver.Dial(p.ctx, "pod", "tcp", "127.0.0.1:7000")
	p.must(err)
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		p.t.Errorf("read %q, %v", got, err)
	}
	if _, err := p.Driver.Dial(p.ctx, "pod", "tcp", "127.0.0.1:7001"); !errors.Is(err, syscall.ECONNREFUSED) {
		p.t.Errorf("where nobody listens: %v", err)
	}
	if _, err := p.Driver.Dial(p.ctx, "nowhere", "tcp", "127.0.0.1:7000"); !errors.Is(err, container.ErrNotFound) {
		p.t.Errorf("in a Pod that is not there: %v", err)
	}
}

func testPod(p *play) {
	first := p.start("pod", "first", "hostname", ";", "sleep")
	second := p.start("pod", "second", "hostname")
	for _, id := range []container.ID{first, second} {
		p.heard(id, 1)
		if got := p.logs(id, container.LogOptions{Tail: -1}); len(got) == 0 || got[0] != "host-pod" {
			p.t.Errorf("%s is called %v", id, got)
		}
	}
	p.exited(second)
	usage, err := p.Driver.Usage(p.ctx)
	p.must(err)
	if len(usage) != 1 || usage[0].ID != first || usage[0].PIDs < 1 || usage[0].MemoryBytes <= 0 {
		p.t.Errorf("usage %s, want that of %s alone", fmt.Sprint(usage), first)
	}
}
