package node

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/image"
)

// tellEvery is how often a person hears how far a pull is.
const tellEvery = 250 * time.Millisecond

// An order is an image that a person wants here.
type order struct {
	node *Node
	ref  string
	pull chan *Pull
	why  chan error
}

// Pulling begins to tell.
func (o *order) Pulling(progress *image.Progress) {
	o.pull <- o.node.coming.begin(o.ref, "", progress)
}

// Stale is told at the end, as what did not work.
func (o *order) Stale(err error) {
	select {
	case o.why <- err:
	default:
	}
}

// Pull brings an image here that a person asks for, whatever its name means at its
// registry now, and tells how far it is, at the end for certain. What tell returns
// ends it.
func (n *Node) Pull(ctx context.Context, ref string, tell func(Pull) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := &order{node: n, ref: ref, pull: make(chan *Pull, 1), why: make(chan error, 1)}
	done := make(chan error, 1)
	began := time.Now()
	n.gone.Go(func() {
		_, err := n.cfg.Images.Ensure(ctx, ImageAsk{Reference: ref, Policy: corev1.PullAlways, Watch: o})
		done <- err
	})
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	var mine *Pull
	for {
		select {
		case mine = <-o.pull:
		case <-tick.C:
			if mine == nil {
				continue
			}
			n.coming.mu.Lock()
			now := mine.look()
			n.coming.mu.Unlock()
			if err := tell(now); err != nil {
				return err
			}
		case err := <-done:
			select {
			case stale := <-o.why: // it goes by what is known, and a person wants to know
				err = errors.Join(err, stale)
			default:
			}
			end := Pull{Image: ref, Over: true, Took: time.Since(began)}
			if mine != nil {
				end = n.coming.finish(mine, err)
			} else if err != nil {
				end.Complaint = err.Error()
			}
			return tell(end)
		}
	}
}

// A GiveUp says which images a person wants gone from this node.
type GiveUp struct {
	References []string        // these names alone; empty: all that is not kept
	Keep       map[string]bool // references that somebody in the cluster needs
	All        bool            // also what could not be had again
	OlderThan  time.Duration   // unused for so long
	DryRun     bool
}

// GiveUp takes images away, or only says which, and returns them.
func (n *Node) GiveUp(ctx context.Context, g GiveUp) ([]image.Image, error) {
	if n.cfg.Holdings == nil {
		return nil, nil
	}
	held, err := n.cfg.Holdings.Held(ctx)
	if err != nil {
		return nil, err
	}
	used, err := n.imagesInUse(ctx)
	if err != nil {
		return nil, err
	}
	var gone []image.Image
	for _, img := range held {
		if img.References = g.names(img, used, n.cfg.Now()); len(img.References) == 0 {
			continue
		}
		if len(g.References) == 0 && !g.All && n.cfg.Holdings.Sole(img.Digest) {
			continue
		}
		gone = append(gone, img)
		if !g.DryRun {
			err = errors.Join(err, n.cfg.Holdings.Forget(ctx, img))
		}
	}
	if !g.DryRun && len(gone) > 0 {
		err = errors.Join(err, n.cfg.Images.Collect(ctx))
	}
	return gone, err
}

// names picks those names of an image that go.
func (g GiveUp) names(img image.Image, used map[string]bool, now time.Time) []string {
	if len(g.References) > 0 {
		return slices.DeleteFunc(slices.Clone(img.References), func(ref string) bool { return !slices.Contains(g.References, ref) })
	}
	if now.Sub(img.Used) < g.OlderThan || used[img.Digest] {
		return nil
	}
	for _, ref := range img.References {
		if g.Keep[ref] || used[ref] {
			return nil
		}
	}
	return img.References
}
