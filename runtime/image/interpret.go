package image

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A naming is a name that an archive gives to an image.
type naming struct {
	name string // in full
	root digest.Digest
}

// interpret finds the names in an archive. An archive that speaks both ways, as
// docker save does now, is believed as an OCI layout, if that gives names.
func (s *Store) interpret(ctx context.Context, a *tarball) ([]naming, error) {
	var named []naming
	var err error
	if a.index != nil {
		if named, err = s.fromLayout(a); err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
	}
	if len(named) == 0 && a.manifests != nil {
		if named, err = s.fromDocker(ctx, a); err != nil {
			return nil, fmt.Errorf("manifest.json: %w", err)
		}
	}
	switch {
	case a.index == nil && a.manifests == nil:
		return nil, invalid("no archive of images: neither index.json of an OCI layout nor manifest.json of docker save is in it")
	case len(named) == 0:
		return nil, invalid("the archive names none of its images: save them by name, as in \"docker save NAME:TAG\"")
	}
	return named, nil
}

func (s *Store) fromLayout(a *tarball) ([]naming, error) {
	doc, err := parseDocument(a.index, s.opt.Limits)
	if err != nil {
		return nil, err
	}
	if !doc.isIndex() {
		return nil, invalid("is no index")
	}
	var named []naming
	for _, m := range doc.Manifests {
		ref := m.Annotations[images.AnnotationImageName]
		if tag := m.Annotations[ocispec.AnnotationRefName]; ref == "" && strings.ContainsAny(tag, "/:") {
			ref = tag // a tag alone names nothing; some write it in full
		}
		if ref == "" {
			continue
		}
		name, err := tagged(ref)
		if err != nil {
			return nil, err
		}
		named = append(named, naming{name: name, root: m.Digest})
	}
	return named, nil
}

// tagged returns the full form of a name under which an image can be kept.
func tagged(ref string) (string, error) {
	named, err := parse(ref)
	if err != nil {
		return "", err
	}
	if _, pinned := named.(reference.Digested); pinned {
		return "", invalid("%q names an image by its digest, which is no name of its own", ref)
	}
	return named.String(), nil
}

// saved is one image in the manifest.json of docker save.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (s *Store) fromDocker(ctx context.Context, a *tarball) ([]naming, error) {
	var list []saved
	if err := json.Unmarshal(a.manifests, &list); err != nil {
		return nil, &InvalidError{Err: err}
	}
	if len(list) > s.opt.Limits.Manifests {
		return nil, invalid("%d images, %d are allowed", len(list), s.opt.Limits.Manifests)
	}
	var named []naming
	for _, img := range list {
		if len(img.RepoTags) == 0 {
			continue
		}
		root, err := s.manifestOf(ctx, a, img)
		if err != nil {
			return nil, err
		}
		for _, ref := range img.RepoTags {
			name, err := tagged(ref)
			if err != nil {
				return nil, err
			}
			named = append(named, naming{name: name, root: root})
		}
	}
	return named, nil
}

// manifestOf writes the manifest that docker save leaves out. Equal images get
// equal manifests, whoever imports them.
func (s *Store) manifestOf(ctx context.Context, a *tarball, img saved) (digest.Digest, error) {
	if len(img.Layers) > s.opt.Limits.Layers {
		return "", invalid("image of %d layers, %d are allowed", len(img.Layers), s.opt.Limits.Layers)
	}
	config, err := a.blob(img.Config)
	if err != nil {
		return "", err
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	doc := document{SchemaVersion: 2, MediaType: ocispec.MediaTypeImageManifest, Config: &config}
	for _, name := range img.Layers {
		layer, err := a.blob(name)
		if err != nil {
			return "", err
		}
		if layer.MediaType, err = s.layerType(ctx, layer); err != nil {
			return "", err
		}
		doc.Layers = append(doc.Layers, layer)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return "", err
	}
	return s.writeJSON(ctx, data)
}

// blob finds a path of the archive, through one link at most.
func (a *tarball) blob(name string) (ocispec.Descriptor, error) {
	name = path.Clean(name)
	d, ok := a.blobs[name]
	if !ok {
		d, ok = a.blobs[a.links[name]]
	}
	if !ok {
		return d, invalid("the archive lacks %.200q", name)
	}
	return d, nil
}

func (s *Store) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	blob, size, err := s.OpenBlob(ctx, d.Digest.String())
	if err != nil {
		return "", err
	}
	defer blob.Close()
	head := make([]byte, min(size, magicBytes))
	if _, err := blob.ReadAt(head, 0); err != nil && int64(len(head)) < size {
		return "", fmt.Errorf("look at layer %s: %w", d.Digest, err)
	}
	return detect(head).mediaType(), nil
}
