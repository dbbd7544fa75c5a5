package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Imported is an image that an archive held, by one of its names.
type Imported struct {
	Reference string // in its familiar form
	Descriptor
	Parts []Descriptor // the blobs that it is made of
}

// A tarball is what an archive held: its blobs are in the content store already.
type tarball struct {
	index     []byte                        // index.json of an OCI layout
	manifests []byte                        // manifest.json of docker save
	blobs     map[string]ocispec.Descriptor // by path in the archive; no media types
	links     map[string]string             // symbolic links, by path, to a path
}

// Import takes in the images of an archive: what docker save writes, old or
// new, or an OCI layout in a tar; plain or compressed by gzip or zstd. It reads
// r once, to its end. Images for other platforms, images without a name and
// whatever else is in the archive are not kept. An *InvalidError refuses the
// archive as a whole.
func (s *Store) Import(ctx context.Context, r io.Reader) ([]Imported, error) {
	ctx, release, err := s.lease(s.context(ctx))
	if err != nil {
		return nil, err
	}
	defer release()
	stream, err := unpacked(r, s.opt.Limits.ImageBytes, s.opt.Limits.Ratio)
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	defer stream.Close()
	a, err := s.ingest(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	named, err := s.interpret(ctx, a)
	if err != nil {
		return nil, err
	}
	return s.keepNamed(ctx, named)
}

// keepNamed checks images whose parts came in, and gives them their names.
func (s *Store) keepNamed(ctx context.Context, named []naming) ([]Imported, error) {
	var list []Imported
	for _, n := range named {
		t, err := s.adopt(ctx, n.root)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", familiar(n.name), err)
		}
		if err := s.record(ctx, n.name, t); err != nil {
			return nil, err
		}
		list = append(list, Imported{Reference: familiar(n.name), Descriptor: Descriptor{
			Digest: t.root.Digest.String(), MediaType: t.root.MediaType, Size: t.size(),
		}, Parts: t.described()})
		s.log.Info("image imported", "image", familiar(n.name), "digest", t.root.Digest.String())
	}
	return list, nil
}

// adopt checks that an image whose blobs came in is whole, and keeps it so.
func (s *Store) adopt(ctx context.Context, root digest.Digest) (*tree, error) {
	t, err := s.walk(ctx, ocispec.Descriptor{Digest: root}, s.local)
	if err == nil {
		var gap digest.Digest
		if gap, err = s.missing(ctx, t); err == nil && gap != "" {
			err = fmt.Errorf("layer %s: %w", gap, ErrNotFound)
		}
	}
	if errors.Is(err, ErrNotFound) {
		return nil, invalid("the archive lacks a part: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return t, s.keep(ctx, t)
}

// ingest reads a tar to its end and keeps every blob in it.
func (s *Store) ingest(ctx context.Context, r io.Reader) (*tarball, error) {
	a := &tarball{blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			// What follows the tar's own end is padding, but its checksum, if
			// it is compressed, is further on still.
			if _, err := io.Copy(io.Discard, r); err != nil {
				return nil, err
			}
			return a, nil
		}
		if n == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return nil, errNoTar
		}
		if err != nil {
			return nil, asInvalid(err)
		}
		if n >= s.opt.Limits.Entries || len(h.Name)+len(h.Linkname) > s.opt.Limits.PathBytes {
			return nil, invalid("an archive of more than %d entries, or of names longer than %d", s.opt.Limits.Entries, s.opt.Limits.PathBytes)
		}
		if err := s.entry(ctx, a, h, tr); err != nil {
			return nil, fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

// errNoTar says what every reader of rubbish finds.
var errNoTar = &InvalidError{Err: errors.New("this is no tar, packed or not")}

// asInvalid marks what a reader of untrusted bytes says of them.
func asInvalid(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &InvalidError{Err: fmt.Errorf("damaged or cut short: %w", err)}
	}
	return err
}

func (s *Store) entry(ctx context.Context, a *tarball, h *tar.Header, r io.Reader) (err error) {
	name := path.Clean(h.Name)
	if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
		target := h.Linkname // of a hard link: from the top
		if h.Typeflag == tar.TypeSymlink {
			target = path.Join(path.Dir(name), target)
		}
		a.links[name] = path.Clean(target)
		return nil
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	switch name {
	case ocispec.ImageIndexFile:
		a.index, err = s.small(r, h.Size)
		return err
	case "manifest.json":
		a.manifests, err = s.small(r, h.Size)
		return err
	}
	want, is := blobDigest(name)
	if !is && !legacyBlob(name) {
		return nil
	}
	if len(a.blobs) >= s.opt.Limits.Entries {
		return invalid("more than %d blobs", s.opt.Limits.Entries)
	}
	d, err := s.write(ctx, r, h.Size, want)
	if err != nil {
		return asInvalid(err)
	}
	a.blobs[name] = ocispec.Descriptor{Digest: d, Size: h.Size}
	return nil
}

// blobDigest tells the digest that a path in an OCI layout promises.
func blobDigest(name string) (digest.Digest, bool) {
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	if !ok {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	return d, d.Validate() == nil
}

// legacyBlob tells whether an old docker save keeps layers or configurations
// under such a name.
func legacyBlob(name string) bool {
	if strings.HasPrefix(name, "blobs/") || name == "repositories" || name == ocispec.ImageLayoutFile {
		return false
	}
	return strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".json")
}

// small reads what must fit into memory.
func (s *Store) small(r io.Reader, size int64) ([]byte, error) {
	if size > s.opt.Limits.JSONBytes {
		return nil, invalid("is of %d bytes, %d are allowed", size, s.opt.Limits.JSONBytes)
	}
	data, err := io.ReadAll(io.LimitReader(r, size))
	return data, asInvalid(err)
}
