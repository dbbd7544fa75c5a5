package containertest

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/skein-dev/skein/runtime/container"
)

// An entry is a file, a folder or a link.
type entry struct {
	header tar.Header
	data   []byte
}

// running finds a container that runs.
func (d *Driver) running(id container.ID) (*box, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.boxes[id]
	if b == nil || b.status.State != container.Running {
		return nil, fmt.Errorf("container %s does not run: %w", id, container.ErrNotFound)
	}
	return b, nil
}

// Attach joins the input and output of a container.
func (d *Driver) Attach(ctx context.Context, id container.ID, spec container.AttachSpec) (int, error) {
	b, err := d.running(id)
	if err != nil {
		return 0, err
	}
	if spec.Stdin != nil && !b.spec.Stdin {
		return 0, fmt.Errorf("attach to %s: %w", id, container.ErrNoInput)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	if spec.Stdin != nil {
		stop := context.AfterFunc(ctx, func() {
			if c, ok := spec.Stdin.(io.Closer); ok {
				_ = c.Close() // so that the reading ends
			}
		})
		defer stop()
		wait.Go(func() { d.feed(b, spec.Stdin) })
	}
	opt := container.LogOptions{Follow: true}
	if spec.Replay {
		opt.Tail = -1
	}
	err = d.Logs(ctx, id, opt, func(l container.LogLine) error {
		w := spec.Stdout
		if l.Stderr {
			w = spec.Stderr
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(append(slices.Clone(l.Text), '\n'))
		return err
	})
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return b.status.ExitCode, nil
}

// feed gives a container what it reads.
func (d *Driver) feed(b *box, r io.Reader) {
	for in := bufio.NewScanner(r); in.Scan(); {
		if b.proc.Echo {
			d.Write(b.spec.ID, container.LogLine{Text: []byte("got " + in.Text())})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.spec.StdinOnce && b.input {
		b.input = false
		if b.proc.Echo {
			d.end(b, b.proc.Code, false)
		}
	}
}

// folder makes one that is there from the beginning.
func (b *box) folder(at string) {
	if b.files == nil {
		b.files = map[string]entry{}
	}
	b.files[at] = entry{header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
}

// CopyIn keeps what is in a tar.
func (d *Driver) CopyIn(ctx context.Context, id container.ID, spec container.CopySpec, r io.Reader) ([]string, error) {
	b, err := d.running(id)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	_, folder := b.files[spec.Path]
	d.mu.Unlock()
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		name := path.Join(spec.Path, h.Name)
		if !spec.Archive && !folder {
			_, rest, _ := strings.Cut(path.Clean(h.Name), "/")
			name = path.Join(spec.Path, rest)
		}
		d.mu.Lock()
		if b.files == nil {
			b.files = map[string]entry{}
		}
		b.files[name] = entry{header: *h, data: data}
		d.mu.Unlock()
	}
}

// CopyOut gives what was copied in.
func (d *Driver) CopyOut(ctx context.Context, id container.ID, at string, w io.Writer) ([]string, error) {
	b, err := d.running(id)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	files := maps.Clone(b.files)
	d.mu.Unlock()
	at = path.Clean(at)
	if _, ok := files[at]; !ok {
		return nil, fmt.Errorf("copy: %s is not in the container", at)
	}
	out := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != at && !strings.HasPrefix(name, at+"/") {
			continue
		}
		e := files[name]
		e.header.Name = path.Base(at) + strings.TrimPrefix(name, at)
		if e.header.Typeflag == tar.TypeDir {
			e.header.Name += "/"
		}
		if err := out.WriteHeader(&e.header); err != nil {
			return nil, err
		}
		if _, err := out.Write(e.data); err != nil {
			return nil, err
		}
	}
	return nil, errors.Join(out.Close(), ctx.Err())
}
