package image

import (
	"encoding/json"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A document is an index or a manifest, which one reads without knowing yet
// which of the two it is.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType,omitempty"`
	Manifests     []ocispec.Descriptor `json:"manifests,omitempty"`
	Config        *ocispec.Descriptor  `json:"config,omitempty"`
	Layers        []ocispec.Descriptor `json:"layers,omitempty"`
}

func (d *document) isIndex() bool { return d.Config == nil }

// mediaType names what the document is, whatever whoever pointed here said.
func (d *document) mediaType() string {
	switch {
	case d.MediaType != "":
		return d.MediaType
	case d.isIndex():
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

// parseDocument reads an index or a manifest and checks all that can be checked
// without looking further. What could be read as both is refused: two programs
// must not see two images in the same bytes.
func parseDocument(data []byte, l Limits) (*document, error) {
	d := new(document)
	if err := json.Unmarshal(data, d); err != nil {
		return nil, invalid("no image manifest: %w", err)
	}
	switch {
	case d.SchemaVersion != 2:
		return nil, invalid("no image manifest of schema version 2")
	case d.Config != nil && d.Manifests != nil, d.Config == nil && d.Layers != nil:
		return nil, invalid("neither an index nor a manifest but something of both")
	case d.isIndex() && d.MediaType != "" && !images.IsIndexType(d.MediaType),
		!d.isIndex() && d.MediaType != "" && !images.IsManifestType(d.MediaType):
		return nil, invalid("manifest says it is %q, which it is not", d.MediaType)
	case len(d.Manifests) > l.Manifests:
		return nil, invalid("index of %d manifests, %d are allowed", len(d.Manifests), l.Manifests)
	case len(d.Layers) > l.Layers:
		return nil, invalid("image of %d layers, %d are allowed", len(d.Layers), l.Layers)
	}
	parts := slices.Concat(d.Manifests, d.Layers)
	if d.Config != nil {
		parts = append(parts, *d.Config)
	}
	var sum int64
	for _, p := range parts {
		if _, err := parseDigest(p.Digest.String()); err != nil {
			return nil, err
		}
		if p.Size < 0 || p.Size > l.ImageBytes {
			return nil, invalid("%s claims %d bytes, %d are allowed", p.Digest, p.Size, l.ImageBytes)
		}
		sum += p.Size
	}
	if sum > l.ImageBytes {
		return nil, invalid("image of %d bytes, %d are allowed", sum, l.ImageBytes)
	}
	return d, d.checkLayers()
}

func (d *document) checkLayers() error {
	if d.isIndex() {
		return nil
	}
	for _, layer := range d.Layers {
		if !layerTypes[layer.MediaType] {
			return invalid("layer %s is of type %q, which is no layer of a container image", layer.Digest, layer.MediaType)
		}
	}
	return nil
}

// layerTypes are those a file system is made of. How a layer is compressed, its
// first bytes tell.
var layerTypes = map[string]bool{
	ocispec.MediaTypeImageLayer:            true,
	ocispec.MediaTypeImageLayerGzip:        true,
	ocispec.MediaTypeImageLayerZstd:        true,
	images.MediaTypeDockerSchema2Layer:     true,
	images.MediaTypeDockerSchema2LayerGzip: true,
	images.MediaTypeDockerSchema2LayerZstd: true,
}

// thisPlatform matches what this machine's processor and kernel can run.
var thisPlatform = platforms.Only(platforms.DefaultSpec())

// pick returns the manifests of an index that this machine could run, the best
// first. Those that name no platform come last: their configuration tells.
func (d *document) pick() []ocispec.Descriptor {
	var fit, unnamed []ocispec.Descriptor
	for _, m := range d.Manifests {
		switch {
		case m.Platform == nil:
			unnamed = append(unnamed, m)
		case thisPlatform.Match(*m.Platform):
			fit = append(fit, m)
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case thisPlatform.Less(*a.Platform, *b.Platform):
			return -1
		case thisPlatform.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return append(fit, unnamed...)
}
