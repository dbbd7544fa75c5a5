package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/disk"
)

// labelImage on a writable snapshot names the image it was made from, by digest.
const labelImage = "skein.dev/image"

// Mounts returns what to mount as the writable root file system that key names,
// made from the image with this digest, which must be here. Asked again with
// the same key it answers the same, whatever was written there since. The first
// time an image is asked for its layers are unpacked, which takes as long as it
// takes; after that a new root costs a few writes to the metadata.
//
// The root, and with it the image, stays until Release. Options may grow longer
// than the 4096 bytes that mount(2) takes: some 60 layers in a deep folder.
func (s *Store) Mounts(ctx context.Context, key, digest string) ([]container.Mount, error) {
	if key == "" || len(key) > 512 || strings.HasPrefix(key, unpackPrefix) {
		return nil, fmt.Errorf("%.40q cannot be the key of a root file system", key)
	}
	ctx = s.context(ctx)
	unlock, err := s.turns.lock(ctx, "root "+key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, err := s.snapshots.Stat(ctx, key)
	switch {
	case err == nil && info.Labels[labelImage] != digest:
		return nil, fmt.Errorf("root file system %s is made from image %s", key, info.Labels[labelImage])
	case err == nil:
		if err := s.sureOf(ctx, digest); err != nil {
			return nil, err
		}
		m, err := s.snapshots.Mounts(ctx, key)
		return translate(m), err
	case !errdefs.IsNotFound(err):
		return nil, fmt.Errorf("look for root file system %s: %w", key, err)
	}
	return s.newRoot(ctx, key, digest)
}

func (s *Store) newRoot(ctx context.Context, key, digest string) ([]container.Mount, error) {
	t, err := s.known(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", digest, err)
	}
	if err := s.sure(ctx, t); err != nil {
		return nil, err
	}
	labels := snapshots.WithLabels(map[string]string{
		labelRoot:                 time.Now().UTC().Format(time.RFC3339),
		labelRefContent + "image": digest,
		labelImage:                digest,
	})
	top := identity.ChainID(t.config.diffs).String()
	m, err := s.snapshots.Prepare(ctx, key, top, labels)
	if !errdefs.IsNotFound(err) {
		return translate(m), err
	}
	// The layers are not unpacked. The lease keeps them until the root does.
	ctx, release, err := s.lease(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.unpack(ctx, t, nil, nil); err != nil {
		return nil, fmt.Errorf("unpack image %s: %w", digest, err)
	}
	m, err = s.snapshots.Prepare(ctx, key, top, labels)
	if err != nil {
		return nil, fmt.Errorf("make root file system %s: %w", key, err)
	}
	return translate(m), nil
}

func translate(mounts []mount.Mount) []container.Mount {
	var out []container.Mount
	for _, m := range mounts {
		out = append(out, container.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	return out
}

// Used is how many bytes of disk the root file system takes that key names, besides
// its image; over says that there are more than entries of it, which are all that is
// looked at. A key that names none takes nothing.
func (s *Store) Used(ctx context.Context, key string, entries int) (bytes int64, over bool, err error) {
	mounts, err := s.snapshots.Mounts(s.context(ctx), key)
	if errdefs.IsNotFound(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look for root file system %.80s: %w", key, err)
	}
	upper, _, err := folders(mounts)
	if err != nil {
		return 0, false, err
	}
	return disk.Used(upper, entries)
}

// Release gives up the root file system that key names, which must not be
// mounted any more, and frees its disk space. A key that names none is no error.
func (s *Store) Release(ctx context.Context, key string) error {
	ctx = s.context(ctx)
	removed, err := s.release(ctx, key)
	if err == nil && removed {
		err = s.Collect(ctx)
	}
	if err != nil {
		return fmt.Errorf("release root file system %.80s: %w", key, err)
	}
	return nil
}

func (s *Store) release(ctx context.Context, key string) (removed bool, err error) {
	unlock, err := s.turns.lock(ctx, "root "+key)
	if err != nil {
		return false, err
	}
	defer unlock()
	info, err := s.snapshots.Stat(ctx, key)
	if err == nil && info.Labels[labelImage] == "" {
		return false, errors.New("it is none")
	}
	if err == nil {
		err = s.snapshots.Remove(ctx, key)
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Snapshots returns the keys of all root file systems, so that their owner can
// release those it knows nothing of.
func (s *Store) Snapshots(ctx context.Context) ([]string, error) {
	var keys []string
	err := s.snapshots.Walk(s.context(ctx), func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindActive && info.Labels[labelImage] != "" {
			keys = append(keys, info.Name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return nil, fmt.Errorf("list root file systems: %w", err)
	}
	return keys, nil
}
