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

// A Fetcher gives pieces of images: a registry, or other machines' stores, by
// whatever way the owner has to them. It is not trusted.
type Fetcher interface {
	// Blob reads the blob that d names from offset, in bytes, to its end. Of d
	// the digest counts; size and media type are there as far as they are known.
	// ctx is good until the reader is closed. An error that is a Refusal, and a
	// reader that is a Label, are heard.
	Blob(ctx context.Context, d Descriptor, offset int64) (io.ReadCloser, error)
}

// A Refusal is a Fetcher's error that tells whether to ask once more, and how long
// to wait before.
type Refusal interface {
	error
	Again() (after time.Duration, ok bool)
}

// A Label is a reader that tells where its bytes come from, for people.
type Label interface{ From() string }

// A Rejecter is a Fetcher that is told when a blob it gave was not what it should
// have been, so that it gives the next one from elsewhere.
type Rejecter interface{ Reject(d Descriptor) }

// layersAtOnce is how many layers of one image travel at the same time.
const layersAtOnce = 3

var errStalled = errors.New("nothing came for too long")

// Fetch brings an image here, as far as it is not here already, checks each
// piece by its digest, unpacks it and then gives the image its name. Of desc the
// digest and the media type count. A layer that broke off goes on where it ended,
// in this call or a later one. Each layer is unpacked as soon as it and those
// below it are here. watch, which may be nil, is told how far it is.
func (s *Store) Fetch(ctx context.Context, ref string, desc Descriptor, from Fetcher, watch *Progress) error {
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
	t, err := s.walk(ctx, ocispec.Descriptor{Digest: root, MediaType: desc.MediaType}, func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
		return s.fetchSmall(ctx, d, from)
	})
	if err != nil {
		return err
	}
	if err := s.fetchLayers(plain, ctx, t, from, watch); err != nil {
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

// fetchLayers brings the layers of an image here and unpacks them, both at the
// same time.
func (s *Store) fetchLayers(plain, leased context.Context, t *tree, from Fetcher, watch *Progress) error {
	watch.expect(t.layers())
	work, inner := errgroup.WithContext(plain)
	ready := make([]chan struct{}, len(t.layers()))
	for i := range ready {
		ready[i] = make(chan struct{})
	}
	work.Go(func() error {
		return s.unpack(held(inner, leased), t, func(i int) error {
			select {
			case <-ready[i]:
				return nil
			case <-inner.Done():
				return context.Cause(inner)
			}
		}, watch)
	})
	turns := make(chan struct{}, layersAtOnce)
	for i, layer := range t.layers() {
		select {
		case turns <- struct{}{}:
		case <-inner.Done():
		}
		if inner.Err() != nil {
			break
		}
		work.Go(func() error {
			defer func() { <-turns }()
			if err := s.fetchLayer(inner, held(inner, leased), layer, from, watch); err != nil {
				return fmt.Errorf("layer %s: %w", layer.Digest, err)
			}
			close(ready[i])
			return nil
		})
	}
	return work.Wait()
}

// fetchSmall returns a manifest or a configuration, having brought it here.
func (s *Store) fetchSmall(ctx context.Context, d ocispec.Descriptor, from Fetcher) ([]byte, error) {
	data, err := s.local(ctx, d)
	if err == nil {
		_, err = s.writeJSON(ctx, data) // it is here: this puts it under our lease
		return data, err
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	limit := s.opt.Limits.JSONBytes
	err = s.persist(ctx, from, d, func() (progressed bool, err error) {
		err = s.pull(ctx, from, d, 0, nil, func(r io.Reader) error {
			data, err = io.ReadAll(io.LimitReader(r, limit+1))
			return err
		})
		if err != nil {
			return false, err
		}
		if int64(len(data)) > limit {
			return false, invalid("is of more than %d bytes", limit)
		}
		if got := digest.FromBytes(data); got != d.Digest {
			return false, invalid("came damaged: its digest is %s", got)
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	_, err = s.writeJSON(ctx, data)
	return data, err
}

// fetchLayer brings one layer here, unless somebody else just did. The layer is
// held by leased's lease; what there is of it until it is whole is not, so that
// it outlives this attempt by the day that containerd gives it.
func (s *Store) fetchLayer(ctx, leased context.Context, layer ocispec.Descriptor, from Fetcher, watch *Progress) error {
	unlock, err := s.turns.lock(ctx, layer.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	if there, err := s.holdBlob(leased, layer.Digest); there || err != nil {
		watch.at(layer.Digest, StateHere, layer.Size, "")
		return err
	}
	return s.persist(ctx, from, layer, func() (bool, error) { return s.fetchOnce(ctx, leased, layer, from, watch) })
}

// fetchOnce goes on with a layer where the last attempt ended, and tells whether
// anything came.
func (s *Store) fetchOnce(ctx, leased context.Context, layer ocispec.Descriptor, from Fetcher, watch *Progress) (progressed bool, err error) {
	ref := ingestRef(layer.Digest)
	w, err := s.content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(layer))
	if err != nil {
		return false, fmt.Errorf("begin a blob: %w", err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, err
	}
	if err := s.opt.Limits.room(s.opt.Dir, layer.Size-st.Offset); err != nil {
		return false, err
	}
	g, err := s.begin(ctx, layer.Digest, st.Offset, layer.Size)
	if err != nil {
		return false, err
	}
	defer func() {
		g.end(err)
		s.growing.CompareAndDelete(layer.Digest, g)
	}()
	if st.Offset < layer.Size {
		meter := watch.meter(layer.Digest, st.Offset)
		meter.growth = g
		err := s.pull(ctx, from, layer, st.Offset, meter, func(r io.Reader) error {
			return fillRest(io.MultiWriter(w, meter), r, st.Offset, layer.Size)
		})
		if err != nil {
			// What came so far is kept: the next attempt goes on from there.
			return meter.done() > st.Offset, err
		}
	}
	_, err = s.commit(leased, w, ref, layer.Size, layer.Digest)
	if err == nil {
		watch.at(layer.Digest, StateHere, layer.Size, "")
	}
	return false, err
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

const (
	// attempts is how many times in a row a blob may bring nothing until Fetch
	// gives up.
	attempts = 4
	// againAfter is how long it waits the first time, and twice as long each time.
	againAfter = 250 * time.Millisecond
	// againMost is the longest that a Fetcher may have it wait.
	againMost = 10 * time.Second
)

// persist tries until what it is to do is done, is in vain, or has failed several
// times in a row without anything having come.
func (s *Store) persist(ctx context.Context, from Fetcher, d ocispec.Descriptor, try func() (progressed bool, err error)) error {
	wait := s.again
	for n := 1; ; n++ {
		progressed, err := try()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if progressed {
			n, wait = 0, s.again
		}
		pause := wait
		var refusal Refusal
		var wrong *InvalidError
		var room *SpaceError
		switch rejecter, ok := from.(Rejecter); {
		case errors.As(err, &room):
			return err
		case errors.As(err, &wrong) && !ok:
			return err
		case errors.As(err, &wrong):
			rejecter.Reject(described(d))
		case errors.As(err, &refusal):
			after, again := refusal.Again()
			if !again || after > againMost {
				return err
			}
			pause = max(pause, after)
		}
		if n >= attempts {
			return err
		}
		s.log.Debug("a blob broke off", "digest", d.Digest.String(), "in", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		wait *= 2
	}
}

func described(d ocispec.Descriptor) Descriptor {
	return Descriptor{Digest: d.Digest.String(), MediaType: d.MediaType, Size: d.Size}
}

// pull reads a blob by read, and gives whoever sends it up when it stalls.
func (s *Store) pull(ctx context.Context, from Fetcher, d ocispec.Descriptor, offset int64, meter *meterTo, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.opt.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	r, err := from.Blob(ctx, described(d), offset)
	if err == nil {
		if label, ok := r.(Label); ok {
			meter.from(label.From())
		}
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
