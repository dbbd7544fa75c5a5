package api

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

const (
	// pullsEvery is how often who follows pulls is told of them, and in between
	// once more when one has begun or ended.
	pullsEvery = 500 * time.Millisecond
	// pullsAfter is how long an Await waits before it asks how images get on:
	// most Pods have theirs, and start sooner.
	pullsAfter = 500 * time.Millisecond
	// maxPullNodes bounds how many nodes one Await follows.
	maxPullNodes = 32
)

// layer answers other agents about images on their way.
type layer struct {
	*Server
	skeinv1connect.UnimplementedLayerServiceHandler
}

// FollowPulls streams what this node is pulling, for as long as somebody listens.
func (l *layer) FollowPulls(ctx context.Context, _ *skeinv1.FollowPullsRequest, stream skeinv1connect.LayerServiceFollowPullsServerStream) error {
	if err := l.fromVoter(ctx); err != nil {
		return err
	}
	return l.followPulls(ctx, stream.Send)
}

// followPulls sends what this node is pulling, at once and whenever it changes.
func (s *Server) followPulls(ctx context.Context, send func(*skeinv1.FollowPullsResponse) error) error {
	if s.cfg.Pulls == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(pullsEvery)
	defer tick.Stop()
	var last *skeinv1.FollowPullsResponse
	for early := true; ; {
		pulls, changed := s.cfg.Pulls()
		now := &skeinv1.FollowPullsResponse{Pulls: pulls}
		if !samePulls(last, now) { // nothing is no news at first
			if err := send(now); err != nil {
				return err
			}
			last = now
		}
		if !early {
			changed = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			early = true
		case <-changed:
			early = false
		}
	}
}

// samePulls compares two answers, but for the time that goes by.
func samePulls(a, b *skeinv1.FollowPullsResponse) bool {
	return slices.EqualFunc(a.GetPulls(), b.GetPulls(), func(p, q *skeinv1.ImagePull) bool {
		return p.GetFetched() == q.GetFetched() && p.GetDone() == q.GetDone() &&
			p.GetLayersDone() == q.GetLayersDone() && p.GetLayers() == q.GetLayers() &&
			p.GetImage() == q.GetImage() && slices.Equal(p.GetPods(), q.GetPods()) && slices.Equal(p.GetFrom(), q.GetFrom())
	})
}

// pullsOf follows how the images of some Pods get on, at the nodes where they
// are awaited.
type pullsOf struct {
	server *Server
	ctx    context.Context //nolint:containedctx // of the Await: all ends with it
	stop   context.CancelFunc
	done   sync.WaitGroup
	news   chan struct{}
	soon   *time.Timer
	begun  bool // to follow; until is not called twice at once

	mu    sync.Mutex
	pods  map[string]bool // by uid
	nodes map[string]*skeinv1.FollowPullsResponse
	ends  map[string]context.CancelFunc
	told  []*skeinv1.ImagePull
}

func (s *Server) newPullsOf(ctx context.Context) *pullsOf {
	p := &pullsOf{
		server: s, news: make(chan struct{}, 1), soon: time.NewTimer(pullsAfter),
		pods: map[string]bool{}, nodes: map[string]*skeinv1.FollowPullsResponse{}, ends: map[string]context.CancelFunc{},
	}
	p.ctx, p.stop = context.WithCancel(ctx)
	return p
}

func (p *pullsOf) close() {
	p.soon.Stop()
	p.stop()
	p.done.Wait()
}

var errTooLate = errors.New("it is too late")

// until tells how the images of the Pods that hold up what is awaited get on,
// until something else changes, or it is too late: errTooLate.
func (p *pullsOf) until(ctx context.Context, changed <-chan struct{}, late <-chan time.Time, look sight, send func(*skeinv1.AwaitResponse) error) error {
	if p.begun {
		p.follow(look.stuck)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			return nil
		case <-late:
			return errTooLate
		case <-p.soon.C:
			p.begun = true
			p.follow(look.stuck)
		case <-p.news:
			if msg := p.message(); msg != nil {
				if err := send(msg); err != nil {
					return err
				}
			}
		}
	}
}

// last tells what was heard and not told, once what was awaited is so.
func (p *pullsOf) last(done bool, send func(*skeinv1.AwaitResponse) error) error {
	if !done || len(p.news) == 0 {
		return nil
	}
	if msg := p.message(); msg != nil {
		return send(msg)
	}
	return nil
}

// follow has these Pods followed, and none else, as far as they wait for images.
func (p *pullsOf) follow(pods []*corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[string]bool{}
	p.pods = map[string]bool{}
	for _, pod := range pods {
		if node := pod.Spec.NodeName; node != "" && waitsForImage(pod) && (want[node] || len(want) < maxPullNodes) {
			want[node] = true
			p.pods[string(pod.UID)] = true
		}
	}
	for node, end := range p.ends {
		if !want[node] {
			end()
			delete(p.ends, node) // what it said last may be how it ended
		}
	}
	for node := range want {
		if p.ends[node] == nil {
			ctx, cancel := context.WithCancel(p.ctx)
			p.ends[node] = cancel
			p.done.Go(func() { p.listen(ctx, node) })
		}
	}
}

// waitsForImage tells whether a container of a Pod has not begun yet.
func waitsForImage(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	begun := 0
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Waiting == nil || s.RestartCount > 0 {
			begun++
		}
	}
	return begun < len(pod.Spec.Containers)
}

// listen follows one node until it has nothing to say any more, and asks again
// while ctx lasts: its agent may be older than this one, or restart.
func (p *pullsOf) listen(ctx context.Context, node string) {
	hear := func(res *skeinv1.FollowPullsResponse) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.nodes[node] = res
		select {
		case p.news <- struct{}{}:
		default:
		}
		return nil
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		if node == p.server.cfg.Name {
			_ = p.server.followPulls(ctx, hear) // it ends with ctx
		} else if stream, err := p.server.cfg.Peers.Layers(node).FollowPulls(ctx, &skeinv1.FollowPullsRequest{}); err == nil {
			for {
				res, err := stream.Receive()
				if err != nil || hear(res) != nil {
					break
				}
			}
			_ = stream.Close() // it has said what it had to
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// message is what is new, or nil.
func (p *pullsOf) message() *skeinv1.AwaitResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*skeinv1.ImagePull
	for node, res := range p.nodes {
		for _, pull := range res.GetPulls() {
			if slices.ContainsFunc(pull.GetPods(), func(uid string) bool { return p.pods[uid] }) || p.wasTold(node, pull) {
				pull = proto.CloneOf(pull)
				pull.Node, pull.Pods = node, nil
				list = append(list, pull)
			}
		}
	}
	slices.SortFunc(list, func(a, b *skeinv1.ImagePull) int {
		return cmp.Or(cmp.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetImage(), b.GetImage()))
	})
	if len(list) == 0 && len(p.told) == 0 {
		return nil
	}
	p.told = list
	return &skeinv1.AwaitResponse{Pulls: list}
}

// wasTold tells whether the last message had a pull that the person should see
// the end of.
func (p *pullsOf) wasTold(node string, pull *skeinv1.ImagePull) bool {
	return pull.GetDone() && slices.ContainsFunc(p.told, func(t *skeinv1.ImagePull) bool {
		return t.GetNode() == node && t.GetImage() == pull.GetImage()
	})
}
