package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// gated lets a peer's bytes through one portion at a time.
type gated struct {
	*peer
	layer string
	step  chan int // how many bytes may come; closed: all, negative: it breaks off
}

func (g *gated) Blob(ctx context.Context, d Descriptor, offset int64) (io.ReadCloser, error) {
	r, err := g.peer.Blob(ctx, d, offset)
	if err != nil || d.Digest != g.layer {
		return r, err
	}
	return &gate{ReadCloser: r, g: g}, nil
}

type gate struct {
	io.ReadCloser
	g    *gated
	left int
}

func (g *gate) Read(p []byte) (int, error) {
	for g.left == 0 {
		n, open := <-g.g.step
		if !open {
			n = 1 << 30
		}
		if n < 0 {
			return 0, io.ErrUnexpectedEOF
		}
		g.left = n
	}
	n, err := g.ReadCloser.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// grown begins to fetch an image of one layer, of which the first bytes have come.
func grown(t *testing.T, first int) (s *Store, g *gated, whole []byte, done func() error) {
	t.Helper()
	from, desc := source(t, random(t, "data", 1<<20))
	tree, err := from.store.known(t.Context(), desc.Digest)
	must(t, err)
	g = &gated{peer: from, layer: tree.layers()[0].Digest.String(), step: make(chan int)}
	blob, size, err := from.store.OpenBlob(t.Context(), g.layer)
	must(t, err)
	defer blob.Close()
	whole, err = io.ReadAll(io.NewSectionReader(blob, 0, size))
	must(t, err)
	s = open(t, t.TempDir())
	s.again = 1
	var group errgroup.Group
	group.Go(func() error { return s.Fetch(t.Context(), "web:1", desc, g, nil) })
	g.step <- first
	g.step <- 1 // the first ones have been written
	return s, g, whole, group.Wait
}

func TestALayerIsGivenOnWhileItComes(t *testing.T) {
	const first = 300_000
	s, g, whole, done := grown(t, first)
	r, size, err := s.FollowBlob(t.Context(), g.layer, 100_000)
	must(t, err)
	defer r.Close()
	if size != int64(len(whole)) {
		t.Errorf("the layer is said to be of %d bytes, want %d", size, len(whole))
	}
	got := make([]byte, first-100_000)
	_, err = io.ReadFull(r, got)
	must(t, err)
	if _, _, err := s.FollowBlob(t.Context(), g.layer, 900_000); !errors.Is(err, ErrNotFound) {
		t.Errorf("what has not come yet: error %v, want %v", err, ErrNotFound)
	}
	close(g.step)
	rest, err := io.ReadAll(r)
	must(t, err)
	if !bytes.Equal(slices.Concat(got, rest), whole[100_000:]) {
		t.Error("what was given on is not the layer")
	}
	must(t, done())
	again, _, err := s.FollowBlob(t.Context(), g.layer, 10)
	must(t, err)
	defer again.Close()
	if got, err := io.ReadAll(again); !bytes.Equal(got, whole[10:]) || err != nil {
		t.Errorf("the whole layer: %d bytes, %v", len(got), err)
	}
}

func TestWhoFollowsLearnsThatItBrokeOff(t *testing.T) {
	s, g, _, done := grown(t, 300_000)
	r, _, err := s.FollowBlob(t.Context(), g.layer, 0)
	must(t, err)
	defer r.Close()
	g.step <- -1
	if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v, want %v", err, io.ErrUnexpectedEOF)
	}
	close(g.step)
	must(t, done())
}

func TestWhoFollowsMayLeave(t *testing.T) {
	s, g, _, done := grown(t, 300_000)
	ctx, cancel := context.WithCancel(t.Context())
	r, _, err := s.FollowBlob(ctx, g.layer, 300_000)
	must(t, err)
	defer r.Close()
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	close(g.step)
	must(t, done())
	if _, _, err := s.FollowBlob(t.Context(), digest.FromString("?").String(), 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("a blob that nobody knows: error %v, want %v", err, ErrNotFound)
	}
}
