package node

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
)

// ImageAsk is what a container asks of an image.
type ImageAsk struct {
	Reference string
	Policy    corev1.PullPolicy
	Keys      [][]byte  // credentials for its registry, in docker's notation
	Watch     PullWatch // nil: nobody is told
}

// A PullWatch is told how an image comes to this node.
type PullWatch interface {
	// Pulling says that it is being fetched; the progress tells how far that is.
	Pulling(progress *image.Progress)
	// Stale says that what the cluster knows of the image is used, for its registry
	// was asked and does not answer.
	Stale(err error)
}

// A PullError says why an image is not there. Reason is Kubernetes' word for it.
type PullError struct {
	Reason string // ErrImagePull, ErrImageNeverPull, InvalidImageName
	Err    error
}

func (e *PullError) Error() string { return e.Err.Error() }
func (e *PullError) Unwrap() error { return e.Err }

// A pull brings one image to this node, aside from the worker that waits for it.
type pull struct {
	cancel context.CancelFunc
	tries  int
	before *note    // of the attempt that failed before this one
	keys   [][]byte // that it is made with

	mu     sync.Mutex
	done   bool
	digest string
	err    error
	at     time.Time // no sooner than this again
}

// image returns the digest to run, or when to ask again. It never waits: the
// worker is woken once the image is there.
func (w *worker) image(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (digest string, again time.Time) {
	if digest, again = w.fetched(ctx, pod, c); digest != "" {
		delete(w.pulls, c.Name) // a restart asks again: the name may mean another image then
	}
	return digest, again
}

// fetched is image, save that it may be asked again for what it has returned.
func (w *worker) fetched(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (digest string, again time.Time) {
	p := w.pulls[c.Name]
	if p == nil {
		return "", w.fetch(ctx, pod, c, 0, nil)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.done:
		return "", time.Time{}
	case p.err == nil:
		return p.digest, time.Time{}
	case time.Now().Before(p.at) && !w.newKeys(pod, p):
		return "", p.at
	}
	return "", w.fetch(ctx, pod, c, p.tries, p.note())
}

// fetchAhead brings the images of those that are not due yet, so that they need
// not wait for them then. It returns when to try again.
func (w *worker) fetchAhead(ctx context.Context, pod *corev1.Pod, later []member, have []container.Status) (again time.Time) {
	for _, m := range later {
		if len(attemptsOf(m.Name, have)) > 0 {
			continue
		}
		_, at := w.fetched(ctx, pod, m.Container)
		if w.pulls[m.Name] != nil {
			delete(w.notes, m.Name) // it waits for others
		}
		again = earlier(again, at)
	}
	return again
}

// newKeys tells whether the Pod's credentials are others than those that an
// attempt was made with.
func (w *worker) newKeys(pod *corev1.Pod, p *pull) bool {
	if len(pod.Spec.ImagePullSecrets) == 0 {
		return false
	}
	keys, again, _ := w.pullKeys(pod)
	return again.IsZero() && !slices.EqualFunc(keys, p.keys, bytes.Equal)
}

// fetch begins an attempt, or returns when to begin one.
func (w *worker) fetch(ctx context.Context, pod *corev1.Pod, c *corev1.Container, tries int, before *note) (again time.Time) {
	keys, again, err := w.pullKeys(pod)
	if !again.IsZero() {
		return again
	}
	if err != nil {
		w.event(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "pulling without some of the credentials: "+oneLine(err))
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &pull{cancel: cancel, tries: tries + 1, before: before, keys: keys}
	w.pulls[c.Name] = p
	if w.notes[c.Name] == nil {
		w.notes[c.Name] = &note{"ContainerCreating", ""}
	}
	w.node.gone.Go(func() {
		defer cancel()
		watch := &arrival{worker: w, pod: pod, image: c.Image}
		digest, err := w.node.cfg.Images.Ensure(ctx, ImageAsk{Reference: c.Image, Policy: c.ImagePullPolicy, Keys: keys, Watch: watch})
		watch.end(err)
		var cramped *image.SpaceError
		if errors.As(err, &cramped) {
			w.node.reclaimSoon()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.done, p.digest, p.err = true, digest, err
		if err != nil {
			p.at = time.Now().Add(max(time.Second, min(pullMax, time.Second<<min(p.tries, 10))))
		}
		if n := p.note(); n != nil && ctx.Err() == nil {
			w.node.reports.event(pod, w.node.cfg.Name, corev1.EventTypeWarning, n.reason, "container "+c.Name+": "+n.message)
		}
		w.wake()
	})
	return time.Time{}
}

// pullMax is the longest wait between two attempts at one image.
const pullMax = 5 * time.Minute

// pullNote is what the status says while an image is not there.
func (w *worker) pullNote(name string) *note {
	p := w.pulls[name]
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note()
}

// note says why the image is not there: the last attempt's reason also while the
// next one is under way. The caller holds mu.
func (p *pull) note() *note {
	if !p.done {
		return p.before
	}
	if p.err == nil {
		return nil
	}
	reason := "ErrImagePull"
	var pe *PullError
	if errors.As(p.err, &pe) {
		reason = pe.Reason
	}
	if p.tries > 1 && reason == "ErrImagePull" {
		reason = "ImagePullBackOff"
	}
	return &note{reason, p.err.Error()}
}
