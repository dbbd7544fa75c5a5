package image

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A tree is an image as this machine runs it: one manifest, perhaps out of an
// index, and what it is made of.
type tree struct {
	root     ocispec.Descriptor   // what the name means: the manifest itself or an index above it
	above    []ocispec.Descriptor // indexes from the root down, none without one
	manifest ocispec.Descriptor
	config   *configuration
	parts    []ocispec.Descriptor // the configuration, then the layers, lowest first
}

// size is in bytes as kept: manifest, configuration and layers.
func (t *tree) size() int64 {
	n := t.manifest.Size
	for _, p := range t.parts {
		n += p.Size
	}
	return n
}

// described are the blobs of the image.
func (t *tree) described() []Descriptor {
	out := make([]Descriptor, 0, len(t.parts))
	for _, p := range t.parts {
		out = append(out, described(p))
	}
	return out
}

func (t *tree) layers() []ocispec.Descriptor { return t.parts[1:] }

// maxDepth is how many indexes may stand above one another.
const maxDepth = 3

// A reader returns a small blob whole, of at most Limits.JSONBytes. Of d the
// digest counts, and the media type as far as it is known.
type reader func(ctx context.Context, d ocispec.Descriptor) ([]byte, error)

// walk finds this platform's image below root, reading by read. Layers are not
// looked at.
func (s *Store) walk(ctx context.Context, root ocispec.Descriptor, read reader) (*tree, error) {
	t, err := s.descend(ctx, root, nil, read)
	if err != nil {
		return nil, err
	}
	t.root = t.manifest
	if len(t.above) > 0 {
		t.root = t.above[0]
	}
	return t, nil
}

var errPlatform = errors.New("no image for " + platforms.Format(platforms.DefaultSpec()))

func (s *Store) descend(ctx context.Context, at ocispec.Descriptor, above []ocispec.Descriptor, read reader) (*tree, error) {
	if !images.IsIndexType(at.MediaType) && !images.IsManifestType(at.MediaType) {
		at.MediaType = ocispec.MediaTypeImageManifest // whatever it says: it is looked for among those
	}
	data, err := read(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", at.Digest, err)
	}
	doc, err := parseDocument(data, s.opt.Limits)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", at.Digest, err)
	}
	at = ocispec.Descriptor{Digest: at.Digest, Size: int64(len(data)), MediaType: doc.mediaType()}
	if !doc.isIndex() {
		return s.leaf(ctx, at, doc, above, read)
	}
	if len(above) == maxDepth {
		return nil, invalid("index within an index within an index")
	}
	above = append(above, at)
	var refused error
	for _, m := range doc.pick() {
		t, err := s.descend(ctx, m, above, read)
		if wrong := (*InvalidError)(nil); !errors.As(err, &wrong) {
			return t, err
		}
		// Signatures and the like hang in an index too, as images of no platform.
		if refused == nil || errors.Is(refused, errPlatform) {
			refused = err
		}
	}
	if refused != nil {
		return nil, refused
	}
	return nil, &InvalidError{Err: errPlatform}
}

func (s *Store) leaf(ctx context.Context, at ocispec.Descriptor, doc *document, above []ocispec.Descriptor, read reader) (*tree, error) {
	data, err := read(ctx, *doc.Config)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", doc.Config.Digest, err)
	}
	cfg, err := parseConfiguration(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", doc.Config.Digest, err)
	}
	if len(cfg.diffs) != len(doc.Layers) {
		return nil, invalid("configuration %s tells of %d layers, the manifest of %d", doc.Config.Digest, len(cfg.diffs), len(doc.Layers))
	}
	t := &tree{above: above, manifest: at, config: cfg}
	for _, p := range append([]ocispec.Descriptor{*doc.Config}, doc.Layers...) {
		// Annotations and addresses that others put here mean nothing to us.
		t.parts = append(t.parts, ocispec.Descriptor{Digest: p.Digest, Size: p.Size, MediaType: p.MediaType})
	}
	t.parts[0].Size = int64(len(data))
	return t, nil
}

// local reads a small blob that this machine has.
func (s *Store) local(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	d := desc.Digest
	info, err := s.content.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if info.Size > s.opt.Limits.JSONBytes {
		return nil, invalid("%s is of %d bytes, %d are allowed", d, info.Size, s.opt.Limits.JSONBytes)
	}
	data, err := content.ReadBlob(ctx, s.content, ocispec.Descriptor{Digest: d, Size: info.Size})
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return data, nil
}

// missing returns the first layer that this machine does not have, if any.
func (s *Store) missing(ctx context.Context, t *tree) (digest.Digest, error) {
	for _, l := range t.layers() {
		info, err := s.content.Info(ctx, l.Digest)
		switch {
		case errdefs.IsNotFound(err):
			return l.Digest, nil
		case err != nil:
			return "", err
		case info.Size != l.Size:
			return "", invalid("layer %s has %d bytes where the manifest says %d", l.Digest, info.Size, l.Size)
		}
	}
	return "", nil
}

// keep makes what a tree is made of live as long as its root does.
func (s *Store) keep(ctx context.Context, t *tree) error {
	chain := append(t.above[:len(t.above):len(t.above)], t.manifest)
	for i, d := range chain[:len(chain)-1] {
		if err := s.refer(ctx, d.Digest, chain[i+1:i+2], "m."); err != nil {
			return err
		}
	}
	return s.refer(ctx, t.manifest.Digest, t.parts, "p.")
}

// refer tells garbage collection that one blob needs others.
func (s *Store) refer(ctx context.Context, from digest.Digest, to []ocispec.Descriptor, kind string) error {
	info := content.Info{Digest: from, Labels: map[string]string{}}
	var fields []string
	for i, d := range to {
		name := labelRefContent + kind + strconv.Itoa(i)
		if kind == "m." { // more than one platform may come to hang here, in time
			name = labelRefContent + kind + d.Digest.Encoded()
		}
		info.Labels[name] = d.Digest.String()
		fields = append(fields, "labels."+name)
	}
	if len(fields) == 0 {
		return nil
	}
	if _, err := s.content.Update(ctx, info, fields...); err != nil {
		return fmt.Errorf("keep what %s needs: %w", from, err)
	}
	return nil
}

// Labels by which containerd's garbage collection finds its way.
const (
	labelRoot        = "containerd.io/gc.root"
	labelRefContent  = "containerd.io/gc.ref.content."
	labelRefSnapshot = "containerd.io/gc.ref.snapshot." + snapshotter
)
