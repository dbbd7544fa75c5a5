package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// A growth is a layer that is coming in. Others may read what is here of it, and
// wait for the rest.
type growth struct {
	path string // of the file; it moves when it is whole, which who has it open does not notice
	size int64

	mu      sync.Mutex
	n       int64 // bytes that are here
	ended   bool
	err     error         // why it did not become whole
	changed chan struct{} // closed when one of these does
}

func (g *growth) grow(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n = n
	g.wake()
}

func (g *growth) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended, g.err = true, err
	g.wake()
}

func (g *growth) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// upTo waits until there is more than from.
func (g *growth) upTo(ctx context.Context, from int64) (int64, error) {
	for {
		g.mu.Lock()
		n, ended, err, changed := g.n, g.ended, g.err, g.changed
		g.mu.Unlock()
		switch {
		case n > from:
			return n, nil
		case err != nil:
			return 0, fmt.Errorf("it broke off here, too: %w", err)
		case ended:
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// begin lets others follow a layer of which offset bytes are here.
func (s *Store) begin(ctx context.Context, d digest.Digest, offset, size int64) (*growth, error) {
	path, err := s.ingestPath(ctx, d)
	if err != nil {
		return nil, err
	}
	g := &growth{path: path, size: size, n: offset, changed: make(chan struct{})}
	s.growing.Store(d, g)
	return g, nil
}

// ingestPath finds the file that a blob is written to. The content store has no
// way to read it: the path is containerd's layout of one.
func (s *Store) ingestPath(ctx context.Context, d digest.Digest) (string, error) {
	all, err := s.blobs.ListStatuses(ctx)
	if err != nil {
		return "", err
	}
	for _, st := range all { // under names that the metadata has made of ours
		if strings.HasSuffix(st.Ref, "/"+ingestRef(d)) {
			return filepath.Join(s.opt.Dir, "content", "ingest", digest.FromString(st.Ref).Encoded(), "data"), nil
		}
	}
	return "", fmt.Errorf("ingest of %s: %w", d, ErrNotFound)
}

// FollowBlob reads a piece of an image from an offset on, to serve another machine:
// one that is here, or one that is coming in, as it comes. What comes in is not
// verified before it is whole. size is that of all of it. A piece of which nothing
// is here, or less than offset, is ErrNotFound.
func (s *Store) FollowBlob(ctx context.Context, ref string, offset int64) (_ io.ReadCloser, size int64, err error) {
	d, err := parseDigest(ref)
	if err != nil {
		return nil, 0, err
	}
	growing, _ := s.growing.Load(d) // before the look at what is whole: it becomes so
	blob, size, err := s.OpenBlob(ctx, ref)
	switch {
	case err == nil && (offset < 0 || offset > size):
		return nil, 0, errors.Join(fmt.Errorf("blob %s is of %d bytes", d, size), blob.Close())
	case err == nil:
		return section{io.NewSectionReader(blob, offset, size-offset), blob}, size, nil
	case !errors.Is(err, ErrNotFound) || growing == nil:
		return nil, 0, err
	}
	g := growing.(*growth) //nolint:forcetypeassert // there is nothing else in it
	if g.mu.Lock(); offset < 0 || offset > g.n {
		defer g.mu.Unlock()
		return nil, 0, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	g.mu.Unlock()
	f, err := os.Open(g.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("blob %s: %w", d, ErrNotFound) // it moves just now
	}
	if err != nil {
		return nil, 0, err
	}
	return &follower{ctx: ctx, growth: g, file: f, at: offset}, g.size, nil
}

type section struct {
	*io.SectionReader
	io.Closer
}

// A follower reads what comes in.
type follower struct {
	ctx    context.Context // of FollowBlob, for as long as it is read
	growth *growth
	file   *os.File
	at     int64
}

func (f *follower) Read(p []byte) (int, error) {
	to, err := f.growth.upTo(f.ctx, f.at)
	if err != nil {
		return 0, err
	}
	n, err := f.file.ReadAt(p[:min(int64(len(p)), to-f.at)], f.at)
	f.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *follower) Close() error { return f.file.Close() }
