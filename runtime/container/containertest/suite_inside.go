package containertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

// A heard is a writer that tells when what was written to it holds a text.
type heard struct {
	mu    sync.Mutex
	text  strings.Builder
	await string
	then  func()
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(b)
	if h.then != nil && strings.Contains(h.text.String(), h.await) {
		h.then()
		h.then = nil
	}
	return len(b), nil
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

func (p *play) startSpec(pod string, change func(*container.Spec), words ...string) container.ID {
	p.t.Helper()
	id := container.ID{Pod: pod, Name: "c"}
	p.must(p.Driver.Prepare(p.ctx, p.sandbox(pod)))
	spec := p.spec(id, words...)
	change(&spec)
	p.must(p.Driver.Start(p.ctx, spec))
	return id
}

func testAttach(p *play) {
	id := p.startSpec("pod", func(s *container.Spec) { s.Stdin = true }, "lines")
	// Two at once: what one types, both hear.
	ctx, cancel := context.WithCancel(p.ctx)
	keys, typed := io.Pipe()
	first := &heard{await: "got two", then: cancel}
	second := &heard{}
	joined := &heard{}
	var wait sync.WaitGroup
	wait.Go(func() {
		_, err := p.Driver.Attach(ctx, id, container.AttachSpec{Stdin: keys, Stdout: first, Replay: true})
		if !errors.Is(err, context.Canceled) {
			p.t.Errorf("attached until it was called off: %v", err)
		}
		_ = keys.Close()
	})
	wait.Go(func() {
		code, err := p.Driver.Attach(p.ctx, id, container.AttachSpec{Stdout: second, Stderr: joined, Replay: true})
		if err != nil || code == 0 {
			p.t.Errorf("attached to the end: exit code %d, %v", code, err)
		}
	})
	_, _ = io.WriteString(typed, "one\n")
	_, _ = io.WriteString(typed, "two\n")
	<-ctx.Done()
	// Whoever leaves takes nothing along: the input is open for the next.
	ctx, cancel = context.WithCancel(p.ctx)
	again := &heard{await: "got three", then: cancel}
	_, err := p.Driver.Attach(ctx, id, container.AttachSpec{Stdin: strings.NewReader("three\n"), Stdout: again, Replay: true})
	if !errors.Is(err, context.Canceled) {
		p.t.Errorf("attached once more: %v", err)
	}
	p.must(p.Driver.Stop(p.ctx, id, 0))
	wait.Wait()
	if want := "got one\ngot two\ngot three\n"; second.String() != want {
		p.t.Errorf("who looked on read %q, want %q", second, want)
	}
	if _, err := p.Driver.Attach(p.ctx, id, container.AttachSpec{Stdout: second}); !errors.Is(err, container.ErrNotFound) {
		p.t.Errorf("to one that has ended: %v", err)
	}
}

func testAttachOnce(p *play) {
	id := p.startSpec("pod", func(s *container.Spec) { s.Stdin, s.StdinOnce = true, true }, "lines")
	out := &heard{}
	code, err := p.Driver.Attach(p.ctx, id, container.AttachSpec{Stdin: strings.NewReader("one\n"), Stdout: out, Replay: true})
	if err != nil || code != 0 || out.String() != "got one\n" {
		p.t.Errorf("exit code %d, %v, wrote %q", code, err, out)
	}
	deaf := p.start("pod2", "c", "sleep")
	if _, err := p.Driver.Attach(p.ctx, deaf, container.AttachSpec{Stdin: strings.NewReader("x"), Stdout: out}); !errors.Is(err, container.ErrNoInput) {
		p.t.Errorf("typing to one without input: %v", err)
	}
}

// archive makes a tar.
func archive(p *play, entries ...tar.Header) io.Reader {
	p.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.Uname // carries the text of a file
		h.Uname, h.Size = "", int64(len(text))
		h.ModTime = time.Unix(1700000000, 0)
		p.must(w.WriteHeader(&h))
		_, err := io.WriteString(w, text)
		p.must(err)
	}
	p.must(w.Close())
	return &b
}

func (p *play) copyOut(id container.ID, at string) []string {
	p.t.Helper()
	var b bytes.Buffer
	_, err := p.Driver.CopyOut(p.ctx, id, at, &b)
	p.must(err)
	var out []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		p.must(err)
		text, err := io.ReadAll(r)
		p.must(err)
		if !h.ModTime.Equal(time.Unix(1700000000, 0)) && h.Typeflag != tar.TypeSymlink {
			p.t.Errorf("%s is of %s", h.Name, h.ModTime)
		}
		out = append(out, strings.TrimSpace(h.Name+" "+h.FileInfo().Mode().String()+" "+h.Linkname+string(text)))
	}
}

func testCopy(p *play) {
	id := p.start("pod", "c", "sleep")
	in := archive(p,
		tar.Header{Name: "tree/", Typeflag: tar.TypeDir, Mode: 0o750},
		tar.Header{Name: "tree/a", Typeflag: tar.TypeReg, Mode: 0o640, Uname: "one"},
		tar.Header{Name: "tree/link", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "/etc/passwd"},
		tar.Header{Name: "tree/sub/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "tree/sub/b", Typeflag: tar.TypeReg, Mode: 0o755, Uname: "\x00\xff"},
	)
	_, err := p.Driver.CopyIn(p.ctx, id, container.CopySpec{Path: "/here"}, in)
	p.must(err)
	want := []string{
		"here/ drwxr-x---", "here/a -rw-r----- one", "here/link Lrwxrwxrwx /etc/passwd",
		"here/sub/ drwx------", "here/sub/b -rwxr-xr-x \x00\xff",
	}
	if diff := cmp.Diff(want, p.copyOut(id, "/here")); diff != "" {
		p.t.Errorf("came back (-want +got):\n%s", diff)
	}
	_, err = p.Driver.CopyIn(p.ctx, id, container.CopySpec{Path: "/here"}, archive(p, tar.Header{Name: "c", Typeflag: tar.TypeReg, Mode: 0o600, Uname: "in it"}))
	p.must(err)
	if diff := cmp.Diff([]string{"c -rw------- in it"}, p.copyOut(id, "/here/c")); diff != "" {
		p.t.Errorf("into a folder (-want +got):\n%s", diff)
	}
	_, err = p.Driver.CopyIn(p.ctx, id, container.CopySpec{Path: "/new", Archive: true}, archive(p, tar.Header{Name: "d", Typeflag: tar.TypeReg, Mode: 0o600, Uname: "x"}))
	p.must(err)
	if diff := cmp.Diff([]string{"d -rw------- x"}, p.copyOut(id, "/new/d")); diff != "" {
		p.t.Errorf("an archive (-want +got):\n%s", diff)
	}
}

func testCopyNothing(p *play) {
	id := p.start("pod", "c", "sleep")
	if _, err := p.Driver.CopyOut(p.ctx, id, "/no/such", io.Discard); err == nil {
		p.t.Error("what is not there was copied")
	}
	p.must(p.Driver.Stop(p.ctx, id, 0))
	if _, err := p.Driver.CopyOut(p.ctx, id, "/", io.Discard); !errors.Is(err, container.ErrNotFound) {
		p.t.Errorf("out of one that has ended: %v", err)
	}
}
