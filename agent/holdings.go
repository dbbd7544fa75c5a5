package agent

import (
	"context"
	"errors"

	"github.com/skein-dev/skein/agent/object"
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
