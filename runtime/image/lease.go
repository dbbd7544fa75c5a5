package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// lease protects from garbage collection what is made or held with the
// returned context, until release.
func (s *Store) lease(ctx context.Context) (_ context.Context, release func(), err error) {
	l, err := s.leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		return nil, nil, fmt.Errorf("take a lease: %w", err)
	}
	return leases.WithLease(ctx, l.ID), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockWait)
		defer cancel()
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			s.log.Warn("lease of the image store stays until the next start", "err", err)
		}
	}, nil
}

// held returns ctx with the lease of another context.
func held(ctx, of context.Context) context.Context {
	if id, ok := leases.FromContext(of); ok {
		return leases.WithLease(ctx, id)
	}
	return ctx
}

// holdBlob puts a blob under ctx's lease and tells whether it is there.
func (s *Store) holdBlob(ctx context.Context, d digest.Digest) (bool, error) {
	return s.hold(ctx, leases.Resource{ID: d.String(), Type: "content"}, func() error {
		_, err := s.content.Info(ctx, d)
		return err
	})
}

// holdSnapshot does so with a snapshot.
func (s *Store) holdSnapshot(ctx context.Context, name string) (bool, error) {
	return s.hold(ctx, leases.Resource{ID: name, Type: "snapshots/" + snapshotter}, func() error {
		_, err := s.snapshots.Stat(ctx, name)
		return err
	})
}

// hold looks twice, as what it looks for may go just before it is held.
func (s *Store) hold(ctx context.Context, r leases.Resource, look func() error) (bool, error) {
	err := look()
	if err == nil {
		id, ok := leases.FromContext(ctx)
		if !ok {
			panic("hold without a lease")
		}
		if err := s.leases.AddResource(ctx, leases.Lease{ID: id}, r); err != nil {
			return false, fmt.Errorf("hold %s: %w", r.ID, err)
		}
		err = look()
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
