package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// maxLogPods bounds how many Pods one call reads at once.
const maxLogPods = 100

// Logs merges the output of the Pods that are meant. Following, it takes in
// Pods that come later.
func (c *cluster) Logs(ctx context.Context, req *skeinv1.LogsRequest, stream skeinv1connect.ClusterServiceLogsServerStream) error {
	if err := need(ctx, RoleView); err != nil {
		return err
	}
	pick, err := c.logPods(req)
	if err != nil {
		return err
	}
	pods, err := pick()
	if err != nil {
		return err
	}
	switch {
	case len(pods) == 0:
		return refuse(connect.CodeNotFound, exitFailed, "see what there is with \"skein get pods\"", "no Pod has logs to show")
	case len(pods) > maxLogPods:
		return badRequest("%d Pods are meant, and %d at most can be read at once; choose with -l", len(pods), maxLogPods)
	}
	if err := knownContainer(pods[0], req.GetContainer()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &merger{server: c.Server, req: req, stream: stream, cancel: cancel, seen: map[types.UID]bool{}, alone: len(pods) == 1}
	m.start(ctx, pods)
	if req.GetFollow() {
		c.followPods(ctx, pick, m)
	}
	m.wait.Wait()
	return cmp.Or(m.sendErr, m.err)
}

// followPods takes in Pods that come while others are read.
func (c *cluster) followPods(ctx context.Context, pick func() ([]*corev1.Pod, error), m *merger) {
	watch := c.cfg.Consensus.Store().Changed(state.Selector{Kind: object.KindPod})
	defer watch.Close()
	ended := make(chan struct{})
	go func() {
		m.wait.Wait()
		close(ended)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			return
		case <-watch.C():
			if pods, err := pick(); err == nil {
				m.start(ctx, pods)
			}
		}
	}
}

// logPods returns how to find the Pods that a request means.
func (c *cluster) logPods(req *skeinv1.LogsRequest) (func() ([]*corev1.Pod, error), error) {
	if len(req.GetObjects()) == 0 && req.GetLabelSelector() == "" {
		return nil, badRequest("say whose logs: a Pod, deploy/NAME, or -l SELECTOR")
	}
	match, err := object.MatchLabels(req.GetLabelSelector())
	if err != nil {
		return nil, badRequest("%v", err)
	}
	ns := namespaceOr(req.GetNamespace())
	if len(req.GetObjects()) == 0 {
		return func() ([]*corev1.Pod, error) { return c.pods(ns, "", match) }, nil
	}
	for _, ref := range req.GetObjects() {
		if ref.GetNamespace() == "" {
			ref.Namespace = ns
		}
	}
	return func() ([]*corev1.Pod, error) {
		var out []*corev1.Pod
		for _, ref := range req.GetObjects() {
			pods, err := c.podsOf(ref)
			if err != nil {
				return nil, err
			}
			out = append(out, pods...)
		}
		return out, nil
	}, nil
}

// A merger reads many Pods into one stream.
type merger struct {
	server *Server
	req    *skeinv1.LogsRequest
	stream skeinv1connect.ClusterServiceLogsServerStream
	cancel context.CancelFunc
	alone  bool // one Pod is meant: what is wrong with it fails the call
	wait   sync.WaitGroup

	mu      sync.Mutex
	seen    map[types.UID]bool
	sendErr error
	err     error
}

func (m *merger) start(ctx context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		m.mu.Lock()
		fresh := !m.seen[pod.UID] && pod.Spec.NodeName != "" && len(m.seen) < maxLogPods
		if fresh && m.req.GetFollow() && !hasRun(pod) {
			fresh = false // its status will wake us again
		}
		if fresh {
			m.seen[pod.UID] = true
		}
		m.mu.Unlock()
		if fresh {
			m.wait.Go(func() { m.read(ctx, pod) })
		}
	}
}

func hasRun(pod *corev1.Pod) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

func (m *merger) send(msg *skeinv1.LogsResponse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sendErr == nil {
		if m.sendErr = m.stream.Send(msg); m.sendErr != nil {
			m.cancel()
		}
	}
	return m.sendErr
}

func (m *merger) read(ctx context.Context, pod *corev1.Pod) {
	err := m.server.podLogs(ctx, pod, m.req, m.send)
	if err == nil || ctx.Err() != nil {
		return
	}
	if m.alone {
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
		return
	}
	_ = m.send(&skeinv1.LogsResponse{Pod: pod.Name, Notice: "no logs of pod " + pod.Name + ": " + m.server.said(ctx, err)}) // send keeps its own error
}

// podLogs reads one Pod from the machine that it runs on.
func (s *Server) podLogs(ctx context.Context, pod *corev1.Pod, req *skeinv1.LogsRequest, send func(*skeinv1.LogsResponse) error) error {
	err := s.readLogs(ctx, pod, req, send)
	var missing NotFound
	if err == nil || !errors.As(err, &missing) && connect.CodeOf(err) != connect.CodeNotFound {
		return err
	}
	what, hint := "output", "see how it is with \"skein describe pod/"+pod.Name+"\""
	if req.GetPrevious() {
		what, hint = "output of an earlier run", "leave out -p to see the run that is there"
	}
	return refuse(connect.CodeNotFound, exitFailed, hint, "no %s of pod %q is kept", what, pod.Name)
}

func (s *Server) readLogs(ctx context.Context, pod *corev1.Pod, req *skeinv1.LogsRequest, send func(*skeinv1.LogsResponse) error) error {
	ask := &skeinv1.PodLogsRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Uid: string(pod.UID), Container: req.GetContainer(),
		Follow: req.GetFollow(), Previous: req.GetPrevious(), SinceMs: req.GetSinceMs(), TailLines: req.GetTailLines(),
		Batches: req.GetBatches(),
	}
	if pod.Spec.NodeName == s.cfg.Name {
		return s.cfg.Pods.PodLogs(ctx, ask, send)
	}
	remote, err := s.cfg.Peers.Client(pod.Spec.NodeName).PodLogs(ctx, ask)
	if err != nil {
		return s.unreachable(pod.Spec.NodeName, err)
	}
	defer func() { _ = remote.Close() }()
	for {
		msg, err := remote.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.unreachable(pod.Spec.NodeName, err)
		}
		if err := send(msg); err != nil {
			return err
		}
	}
}

// tail returns the last lines that a Pod has written, for an explanation.
func (s *Server) tail(ctx context.Context, pod *corev1.Pod, lines int64) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var out []string
	keep := func(msg *skeinv1.LogsResponse) error {
		out = append(out, string(msg.GetLine()))
		return nil
	}
	for _, previous := range []bool{false, true} {
		req := &skeinv1.LogsRequest{TailLines: lines, Previous: previous}
		if err := s.podLogs(ctx, pod, req, keep); err == nil && len(out) > 0 {
			break
		}
	}
	return out
}

// PodLogs serves the output of a Pod of this machine, to a voter, which has
// checked that its person may see it.
func (p *peer) PodLogs(ctx context.Context, req *skeinv1.PodLogsRequest, stream skeinv1connect.PeerServicePodLogsServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	return p.cfg.Pods.PodLogs(ctx, req, stream.Send)
}
