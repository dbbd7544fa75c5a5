package node

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
)

// PodLogs sends what a Pod that runs here has written, its containers merged
// where none is named, until all was sent, or ctx ends when following.
func (n *Node) PodLogs(ctx context.Context, req *skeinv1.PodLogsRequest, send func(*skeinv1.LogsResponse) error) error {
	ids, err := n.runs(ctx, req.Uid, req.Container, req.Previous)
	if err != nil {
		return err
	}
	opt := container.LogOptions{Tail: req.TailLines, Follow: req.Follow}
	if req.SinceMs > 0 {
		opt.Since = n.cfg.Now().Add(-time.Duration(req.SinceMs) * time.Millisecond)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := newLineQueue()
	for _, id := range ids {
		lines.readers++
		go func() { lines.end(n.readLogs(ctx, id, opt, req, lines)) }()
	}
	stop := context.AfterFunc(ctx, lines.close)
	defer stop()
	return lines.send(ctx, cancel, req.Batches, send)
}

// readLogs reads one container and, following, each run that succeeds it.
func (n *Node) readLogs(ctx context.Context, id container.ID, opt container.LogOptions, req *skeinv1.PodLogsRequest, lines *lineQueue) error {
	for {
		err := n.cfg.Driver.Logs(ctx, id, opt, func(l container.LogLine) error {
			if !lines.put(&skeinv1.LogsResponse{
				Pod: req.Pod, Container: id.Name, TimeUnixNano: l.Time.UnixNano(),
				Stderr: l.Stderr, Partial: l.Partial, Line: slices.Clone(l.Text),
			}) {
				return context.Cause(ctx)
			}
			return nil
		})
		if err != nil || !opt.Follow || req.Previous {
			return err
		}
		if id, err = n.nextRun(ctx, id); err != nil {
			return nil //nolint:nilerr // the Pod is gone, or the reader is: there is no more to read
		}
		opt.Since, opt.Tail = time.Time{}, -1
	}
}

// nextRun waits for the run that follows id.
func (n *Node) nextRun(ctx context.Context, id container.ID) (container.ID, error) {
	watch := n.cfg.Replica.Store().Changed(state.Selector{Kind: object.KindPod, Index: object.NodeIndex(n.cfg.Name)})
	defer watch.Close()
	for {
		changed := n.cfg.Driver.Changed()
		ids, err := n.runs(ctx, id.Pod, id.Name, false)
		if err != nil {
			return id, err
		}
		if ids[0].Attempt > id.Attempt {
			return ids[0], nil
		}
		if pod, err := n.pod(types.UID(id.Pod)); err != nil || pod == nil || finished(pod) || pod.DeletionTimestamp != nil {
			return id, io.EOF
		}
		select {
		case <-ctx.Done():
			return id, ctx.Err()
		case <-changed:
		case <-watch.C(): // it may be known by now that none follows
		}
	}
}

// runs finds the newest run of a Pod's containers, or the one before.
func (n *Node) runs(ctx context.Context, pod, name string, previous bool) ([]container.ID, error) {
	list, err := n.cfg.Driver.List(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string][]container.ID{}
	for _, s := range list {
		if s.ID.Pod == pod && (name == "" || s.ID.Name == name) {
			byName[s.ID.Name] = append(byName[s.ID.Name], s.ID)
		}
	}
	var out []container.ID
	for _, ids := range byName {
		slices.SortFunc(ids, func(a, b container.ID) int { return cmp.Compare(b.Attempt, a.Attempt) })
		if previous {
			ids = ids[1:]
		}
		if len(ids) > 0 {
			out = append(out, ids[0])
		}
	}
	slices.SortFunc(out, func(a, b container.ID) int { return cmp.Compare(a.Name, b.Name) })
	switch {
	case len(out) > 0:
		return out, nil
	case previous:
		return nil, fmt.Errorf("no earlier run is kept: %w", container.ErrNotFound)
	case name != "":
		return nil, fmt.Errorf("container %q has not run here: %w", name, container.ErrNotFound)
	}
	return nil, fmt.Errorf("no container has run here yet: %w", container.ErrNotFound)
}

// report says the Pod's status as it is now.
func (w *worker) report(ctx context.Context, pod *corev1.Pod, have []container.Status) {
	v := view{
		pod: pod, have: have, words: w.lastWords(ctx, pod, have), now: w.node.cfg.Now(),
		notes: map[string]*note{}, health: map[string]health{},
		hostIP: w.node.cfg.Address.String(), podIP: w.place().podIP,
	}
	for _, m := range membersOf(pod) {
		name := m.Name
		v.notes[name] = cmp.Or(w.pullNote(name), w.notes[name])
		v.health[name] = health{started: true, ready: true}
		if p := w.probes[name]; p != nil {
			v.health[name] = p.state()
		}
		if attempts := attemptsOf(name, have); len(attempts) > 0 {
			if pending, err := w.hooked(attempts[0].ID); pending || err != nil {
				v.health[name] = health{}
			}
		}
	}
	_, v.expired = w.expiry(pod)
	v.evicted = w.evicted
	v.waits = waitsFor(membersOf(pod), have, w.isUp(have))
	w.node.reports.pod(pod, podStatus(v))
}
