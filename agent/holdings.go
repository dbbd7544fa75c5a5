package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/image"
)

// Held lists the images of this machine.
func (i *images) Held(ctx context.Context) ([]image.Image, error) { return i.store.List(ctx) }

// Forget takes all names of an image away.
func (i *images) Forget(ctx context.Context, img image.Image) error {
	var errs []error
	for _, ref := range img.References {
		if err := i.store.Remove(ctx, ref); err != nil && !errors.Is(err, image.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	i.touched()
	return errors.Join(errs...)
}

// Sole tells whether nobody else could give an image: the cluster means it by a
// name that no registry knows, and no other machine that is there says it has it.
func (i *images) Sole(digest string) bool {
	imported := false
	for _, row := range i.agent.replica.Store().List(object.KindImage, "", "") {
		img, err := object.Decode[object.Image](row)
		imported = imported || err != nil || img.Spec.Digest == digest && !img.Spec.Registry
	}
	if !imported {
		return false
	}
	for _, name := range i.holders(object.ImageSpec{Digest: digest}) {
		if i.agent.isAlive(name) {
			return false
		}
	}
	return true
}

// DiskUsed is the share of the disk of the data directory that is in use.
func (i *images) DiskUsed() (float64, error) { return share(i.agent.sampler.load().Disk), nil }

// holdings are this machine's images for people.
type holdings struct{ agent *Agent }

// Familiar is how people call an image.
func (holdings) Familiar(ref string) (string, error) { return image.Familiar(ref) }

// Holds lists what is here, with its layers.
func (h holdings) Holds(ctx context.Context) ([]*skeinv1.HeldImage, error) {
	list, err := h.agent.store.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*skeinv1.HeldImage, 0, len(list))
	for _, img := range list {
		held := &skeinv1.HeldImage{Image: entryOf(img)}
		parts, err := h.agent.store.Parts(ctx, img.Digest)
		if err != nil && !errors.Is(err, image.ErrNotFound) {
			return nil, err
		}
		for _, p := range parts {
			held.Blobs = append(held.Blobs, &skeinv1.HeldBlob{Digest: p.Digest, Size: p.Size})
		}
		out = append(out, held)
	}
	return out, nil
}

func entryOf(img image.Image) *skeinv1.ImageEntry {
	return &skeinv1.ImageEntry{References: img.References, Digest: img.Digest, Size: img.Size, UsedUnix: img.Used.Unix()}
}

// PullHere brings an image here.
func (h holdings) PullHere(ctx context.Context, ref string, tell func(*skeinv1.ImagePull) error) error {
	return h.agent.node.Pull(ctx, ref, func(p node.Pull) error { return tell(pullOf(h.agent.cfg.Name, p)) })
}

// GiveUp takes images away.
func (h holdings) GiveUp(ctx context.Context, req *skeinv1.GiveUpImagesRequest) ([]*skeinv1.ImageEntry, error) {
	keep := map[string]bool{}
	for _, ref := range req.GetKeep() {
		keep[ref] = true
	}
	list, err := h.agent.node.GiveUp(ctx, node.GiveUp{
		References: req.GetReferences(), Keep: keep, All: req.GetAll(), DryRun: req.GetDryRun(),
		OlderThan: time.Duration(req.GetOlderThanMs()) * time.Millisecond,
	})
	var out []*skeinv1.ImageEntry
	for _, img := range list {
		out = append(out, entryOf(img))
	}
	return out, err
}

// A push lets the API take an archive in.
type push struct{ *image.Push }

func (p push) Finish(ref string) ([]object.ImageSpec, error) {
	list, err := p.Push.Finish(ref)
	return specsOf(list), err
}

func specsOf(list []image.Imported) []object.ImageSpec {
	var out []object.ImageSpec
	for _, img := range list {
		out = append(out, object.ImageSpec{
			Reference: img.Reference, Digest: img.Digest, MediaType: img.MediaType, Size: img.Size, Layers: layersOf(img.Parts),
		})
	}
	return out
}

// layersOf are what an image is made of, as the cluster is told.
func layersOf(parts []image.Descriptor) []object.ImageLayer {
	var out []object.ImageLayer
	for _, p := range parts[:min(len(parts), object.MaxLayers)] {
		out = append(out, object.ImageLayer{Digest: p.Digest, Size: p.Size})
	}
	return out
}

// BeginPush begins to take an archive in.
func (h holdings) BeginPush(ctx context.Context, entries []*skeinv1.PushEntry) (api.Push, error) {
	list := make([]image.Entry, 0, len(entries))
	for _, e := range entries {
		list = append(list, image.Entry{
			Name: e.GetName(), Size: e.GetSize(), Digest: e.GetDigest(), Link: e.GetLink(), Symbolic: e.GetSymbolic(), Data: e.GetData(),
		})
	}
	p, err := h.agent.store.BeginPush(ctx, list)
	if err != nil {
		return nil, err
	}
	return push{p}, nil
}

// Having lists those that have hinted at a blob.
func (h holdings) Having(digest string) []string { return mesh{h.agent.images}.Hinted(digest) }

// ReadFrom reads a blob of another machine.
func (h holdings) ReadFrom(ctx context.Context, node, digest string) (io.ReadCloser, error) {
	return mesh{h.agent.images}.Read(ctx, node, digest, 0)
}

// Touched tells that what is here has changed.
func (h holdings) Touched() { h.agent.images.touched() }
