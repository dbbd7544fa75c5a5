package image

import (
	"context"
	"fmt"
	"io"
	"path"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Entry is one file of an archive as Import takes it, of which the bytes may
// come later, or be here.
type Entry struct {
	Name     string
	Size     int64
	Digest   string // of its bytes, "" of a link
	Link     string // of a link: its target, as the tar has it
	Symbolic bool
	Data     []byte // all of it, of index.json and manifest.json
}

// A Push is an archive that comes in piece by piece, of which only those are
// wanted that are not here. It is for one caller at a time; Close it.
type Push struct {
	store   *Store
	ctx     context.Context // with the lease that keeps what is here
	release func()
	archive *tarball
	entries []Entry
	lacks   map[int]digest.Digest
}

// BeginPush reads the list of an archive's files. An *InvalidError refuses it.
func (s *Store) BeginPush(ctx context.Context, entries []Entry) (_ *Push, err error) {
	if len(entries) > s.opt.Limits.Entries {
		return nil, invalid("an archive of more than %d entries", s.opt.Limits.Entries)
	}
	ctx, release, err := s.lease(s.context(ctx))
	if err != nil {
		return nil, err
	}
	p := &Push{
		store: s, ctx: ctx, release: release, entries: entries, lacks: map[int]digest.Digest{},
		archive: &tarball{blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}},
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	var sum int64
	for i, e := range entries {
		if sum += e.Size; e.Size < 0 || sum > s.opt.Limits.ImageBytes {
			return nil, invalid("an archive of more than %d bytes", s.opt.Limits.ImageBytes)
		}
		if err := p.entry(i, e); err != nil {
			return nil, fmt.Errorf("%.200q: %w", e.Name, err)
		}
	}
	return p, nil
}

func (p *Push) entry(i int, e Entry) error {
	name := path.Clean(e.Name)
	if len(e.Name)+len(e.Link) > p.store.opt.Limits.PathBytes {
		return invalid("a name of more than %d bytes", p.store.opt.Limits.PathBytes)
	}
	if e.Link != "" {
		target := e.Link
		if e.Symbolic {
			target = path.Join(path.Dir(name), target)
		}
		p.archive.links[name] = path.Clean(target)
		return nil
	}
	switch name {
	case ocispec.ImageIndexFile, "manifest.json":
		if int64(len(e.Data)) > p.store.opt.Limits.JSONBytes {
			return invalid("is of %d bytes, %d are allowed", len(e.Data), p.store.opt.Limits.JSONBytes)
		}
		if name == "manifest.json" {
			p.archive.manifests = e.Data
		} else {
			p.archive.index = e.Data
		}
		return nil
	}
	want, is := blobDigest(name)
	if !is && !legacyBlob(name) {
		return nil
	}
	d, err := parseDigest(e.Digest)
	if err != nil {
		return err
	}
	if is && d != want {
		return invalid("it is %s", d)
	}
	p.archive.blobs[name] = ocispec.Descriptor{Digest: d, Size: e.Size}
	there, err := p.store.holdBlob(p.ctx, d)
	if err == nil && !there {
		p.lacks[i] = d
	}
	return err
}

// Lacks lists those files that are to come, each digest once.
func (p *Push) Lacks() []int {
	seen := map[digest.Digest]bool{}
	var out []int
	for i := range p.entries {
		if d, ok := p.lacks[i]; ok && !seen[d] {
			seen[d] = true
			out = append(out, i)
		}
	}
	return out
}

// Take takes a file in, and checks it by its digest.
func (p *Push) Take(i int, r io.Reader) error {
	d, ok := p.lacks[i]
	if !ok {
		return invalid("file %d was not asked for", i)
	}
	if _, err := p.store.write(p.ctx, r, p.entries[i].Size, d); err != nil {
		return fmt.Errorf("%.200q: %w", p.entries[i].Name, asInvalid(err))
	}
	return nil
}

// Finish gives the images of the archive their names once all is here. ref, which
// may be empty, is what the one image that is meant is to be called: the one of
// this name in the archive, or the only one.
func (p *Push) Finish(ref string) ([]Imported, error) {
	named, err := p.store.interpret(p.ctx, p.archive)
	if err != nil {
		return nil, err
	}
	if ref != "" {
		if named, err = meant(named, ref); err != nil {
			return nil, err
		}
	}
	return p.store.keepNamed(p.ctx, named)
}

// meant picks the image that a reference means, and calls it so.
func meant(named []naming, ref string) ([]naming, error) {
	name, err := tagged(ref)
	if err != nil {
		return nil, err
	}
	roots := map[digest.Digest]bool{}
	for _, n := range named {
		if n.name == name {
			return []naming{n}, nil
		}
		roots[n.root] = true
	}
	if len(roots) > 1 {
		return nil, invalid("none of the archive's %d images is called %s", len(roots), familiar(name))
	}
	return []naming{{name: name, root: named[0].root}}, nil
}

// Close lets go of what is not part of an image.
func (p *Push) Close() { p.release() }
