package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Blob is one piece of an image, open for reading.
type Blob interface {
	io.ReaderAt
	io.Closer
}

// OpenBlob opens a piece of an image, to serve another machine, and tells its
// size in bytes. A piece that is not whole and verified is not there:
// ErrNotFound.
func (s *Store) OpenBlob(ctx context.Context, digest string) (Blob, int64, error) {
	d, err := parseDigest(digest)
	if err != nil {
		return nil, 0, err
	}
	r, err := s.content.ReaderAt(s.context(ctx), ocispec.Descriptor{Digest: d})
	if errdefs.IsNotFound(err) {
		return nil, 0, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open blob %s: %w", d, err)
	}
	return r, r.Size(), nil
}

// Blobs lists the digests of all pieces that are here, of all images, in order.
func (s *Store) Blobs(ctx context.Context) ([]string, error) {
	var list []string
	err := s.content.Walk(s.context(ctx), func(info content.Info) error {
		list = append(list, info.Digest.String())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	slices.Sort(list)
	return list, nil
}

// write keeps size bytes of r as a blob and returns its digest, which must be
// want if that is not empty. A blob that is here already is not read.
func (s *Store) write(ctx context.Context, r io.Reader, size int64, want digest.Digest) (digest.Digest, error) {
	if err := s.opt.Limits.room(s.opt.Dir, size); err != nil {
		return "", err
	}
	ref := "import-" + strconv.FormatUint(s.serie.Add(1), 10)
	if want != "" {
		unlock, err := s.turns.lock(ctx, want.String())
		if err != nil {
			return "", err
		}
		defer unlock()
		ref = ingestRef(want)
	}
	w, err := s.content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Digest: want, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		return want, nil
	}
	if err != nil {
		return "", fmt.Errorf("begin a blob: %w", err)
	}
	defer w.Close()
	if err := fill(w, r, size); err != nil {
		return "", errors.Join(err, s.abort(ctx, ref))
	}
	return s.commit(ctx, w, ref, size, want)
}

// fill writes what an ingest still lacks of r, from its beginning.
func fill(w content.Writer, r io.Reader, size int64) error {
	st, err := w.Status()
	if err != nil {
		return err
	}
	if st.Offset == size {
		return nil // the bytes were here, their record was not
	}
	if st.Offset > 0 {
		if err := w.Truncate(0); err != nil {
			return err
		}
	}
	n, err := io.Copy(w, io.LimitReader(r, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// commit verifies a blob and makes it one. Bytes that are not what they should
// be are thrown away.
func (s *Store) commit(ctx context.Context, w content.Writer, ref string, size int64, want digest.Digest) (digest.Digest, error) {
	got := w.Digest()
	if want != "" && got != want {
		return "", errors.Join(invalid("blob %s is damaged: its digest is %s", want, got), s.abort(ctx, ref))
	}
	if err := w.Commit(ctx, size, want); err != nil && !errdefs.IsAlreadyExists(err) {
		return "", errors.Join(fmt.Errorf("keep blob %s: %w", got, err), s.abort(ctx, ref))
	}
	return got, nil
}

// writeJSON keeps a document of our own or one that was read whole.
func (s *Store) writeJSON(ctx context.Context, data []byte) (digest.Digest, error) {
	return s.write(ctx, bytes.NewReader(data), int64(len(data)), digest.FromBytes(data))
}

func ingestRef(d digest.Digest) string { return "blob-" + d.String() }

// abort throws away what was written so far.
func (s *Store) abort(ctx context.Context, ref string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := s.content.Abort(ctx, ref); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("throw away a blob: %w", err)
	}
	return nil
}
