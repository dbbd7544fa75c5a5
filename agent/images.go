package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
)

// images joins this machine's store with the cluster's agreement on what names
// mean, and with the stores of the other machines.
type images struct {
	agent *Agent
	store ImageStore
	open  OpenRepository

	mu      sync.Mutex
	changed chan struct{}
}

func newImages(a *Agent, store ImageStore) *images {
	return &images{agent: a, store: store, open: a.cfg.World.Registry(a.cfg), changed: make(chan struct{})}
}

// Changed is closed when Present would answer differently.
func (i *images) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

func (i *images) touched() {
	i.mu.Lock()
	defer i.mu.Unlock()
	close(i.changed)
	i.changed = make(chan struct{})
}

// Ensure makes an image present. What its name means is the cluster's to say;
// an image that only this machine has keeps its name here.
func (i *images) Ensure(ctx context.Context, reference string, policy corev1.PullPolicy) (string, error) {
	ref, err := image.Familiar(reference)
	if err != nil {
		return "", &node.PullError{Reason: "InvalidImageName", Err: err}
	}
	row, known := i.agent.replica.Store().Get(state.Key{Kind: object.KindImage, Name: object.ImageName(ref)})
	if !known {
		if desc, err := i.store.Resolve(ctx, ref); err == nil {
			return desc.Digest, nil
		}
		return i.pull(ctx, ref)
	}
	img, err := object.Decode[object.Image](row)
	if err != nil {
		return "", err
	}
	if i.store.Has(ctx, img.Spec.Digest) {
		return img.Spec.Digest, nil
	}
	if policy == corev1.PullNever {
		return "", &node.PullError{Reason: "ErrImageNeverPull", Err: fmt.Errorf("image %s is not on this machine, and imagePullPolicy is Never", ref)}
	}
	if err := i.fetch(ctx, ref, img.Spec); err != nil {
		return "", &node.PullError{Reason: "ErrImagePull", Err: err}
	}
	i.touched()
	return img.Spec.Digest, nil
}

// pull brings an image from its registry.
func (i *images) pull(ctx context.Context, ref string) (string, error) {
	from, err := i.open(ctx, ref)
	if err != nil {
		return "", &node.PullError{Reason: "ErrImagePull", Err: err}
	}
	defer from.Close()
	desc, err := from.Resolve(ctx)
	if err == nil {
		err = i.store.Fetch(ctx, ref, desc, from, nil)
	}
	if err != nil {
		return "", &node.PullError{Reason: "ErrImagePull", Err: fmt.Errorf("pull image %s: %w", ref, err)}
	}
	i.touched()
	return desc.Digest, nil
}

// fetch copies an image from the first machine that gives it whole.
func (i *images) fetch(ctx context.Context, ref string, spec object.ImageSpec) error {
	holders := i.holders(spec)
	if len(holders) == 0 {
		return fmt.Errorf("no machine that is there has image %s", ref)
	}
	desc := image.Descriptor{Digest: spec.Digest, MediaType: spec.MediaType, Size: spec.Size}
	var errs []error
	for _, name := range holders {
		err := i.store.Fetch(ctx, ref, desc, peerBlobs{agent: i.agent, node: name}, nil)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, fmt.Errorf("from node %s: %w", name, err))
	}
	return fmt.Errorf("fetch image %s: %w", ref, errors.Join(errs...))
}

// holders are the other machines that say they have an image, those that
// gossip hears first.
func (i *images) holders(spec object.ImageSpec) []string {
	var near, far []string
	health := i.agent.peers.Health()
	for _, row := range i.agent.replica.Store().List(object.KindNode, "", "") {
		n, err := object.Decode[corev1.Node](row)
		if err != nil || n.Name == i.agent.cfg.Name || !has(n, spec) {
			continue
		}
		if health[n.Name].State == "alive" {
			near = append(near, n.Name)
		} else {
			far = append(far, n.Name)
		}
	}
	return append(near, far...)
}

func has(n *corev1.Node, spec object.ImageSpec) bool {
	for _, img := range n.Status.Images {
		for _, name := range img.Names {
			if name == spec.Digest {
				return true
			}
		}
	}
	return false
}

// peerBlobs reads pieces of images from another machine.
type peerBlobs struct {
	agent *Agent
	node  string
}

// Blob streams a piece from offset on.
func (p peerBlobs) Blob(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := p.agent.peers.Client(p.node).Blob(ctx, &skeinv1.BlobRequest{Digest: d.Digest, Offset: offset})
	if err != nil {
		cancel()
		return nil, err
	}
	return &blobReader{receive: stream.Receive, close: func() error {
		cancel()
		return stream.Close()
	}}, nil
}

type blobReader struct {
	receive func() (*skeinv1.BlobResponse, error)
	close   func() error
	rest    []byte
}

func (b *blobReader) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		msg, err := b.receive()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF // readers know the bare one only
		}
		if err != nil {
			return 0, err
		}
		b.rest = msg.GetChunk()
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close ends the stream; a peer that has more to say is cut short.
func (b *blobReader) Close() error {
	_ = b.close() // it was cancelled, and says so
	return nil
}

// Config is what an image says of its containers.
func (i *images) Config(ctx context.Context, digest string) (image.Config, error) {
	return i.store.Config(ctx, digest)
}

// Mounts prepares a root file system.
func (i *images) Mounts(ctx context.Context, key, digest string) ([]container.Mount, error) {
	return i.store.Mounts(ctx, key, digest)
}

// Release gives a root file system back.
func (i *images) Release(ctx context.Context, key string) error { return i.store.Release(ctx, key) }

// Snapshots lists the root file systems.
func (i *images) Snapshots(ctx context.Context) ([]string, error) { return i.store.Snapshots(ctx) }

// Collect frees what nothing needs any more.
func (i *images) Collect(ctx context.Context) error { return i.store.Collect(ctx) }

// maxImagesTold bounds how many images a node tells the cluster of.
const maxImagesTold = 100

// Present lists what this machine holds: each image by its names and its digest.
func (i *images) Present(ctx context.Context) ([]corev1.ContainerImage, error) {
	list, err := i.store.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []corev1.ContainerImage
	for _, img := range list[:min(len(list), maxImagesTold)] {
		out = append(out, corev1.ContainerImage{Names: append(img.References, img.Digest), SizeBytes: img.Size})
	}
	return out, nil
}

// Import keeps an archive that somebody has sent.
func (i *images) Import(ctx context.Context, r io.Reader) ([]api.Imported, error) {
	list, err := i.store.Import(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []api.Imported
	for _, img := range list {
		out = append(out, api.Imported{Reference: img.Reference, Digest: img.Digest, MediaType: img.MediaType, Size: img.Size})
	}
	i.touched()
	debug.FreeOSMemory() // decompressing took much, once
	return out, nil
}

// Blob opens a piece of an image for another machine.
func (i *images) Blob(ctx context.Context, digest string) (io.ReadSeekCloser, int64, error) {
	r, size, err := i.store.OpenBlob(ctx, digest)
	if err != nil {
		return nil, 0, err
	}
	return blobSeeker{SectionReader: io.NewSectionReader(r, 0, size), closer: r}, size, nil
}

type blobSeeker struct {
	*io.SectionReader
	closer io.Closer
}

func (b blobSeeker) Close() error { return b.closer.Close() }

// carried imports the images that this program carries.
func (i *images) carried(ctx context.Context) ([]api.Imported, error) {
	archive, err := i.agent.cfg.Demo()
	if err != nil {
		return nil, err
	}
	return i.Import(ctx, bytes.NewReader(archive))
}
