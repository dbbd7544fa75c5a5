package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Descriptor is what a name means.
type Descriptor struct {
	Digest    string // of the manifest, or of the index above it
	MediaType string
	Size      int64 // bytes of this platform's image as it is kept: manifest, configuration and layers
}

// An Image is one that this machine has.
type Image struct {
	References []string // sorted, in their familiar form
	Digest     string
	Size       int64 // as in Descriptor
	// Used is when a name of it was last given or asked for, to the hour, by this
	// machine's wall clock.
	Used time.Time
}

// labelSize on an image record holds Descriptor.Size, labelUsed when the name was
// last asked for.
const (
	labelSize = "skein.dev/size"
	labelUsed = "skein.dev/used"
)

// usedWithin is how exactly that is kept: each time costs a write to the disk.
const usedWithin = time.Hour

// record gives a tree its name, taking the name from another if need be.
func (s *Store) record(ctx context.Context, name string, t *tree) error {
	img := images.Image{
		Name:   name,
		Target: ocispec.Descriptor{Digest: t.root.Digest, MediaType: t.root.MediaType, Size: t.root.Size},
		Labels: map[string]string{
			labelSize: strconv.FormatInt(t.size(), 10), labelUsed: time.Now().UTC().Format(time.RFC3339),
		},
	}
	_, err := s.images.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.images.Update(ctx, img, "target", "labels")
	}
	if err != nil {
		return fmt.Errorf("name image %s: %w", familiar(name), err)
	}
	return nil
}

// Resolve tells what a reference means here. A reference with a digest means
// that digest, if any name here does. Without either: ErrNotFound.
func (s *Store) Resolve(ctx context.Context, ref string) (Descriptor, error) {
	named, err := parse(ref)
	if err != nil {
		return Descriptor{}, err
	}
	ctx = s.context(ctx)
	img, err := s.images.Get(ctx, named.String())
	if pinned, ok := named.(reference.Digested); ok && errdefs.IsNotFound(err) {
		var list []images.Image
		list, err = s.images.List(ctx, "target.digest=="+pinned.Digest().String())
		if err == nil && len(list) == 0 {
			err = errdefs.ErrNotFound
		}
		if err == nil {
			img = list[0]
		}
	}
	if errdefs.IsNotFound(err) {
		return Descriptor{}, fmt.Errorf("image %s: %w", reference.FamiliarString(named), ErrNotFound)
	}
	if err != nil {
		return Descriptor{}, fmt.Errorf("look for image %s: %w", reference.FamiliarString(named), err)
	}
	return Descriptor{Digest: img.Target.Digest.String(), MediaType: img.Target.MediaType, Size: size(img)}, nil
}

// Use notes that an image was asked for by a name, at a time of this machine's wall
// clock. A name that is not here is ErrNotFound.
func (s *Store) Use(ctx context.Context, ref string, now time.Time) error {
	named, err := parse(ref)
	if err != nil {
		return err
	}
	ctx = s.context(ctx)
	img, err := s.images.Get(ctx, named.String())
	if err == nil {
		if last := used(img); now.Sub(last) < usedWithin && !last.After(now) {
			return nil
		}
		img.Labels[labelUsed] = now.UTC().Format(time.RFC3339)
		_, err = s.images.Update(ctx, img, "labels."+labelUsed)
	}
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("image %s: %w", reference.FamiliarString(named), ErrNotFound)
	}
	return err
}

func used(img images.Image) time.Time {
	if at, err := time.Parse(time.RFC3339, img.Labels[labelUsed]); err == nil {
		return at
	}
	return img.UpdatedAt
}

func size(img images.Image) int64 {
	n, _ := strconv.ParseInt(img.Labels[labelSize], 10, 64) // our own writing; zero is as good as unknown
	return n
}

// List returns the images that have a name here, by digest.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	records, err := s.images.List(s.context(ctx))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byDigest := map[string]*Image{}
	for _, r := range records {
		d := r.Target.Digest.String()
		if byDigest[d] == nil {
			byDigest[d] = &Image{Digest: d, Size: size(r)}
		}
		byDigest[d].References = append(byDigest[d].References, familiar(r.Name))
		if at := used(r); at.After(byDigest[d].Used) {
			byDigest[d].Used = at
		}
	}
	list := make([]Image, 0, len(byDigest))
	for _, img := range byDigest {
		slices.Sort(img.References)
		list = append(list, *img)
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Digest, b.Digest) })
	return list, nil
}

// known returns the tree of an image that is here, whether or not it has a name.
func (s *Store) known(ctx context.Context, digest string) (*tree, error) {
	d, err := parseDigest(digest)
	if err != nil {
		return nil, err
	}
	return s.walk(s.context(ctx), ocispec.Descriptor{Digest: d}, s.local)
}

// Parts lists what an image is made of besides its manifest: its configuration, then
// its layers, whether or not all of them are here.
func (s *Store) Parts(ctx context.Context, digest string) ([]Descriptor, error) {
	t, err := s.known(ctx, digest)
	if err != nil {
		return nil, err
	}
	return t.described(), nil
}

// Has tells whether all that this machine needs to run the image is here.
func (s *Store) Has(ctx context.Context, digest string) bool {
	err := s.complete(ctx, digest)
	if err != nil && !errors.Is(err, ErrNotFound) {
		s.log.Debug("image cannot be used", "digest", digest, "err", err)
	}
	return err == nil
}

func (s *Store) complete(ctx context.Context, digest string) error {
	t, err := s.known(ctx, digest)
	if err != nil {
		return err
	}
	gap, err := s.missing(s.context(ctx), t)
	if err == nil && gap != "" {
		err = fmt.Errorf("layer %s: %w", gap, ErrNotFound)
	}
	return err
}

// Remove takes a name away. The image goes with the next Collect, unless
// another name means it or a root file system is made of it.
func (s *Store) Remove(ctx context.Context, ref string) error {
	named, err := parse(ref)
	if err != nil {
		return err
	}
	err = s.images.Delete(s.context(ctx), named.String())
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("image %s: %w", reference.FamiliarString(named), ErrNotFound)
	}
	return err
}

// Collect frees what no name, root file system or work in progress needs. One
// collection answers all who asked for it before it began.
func (s *Store) Collect(ctx context.Context) error {
	ticket := s.asked.Add(1)
	unlock, err := s.turns.lock(ctx, "collect")
	if err != nil {
		return err
	}
	defer unlock()
	if s.collected.Load() >= ticket {
		return nil
	}
	covers := s.asked.Load()
	stats, err := s.db.GarbageCollect(s.context(ctx))
	if err != nil {
		return fmt.Errorf("collect what no image needs: %w", err)
	}
	s.collected.Store(covers)
	s.log.Debug("image store collected", "in", stats.Elapsed())
	return nil
}
