package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/pull"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
	"github.com/skein-dev/skein/runtime/image/registry"
)

// images joins this machine's store with the cluster's agreement on what names
// mean, and with the stores of the other machines.
type images struct {
	agent *Agent
	store ImageStore
	open  OpenRepository
	desk  *pull.Desk

	mu      sync.Mutex
	changed chan struct{}
}

func newImages(a *Agent, store ImageStore) *images {
	return &images{agent: a, store: store, open: a.cfg.World.Registry(a.cfg), desk: pull.NewDesk(a.isAlive), changed: make(chan struct{})}
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

// Ensure makes an image present. What its name means is the cluster's to say, once
// one of its machines has asked the registry; an image that only this machine has
// keeps its name here.
func (i *images) Ensure(ctx context.Context, ask node.ImageAsk) (string, error) {
	if ask.Watch == nil {
		ask.Watch = unwatched{}
	}
	ref, err := image.Familiar(ask.Reference)
	if err != nil {
		return "", &node.PullError{Reason: "InvalidImageName", Err: err}
	}
	spec, known, err := i.meaning(ctx, ref)
	if err != nil {
		return "", err
	}
	if known && (ask.Policy != corev1.PullAlways || !spec.Registry) && i.store.Has(ctx, spec.Digest) {
		i.used(ctx, ref)
		return spec.Digest, nil
	}
	if ask.Policy == corev1.PullNever {
		return "", &node.PullError{Reason: "ErrImageNeverPull", Err: fmt.Errorf("image %s is not on this machine, and imagePullPolicy is Never", ref)}
	}
	if known && !spec.Registry {
		err = i.fetch(ctx, ref, spec, nil, ask)
	} else {
		spec, err = i.pull(ctx, ref, spec, known, ask)
	}
	if err != nil {
		return "", &node.PullError{Reason: "ErrImagePull", Err: fmt.Errorf("pull image %s: %w", ref, err)}
	}
	i.used(ctx, ref)
	return spec.Digest, nil
}

// unwatched is the watch of an image that nobody waits for.
type unwatched struct{}

// Pulling tells nobody.
func (unwatched) Pulling(*image.Progress) {}

// Stale tells nobody.
func (unwatched) Stale(error) {}

// used notes that an image was asked for, so that it is not the first to be given
// up.
func (i *images) used(ctx context.Context, ref string) {
	if err := i.store.Use(ctx, ref, i.agent.cfg.World.Now()); err != nil && !errors.Is(err, image.ErrNotFound) {
		i.agent.log.Debug("cannot note that an image is used", "image", ref, "err", err)
	}
}

// meaning tells what a reference means, as far as anybody here knows.
func (i *images) meaning(ctx context.Context, ref string) (spec object.ImageSpec, known bool, err error) {
	row, known := i.agent.replica.Store().Get(state.Key{Kind: object.KindImage, Name: object.ImageName(ref)})
	if known {
		img, err := object.Decode[object.Image](row)
		if err != nil {
			return spec, false, err
		}
		return img.Spec, true, nil
	}
	desc, err := i.store.Resolve(ctx, ref)
	if err != nil {
		return spec, false, nil //nolint:nilerr // nobody knows it, then
	}
	return object.ImageSpec{Reference: ref, Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size, Registry: true}, true, nil
}

// pull brings an image that is known to its registry. What the cluster knows
// already does for a registry that cannot answer.
func (i *images) pull(ctx context.Context, ref string, spec object.ImageSpec, known bool, ask node.ImageAsk) (object.ImageSpec, error) {
	keys, err := keysOf(ask.Keys)
	if err != nil {
		return spec, err
	}
	from, err := i.open(ctx, ref, keys...)
	if err != nil {
		return spec, err
	}
	defer from.Close()
	if !known || ask.Policy == corev1.PullAlways {
		desc, err := from.Resolve(ctx)
		var refused *registry.Error
		switch {
		case err == nil:
			spec = i.agree(ctx, object.ImageSpec{Reference: ref, Digest: desc.Digest, MediaType: desc.MediaType, Registry: true}, known)
		case known && errors.As(err, &refused) && refused.Unreachable():
			i.agent.log.Warn("registry does not answer, what was known of the image holds", "image", ref, "err", err)
			ask.Watch.Stale(err)
		default:
			return spec, err
		}
	}
	if i.store.Has(ctx, spec.Digest) {
		return spec, nil
	}
	if err := i.fetch(ctx, ref, spec, from, ask); err != nil {
		return spec, err
	}
	i.tellParts(ctx, ref, spec)
	return spec, nil
}

// tellParts tells the cluster what an image is made of, unless it knows.
func (i *images) tellParts(ctx context.Context, ref string, spec object.ImageSpec) {
	if spec.Size > 0 && len(spec.Layers) > 0 {
		return
	}
	desc, err := i.store.Resolve(ctx, ref)
	parts, err2 := i.store.Parts(ctx, spec.Digest)
	if err := errors.Join(err, err2); err != nil {
		i.agent.log.Debug("cannot tell what an image is made of", "image", ref, "err", err)
		return
	}
	spec.Size, spec.Layers = desc.Size, layersOf(parts)
	i.agree(ctx, spec, false)
}

// keysOf reads the credentials that a Pod names.
func keysOf(docs [][]byte) ([]registry.Keys, error) {
	var out []registry.Keys
	for _, doc := range docs {
		keys, err := registry.ParseKeys(doc)
		if err != nil {
			return nil, fmt.Errorf("imagePullSecrets: %w", err)
		}
		out = append(out, keys.Plain())
	}
	return out, nil
}

// agreeWait bounds how long the leader is waited for: without one a machine goes on
// with what it has found out itself.
const agreeWait = 3 * time.Second

// agree tells the leader what a reference means, and returns what holds. moved says
// that an older meaning may be replaced.
func (i *images) agree(ctx context.Context, spec object.ImageSpec, moved bool) object.ImageSpec {
	ctx, cancel := context.WithTimeout(ctx, agreeWait)
	defer cancel()
	leader := i.agent.leader()
	if leader == "" {
		return spec
	}
	res, err := i.agent.peers.Client(leader).NameImage(ctx, &skeinv1.NameImageRequest{Moved: moved, Image: api.ImageMessage(spec)})
	if err != nil {
		i.agent.log.Debug("cannot tell the leader what an image means", "image", spec.Reference, "err", err)
		return spec
	}
	got := api.ImageOf(res.GetImage())
	got.Registry = true
	return got
}

// fetch brings an image here, from other machines as far as they have it, else
// from its registry, if it has one.
func (i *images) fetch(ctx context.Context, ref string, spec object.ImageSpec, from Repository, ask node.ImageAsk) error {
	var origin pull.Origin
	if from != nil {
		origin = registryOrigin{from}
	}
	source := pull.NewSource(mesh{i}, origin, i.holders(spec))
	desc := image.Descriptor{Digest: spec.Digest, MediaType: spec.MediaType, Size: spec.Size}
	progress := &image.Progress{}
	ask.Watch.Pulling(progress)
	if err := i.store.Fetch(ctx, ref, desc, pieces{source}, progress); err != nil {
		return err
	}
	i.touched()
	return nil
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

// pulls tells how far the images are that are on their way here.
func (a *Agent) pulls() (out []*skeinv1.ImagePull, changed <-chan struct{}) {
	list, changed := a.node.Pulls()
	for _, p := range list {
		out = append(out, pullOf(a.cfg.Name, p))
	}
	return out, changed
}

func pullOf(name string, p node.Pull) *skeinv1.ImagePull {
	out := &skeinv1.ImagePull{
		Node: name, Image: p.Image, LayersDone: int32(min(p.Done, math.MaxInt32)), Layers: int32(min(p.All, math.MaxInt32)),
		BytesDone: p.Bytes, Bytes: p.Size, Fetched: p.Fetched, ElapsedMs: p.Took.Milliseconds(),
		From: p.From, Done: p.Over, Error: p.Complaint,
	}
	for _, uid := range p.Pods {
		out.Pods = append(out.Pods, string(uid))
	}
	return out
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

// Used is what a root file system takes besides its image.
func (i *images) Used(ctx context.Context, key string, entries int) (bytes int64, over bool, err error) {
	return i.store.Used(ctx, key, entries)
}

// Snapshots lists the root file systems.
func (i *images) Snapshots(ctx context.Context) ([]string, error) { return i.store.Snapshots(ctx) }

// Collect frees what nothing needs any more.
func (i *images) Collect(ctx context.Context) error {
	defer i.touched()
	return i.store.Collect(ctx)
}

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
func (i *images) Import(ctx context.Context, r io.Reader) ([]object.ImageSpec, error) {
	list, err := i.store.Import(ctx, r)
	if err != nil {
		return nil, err
	}
	i.touched()
	debug.FreeOSMemory() // decompressing took much, once
	return specsOf(list), nil
}

// Blob reads a piece of an image for another machine.
func (i *images) Blob(ctx context.Context, digest string, offset int64) (io.ReadCloser, int64, error) {
	return i.store.FollowBlob(ctx, digest, offset)
}

// carried imports the images that this program carries.
func (i *images) carried(ctx context.Context) ([]object.ImageSpec, error) {
	archive, err := i.agent.cfg.Demo()
	if err != nil {
		return nil, err
	}
	return i.Import(ctx, bytes.NewReader(archive))
}
