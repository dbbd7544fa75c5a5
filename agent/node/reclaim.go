package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
)

// A Reclaim says when images that nothing needs are given up. Zero fields take
// their defaults, which are the kubelet's.
type Reclaim struct {
	High   float64       // share of the disk in use from which on images go; 0.85
	Low    float64       // and until which; 0.80
	MaxAge time.Duration // for how long an image may be unused; 30 days, negative: for ever
	MinAge time.Duration // for how long one stays after its last use whatever happens; 2 min
}

func (r Reclaim) withDefaults() Reclaim {
	if r.High == 0 {
		r.High = 0.85
	}
	if r.Low == 0 {
		r.Low = min(0.80, r.High)
	}
	if r.MaxAge == 0 {
		r.MaxAge = 30 * 24 * time.Hour
	}
	if r.MinAge == 0 {
		r.MinAge = 2 * time.Minute
	}
	return r
}

// Holdings are the images of this machine, as far as reclaiming them goes.
type Holdings interface {
	// Held lists the images that have a name here.
	Held(ctx context.Context) ([]image.Image, error)
	// Forget takes an image's names away. What no other image needs goes with the
	// next Collect.
	Forget(ctx context.Context, img image.Image) error
	// Sole tells whether the image could not be had again: it came by no registry,
	// and no other machine that is there has it.
	Sole(digest string) bool
	// DiskUsed is the share of the disk in use that images are on.
	DiskUsed() (float64, error)
}

const (
	reclaimEvery = time.Minute
	// freedWithin is how long the file system may take to give space back.
	freedWithin = 3 * time.Second
)

// reclaim gives up images until ctx ends.
func (n *Node) reclaim(ctx context.Context) error {
	if n.cfg.Holdings == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-n.cfg.Replica.SyncedC(): // before that no Pod of this node is known
	}
	again := time.NewTicker(reclaimEvery)
	defer again.Stop()
	for {
		force := false
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		case <-n.cramped:
			force = true
		}
		if err := n.reclaimOnce(ctx, force); err != nil && ctx.Err() == nil {
			n.log.Warn("cannot give up images", "err", err)
		}
	}
}

// reclaimSoon makes room for an image that did not fit.
func (n *Node) reclaimSoon() {
	select {
	case n.cramped <- struct{}{}:
	default: // it is about to
	}
}

// reclaimOnce gives up what is old, and then what was used least recently, until
// the disk is no longer too full: at least one image if it is forced to.
func (n *Node) reclaimOnce(ctx context.Context, force bool) error {
	used, err := n.imagesInUse(ctx)
	if err != nil {
		return err
	}
	full := false
	for {
		share, err := n.cfg.Holdings.DiskUsed()
		if err != nil {
			return err
		}
		full = share >= n.cfg.Reclaim.High || full && share > n.cfg.Reclaim.Low
		held, err := n.cfg.Holdings.Held(ctx)
		if err != nil {
			return err
		}
		gone, ok := nextToGo(held, used, n.cfg.Holdings.Sole, full || force, n.cfg.Reclaim, n.cfg.Now())
		if !ok {
			if full {
				n.log.Warn("the disk is full, and no image is left to give up", "used", fmt.Sprintf("%.1f%%", 100*share))
			}
			return nil
		}
		force = false
		if err := n.cfg.Holdings.Forget(ctx, gone); err != nil {
			return err
		}
		if err := n.cfg.Images.Collect(ctx); err != nil {
			return err
		}
		n.log.Info("image given up", "image", gone.References, "bytes", gone.Size, "unused", n.cfg.Now().Sub(gone.Used).Round(time.Minute).String())
		n.awaitFreed(ctx, share)
	}
}

// awaitFreed waits until the disk is less full than before, for a moment at most.
func (n *Node) awaitFreed(ctx context.Context, before float64) {
	for wait := 50 * time.Millisecond; wait < freedWithin; wait *= 2 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if now, err := n.cfg.Holdings.DiskUsed(); err != nil || now < before {
			return
		}
	}
}

// nextToGo picks the image that is given up next, the one that was used least
// recently: of those that are too old, or of all where the disk is full.
func nextToGo(held []image.Image, used map[string]bool, sole func(digest string) bool, full bool, r Reclaim, now time.Time) (image.Image, bool) {
	held = slices.Clone(held)
	slices.SortStableFunc(held, func(a, b image.Image) int { return a.Used.Compare(b.Used) })
	for _, img := range held {
		age := now.Sub(img.Used)
		named := slices.ContainsFunc(img.References, func(ref string) bool { return used[ref] })
		switch {
		case named || used[img.Digest] || age < r.MinAge:
		case !full && (r.MaxAge < 0 || age < r.MaxAge):
		case sole(img.Digest):
		default:
			return img, true
		}
	}
	return image.Image{}, false
}

// imagesInUse lists what the Pods of this node name, and what its containers were
// made from.
func (n *Node) imagesInUse(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	for _, row := range n.cfg.Replica.Store().List(object.KindPod, "", object.NodeIndex(n.cfg.Name)) {
		pod, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return nil, err
		}
		for _, m := range membersOf(pod) {
			if ref, err := image.Familiar(m.Image); err == nil {
				used[ref] = true
			}
		}
	}
	list, err := n.cfg.Driver.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.State == container.Running {
			used[s.Labels[labelImage]] = true
		}
	}
	return used, nil
}
