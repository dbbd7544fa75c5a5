package node

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/runtime/image"
)

// A Pull tells how far one image is on its way to this node.
type Pull struct {
	Image      string // as the Pod names it
	Pods       []types.UID
	Done, All  int   // layers that are here, and in all; none: not known yet
	Bytes      int64 // that are here, compressed
	Size       int64
	Fetched    int64 // bytes that came during this pull
	Took       time.Duration
	From       []string // registries by their host, and nodes, in order
	Over       bool
	Complaint  string
	progress   *image.Progress
	began, end time.Time
}

const (
	// overFor is how long a pull that is over is still told of, for who asks now
	// and then.
	overFor = 5 * time.Second
	// maxComing bounds how many pulls are told of.
	maxComing = 100
)

// coming keeps account of the images that are on their way.
type coming struct {
	mu      sync.Mutex
	pulls   []*Pull
	changed chan struct{} // closed when one begins or ends
}

func newComing() *coming { return &coming{changed: make(chan struct{})} }

// wake is called with mu held.
func (c *coming) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// begin takes note of a pull for a Pod.
func (c *coming) begin(name string, pod types.UID, progress *image.Progress) *Pull {
	p := &Pull{Image: name, Pods: []types.UID{pod}, progress: progress, began: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
	if len(c.pulls) < maxComing {
		c.pulls = append(c.pulls, p)
		c.wake()
	}
	return p
}

// finish takes note of how a pull ended, and returns its end.
func (c *coming) finish(p *Pull, err error) Pull {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.Over, p.end = true, time.Now()
	c.wake()
	if err != nil {
		p.Complaint = err.Error()
	}
	return p.look()
}

// forget drops those that are over for long. The caller holds mu.
func (c *coming) forget() {
	c.pulls = slices.DeleteFunc(c.pulls, func(p *Pull) bool { return p.Over && time.Since(p.end) > overFor })
}

// Pulls lists the images that are on their way to this node, and those that just
// came, the first to begin first. Where several Pods wait for one, it is there
// once. changed is closed when one begins or ends.
func (n *Node) Pulls() (out []Pull, changed <-chan struct{}) {
	c := n.coming
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
	for _, p := range c.pulls {
		now := p.look()
		at := slices.IndexFunc(out, func(q Pull) bool { return q.Image == p.Image })
		if at < 0 {
			out = append(out, now)
			continue
		}
		// The layers are fetched once for both: what the one has the other waits for.
		if out[at].Over && !now.Over || out[at].Over == now.Over && now.Fetched > out[at].Fetched {
			now.Pods = append(slices.Clone(out[at].Pods), now.Pods...)
			out[at] = now
		} else {
			out[at].Pods = append(slices.Clone(out[at].Pods), p.Pods...)
		}
	}
	return out, c.changed
}

// look sums up how far the layers are. The caller holds mu of coming.
func (p *Pull) look() Pull {
	out := *p
	end := p.end
	if !p.Over {
		end = time.Now()
	}
	out.Took = end.Sub(p.began)
	for _, part := range p.progress.Parts() {
		out.All++
		out.Size += part.Size
		out.Bytes += part.Done
		out.Fetched += part.Fetched
		switch part.State {
		case image.StateHere, image.StateUnpacking, image.StateReady:
			out.Done++
		case image.StateWaiting, image.StatePulling:
		}
		if part.From != "" && !slices.Contains(out.From, part.From) {
			out.From = append(out.From, part.From)
		}
	}
	slices.Sort(out.From)
	return out
}

// An arrival tells of one image that a Pod waits for.
type arrival struct {
	worker *worker
	pod    *corev1.Pod
	image  string

	pull *Pull // once it is fetched
}

// Pulling tells the leader, and whoever follows.
func (a *arrival) Pulling(progress *image.Progress) {
	a.pull = a.worker.node.coming.begin(a.image, a.pod.UID, progress)
	a.worker.event(a.pod, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("pulling image %q", a.image))
}

// Stale tells the leader.
func (a *arrival) Stale(err error) {
	a.worker.event(a.pod, corev1.EventTypeWarning, "RegistryUnreachable",
		fmt.Sprintf("using what the cluster knows of image %q: its registry does not answer: %v", a.image, err))
}

// end tells how it ended. What went wrong is told elsewhere.
func (a *arrival) end(err error) {
	if a.pull == nil {
		return
	}
	if got := a.worker.node.coming.finish(a.pull, err); err == nil {
		a.worker.event(a.pod, corev1.EventTypeNormal, "Pulled", got.sentence())
	}
}

// sentence says in one line what came, as the event does.
func (p *Pull) sentence() string {
	text := fmt.Sprintf("pulled image %q in %s: ", p.Image, p.Took.Round(time.Millisecond))
	if p.Fetched == 0 {
		return text + "all its layers were here"
	}
	text += fmt.Sprintf("%.1f of its %.1f MB", float64(p.Fetched)/1e6, float64(p.Size)/1e6)
	if len(p.From) > 0 {
		text += " from " + strings.Join(p.From, ", ")
	}
	return text
}
