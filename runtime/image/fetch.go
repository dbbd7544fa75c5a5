package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A Fetcher gives pieces of images: another machine's store, by whatever way
// the owner has to it. It is not trusted.
type Fetcher interface {
	// Blob reads the blob with this digest from offset, in bytes, to its end.
	// ctx is good until the reader is closed.
	Blob(ctx context.Context, digest string, offset int64) (io.ReadCloser, error)
}

// layersAtOnce is how many layers of one image travel at the same time.
const layersAtOnce = 3

var errStalled = errors.New("nothing came for too long")

// Fetch brings an image here, as far as it is not here already, checks each
// piece by its digest and then gives the image its name. Of desc the digest
// alone counts. A layer that broke off goes on where it ended, from whichever
// peer comes next.
func (s *Store) Fetch(ctx context.Context, ref string, desc Descriptor, from Fetcher) error {
	named, err := parse(ref)
	if err != nil {
		return err
	}
	root, err := parseDigest(desc.Digest)
	if err != nil {
		return err
	}
	if pinned, ok := named.(reference.Digested); ok && pinned.Digest() != root {
		return invalid("%s is not %s", reference.FamiliarString(named), root)
	}
	plain := s.context(ctx)
	ctx, release, err := s.lease(plain)
	if err != nil {
		return err
	}
	defer release()
	t, err := s.walk(ctx, root, func(ctx context.Context, d digest.Digest) ([]byte, error) {
		return s.fetchSmall(ctx, d, from)
	})
	if err != nil {
		return err
	}
	work, inner := errgroup.WithContext(plain)
	work.SetLimit(layersAtOnce)
	for _, layer := range t.layers() {
		work.Go(func() error {
			if err := s.fetchLayer(inner, held(inner, ctx), layer, from); err != nil {
				return fmt.Errorf("layer %s: %w", layer.Digest, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	if err := s.keep(ctx, t); err != nil {
		return err
	}
	if err := s.record(ctx, named.String(), t); err != nil {
		return err
	}
	s.log.Info("image fetched", "image", reference.FamiliarString(named), "digest", root.String())
	return nil
}

// fetchSmall returns a manifest or a configuration, having brought it here.
func (s *Store) fetchSmall(ctx context.Context, d digest.Digest, from Fetcher) ([]byte, error) {
	data, err := s.local(ctx, d)
	if err == nil {
		_, err = s.writeJSON(ctx, data) // it is here: this puts it under our lease
		return data, err
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	limit := s.opt.Limits.JSONBytes
	if err := s.pull(ctx, from, d, 0, func(r io.Reader) error {
		data, err = io.ReadAll(io.LimitReader(r, limit+1))
		return err
	}); err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, invalid("is of more than %d bytes", limit)
	}
	if got := digest.FromBytes(data); got != d {
		return nil, invalid("came damaged: its digest is %s", got)
	}
	_, err = s.writeJSON(ctx, data)
	return data, err
}

// fetchLayer brings one layer here, unless somebody else just did. The layer is
// held by leased's lease; what there is of it until it is whole is not, so that
// it outlives this attempt by the day that containerd gives it.
func (s *Store) fetchLayer(ctx, leased context.Context, layer ocispec.Descriptor, from Fetcher) error {
	unlock, err := s.turns.lock(ctx, layer.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	if there, err := s.holdBlob(leased, layer.Digest); there || err != nil {
		return err
	}
	ref := ingestRef(layer.Digest)
	w, err := s.content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(layer))
	if err != nil {
		return fmt.Errorf("begin a blob: %w", err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return err
	}
	if err := s.opt.Limits.room(s.opt.Dir, layer.Size-st.Offset); err != nil {
		return err
	}
	if st.Offset < layer.Size {
		err := s.pull(ctx, from, layer.Digest, st.Offset, func(r io.Reader) error {
			return fillRest(w, r, st.Offset, layer.Size)
		})
		if err != nil {
			return err // what came so far is kept: the next attempt goes on from there
		}
	}
	_, err = s.commit(leased, w, ref, layer.Size, layer.Digest)
	return err
}

func fillRest(w io.Writer, r io.Reader, offset, size int64) error {
	n, err := io.Copy(w, io.LimitReader(r, size-offset))
	switch {
	case err != nil:
		return fmt.Errorf("broke off after %d of %d bytes: %w", offset+n, size, err)
	case offset+n < size:
		return fmt.Errorf("broke off after %d of %d bytes: %w", offset+n, size, io.ErrUnexpectedEOF)
	}
	return nil
}

// pull reads a blob from a peer by read, and gives the peer up when it stalls.
func (s *Store) pull(ctx context.Context, from Fetcher, d digest.Digest, offset int64, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.opt.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	r, err := from.Blob(ctx, d.String(), offset)
	if err == nil {
		err = errors.Join(read(&lively{ctx: ctx, r: r, watch: watch, stall: s.opt.Stall}), r.Close())
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// lively puts the watch off whenever something comes.
type lively struct {
	ctx   context.Context // pull's own, for as long as it reads
	r     io.Reader
	watch *time.Timer
	stall time.Duration
}

func (l *lively) Read(p []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := l.r.Read(p)
	if n > 0 {
		l.watch.Reset(l.stall)
	}
	return n, err
}
