package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// fromVoter refuses a call that only a voter may make.
func (s *Server) fromVoter(ctx context.Context) error {
	name := identity.PeerName(ctx)
	if s.votes(name) || s.cfg.Peers.Votes(name) {
		return nil
	}
	return refuse(connect.CodePermissionDenied, exitDenied, "", "node %s has no vote", name)
}

// Follow streams to a node what concerns it, and tells the leader's duties
// whether its agent is there.
func (p *peer) Follow(ctx context.Context, req *skeinv1.FollowRequest, stream skeinv1connect.PeerServiceFollowServerStream) error {
	if !p.voter() || !p.cfg.Consensus.CaughtUp() {
		return errNotLeader // what this copy lacks must not read as deleted
	}
	name := identity.PeerName(ctx)
	var sels []state.Selector
	for _, sel := range req.GetSelectors() {
		if err := mayFollow(name, sel); err != nil {
			return err
		}
		sels = append(sels, state.Selector{
			Kind: sel.GetKind(), Namespace: sel.GetNamespace(), Index: sel.GetIndex(),
			Late: sel.GetKind() == object.KindNode || sel.GetKind() == object.KindImage,
		})
	}
	p.followers.Add(1)
	defer p.followers.Add(-1)
	ctx, cancel := p.whileLed(ctx)
	defer cancel()
	if p.cfg.Consensus.IsLeader() {
		p.cfg.Duties.StreamOpened(name)
		defer p.cfg.Duties.StreamClosed(name)
	}
	for batch, err := range p.cfg.Consensus.Store().FollowLate(ctx, req.GetSince(), req.GetEpoch(), sels, p.later) {
		if err != nil {
			return err
		}
		if err := stream.Send(follow(batch)); err != nil {
			return err
		}
	}
	return nil
}

// What every node follows is told to each of them whenever it changes anywhere,
// so that its cost grows with the square of their number: they are told later
// the more they are. Their own Pods they hear of at once.
const (
	laterEach = time.Millisecond
	latest    = time.Second
)

func (p *peer) later() <-chan time.Time {
	return time.After(min(time.Duration(p.followers.Load())*laterEach, latest))
}

// mayFollow lets a node read what every node must know, and its own Pods.
func mayFollow(node string, sel *skeinv1.Selector) error {
	switch sel.GetKind() {
	case object.KindNode, object.KindImage, object.KindKeyring, object.KindService, object.KindEndpointSlice, object.KindSelection:
		return nil
	case object.KindPod:
		if sel.GetIndex() == object.NodeIndex(node) {
			return nil
		}
	}
	return refuse(connect.CodePermissionDenied, exitDenied, "", "node %s may not follow %s %s", node, sel.GetKind(), sel.GetIndex())
}

// whileLed ends the context when leadership moves, so that those who follow
// this agent look for the new leader.
func (s *Server) whileLed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	before := s.cfg.Consensus.Leader()
	go func() {
		for {
			changed := s.cfg.Consensus.LeaderChanged()
			if s.cfg.Consensus.Leader() != before {
				cancel()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return ctx, cancel
}

func follow(b state.Batch) *skeinv1.FollowResponse {
	out := &skeinv1.FollowResponse{Index: b.Index, Reset_: b.Reset, More: b.More, Epoch: b.Epoch}
	for _, row := range b.Puts {
		out.Puts = append(out.Puts, row.Object())
	}
	for _, key := range b.Deletes {
		out.Deletes = append(out.Deletes, key.Proto())
	}
	return out
}

// maxReportPods bounds one report.
const maxReportPods = 1000

// Report takes what a node says of itself and of its own Pods, and nothing else.
func (p *peer) Report(ctx context.Context, req *skeinv1.ReportRequest) (*skeinv1.ReportResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, consensus.ErrNotLeader
	}
	if len(req.GetPods()) > maxReportPods {
		return nil, badRequest("a report of %d Pods is too large", len(req.GetPods()))
	}
	name := identity.PeerName(ctx)
	if err := p.Reported(ctx, name, req); err != nil {
		return nil, err
	}
	return &skeinv1.ReportResponse{}, nil
}

// Reported writes what a node reports into the log. The leader's own node
// calls it directly.
func (s *Server) Reported(ctx context.Context, name string, req *skeinv1.ReportRequest) error {
	for range conflictTries {
		txn := &logv1.Txn{}
		for _, pod := range req.GetPods() {
			op, err := s.podReport(name, pod)
			if err != nil {
				return err
			}
			if op != nil {
				txn.Ops = append(txn.Ops, op)
			}
		}
		op, err := s.nodeReport(name, req)
		if err != nil {
			return err
		}
		if op != nil {
			txn.Ops = append(txn.Ops, op)
		}
		if len(txn.Ops) > 0 {
			_, err = s.cfg.Consensus.Commit(ctx, txn)
		}
		var conflict *state.ConflictError
		if errors.As(err, &conflict) {
			continue
		}
		if err != nil {
			return err
		}
		s.cfg.Duties.Heard(name)
		s.record(name, req.GetEvents())
		return nil
	}
	return refuse(connect.CodeAborted, exitFailed, "", "the objects of the report keep changing")
}

// conflictTries is how often a read-think-write is tried again.
const conflictTries = 10

// podReport returns the change that a Pod's status makes, nil if none.
func (s *Server) podReport(node string, report *skeinv1.PodStatus) (*logv1.Op, error) {
	key := state.Key{Kind: object.KindPod, Namespace: report.GetNamespace(), Name: report.GetName()}
	row, ok := s.cfg.Consensus.Store().Get(key)
	if !ok || row.UID != report.GetUid() {
		return nil, nil // it is gone; its node will hear
	}
	pod, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != node {
		return nil, refuse(connect.CodePermissionDenied, exitDenied, "", "pod %s is not on node %s", key, node)
	}
	if report.GetGone() {
		if pod.DeletionTimestamp == nil {
			return nil, nil
		}
		return object.Delete(key, row.Version), nil
	}
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == object.ReasonNodeLost {
		return nil, nil // it was given up while its machine was away, and stays so
	}
	var status corev1.PodStatus
	if err := json.Unmarshal(report.GetStatus(), &status); err != nil {
		return nil, badRequest("status of pod %s: %v", key, err)
	}
	for _, c := range pod.Status.Conditions { // the scheduler's own
		if c.Type == corev1.PodScheduled {
			status.Conditions = append(without(status.Conditions, c.Type), c)
		}
	}
	pod.Status = status
	return putIfChanged(pod, row)
}

func without(list []corev1.PodCondition, t corev1.PodConditionType) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range list {
		if c.Type != t {
			out = append(out, c)
		}
	}
	return out
}

// nodeReport returns the change to the Node that a report makes, nil if none.
func (s *Server) nodeReport(name string, req *skeinv1.ReportRequest) (*logv1.Op, error) {
	if len(req.GetNodeStatus()) == 0 {
		return nil, nil
	}
	row, ok := s.cfg.Consensus.Store().Get(state.Key{Kind: object.KindNode, Name: name})
	if !ok {
		return nil, refuse(connect.CodePermissionDenied, exitDenied, "", "node %s is not in the cluster", name)
	}
	node, err := object.Decode[corev1.Node](row)
	if err != nil {
		return nil, err
	}
	var status corev1.NodeStatus
	if err := json.Unmarshal(req.GetNodeStatus(), &status); err != nil {
		return nil, badRequest("status of node %s: %v", name, err)
	}
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady // whether it is there is the leader's to say
	})
	for _, c := range node.Status.Conditions { // the leader's verdict, and times of what did not change
		found := false
		for i := range status.Conditions {
			if status.Conditions[i].Type == c.Type {
				found = true
				if status.Conditions[i].Status == c.Status {
					status.Conditions[i].LastTransitionTime = c.LastTransitionTime
				}
			}
		}
		if !found && !object.Short(c.Type) { // what it is short of is its own to say, and it does no longer
			status.Conditions = append(status.Conditions, c)
		}
	}
	node.Status = status
	if addr, err := netip.ParseAddrPort(req.GetAdvertise()); err == nil && node.Annotations[object.AnnotationAdvertise] != addr.String() {
		node.Annotations = maps.Clone(node.Annotations) // it has one: its key
		node.Annotations[object.AnnotationAdvertise] = addr.String()
	}
	if err := ownLabels(node, req.GetNodeLabels()); err != nil {
		return nil, err
	}
	return putIfChanged(node, row)
}

// ownLabels adds what a machine says of itself. A label that a person has set
// stays as it is, and the labels of the leader are not the machine's to set.
func ownLabels(node *corev1.Node, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	var labels map[string]string
	if err := json.Unmarshal(body, &labels); err != nil {
		return badRequest("labels of node %s: %v", node.Name, err)
	}
	for k, v := range labels {
		if k == object.LabelLeader || (k == object.LabelVoter && v != "never") {
			continue
		}
		if _, set := node.Labels[k]; set {
			continue
		}
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		node.Labels[k] = v
	}
	return nil
}

// Suspect takes note that a node misses another's beats.
func (p *peer) Suspect(ctx context.Context, req *skeinv1.SuspectRequest) (*skeinv1.SuspectResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, consensus.ErrNotLeader
	}
	p.cfg.Duties.Suspect(identity.PeerName(ctx), req)
	return &skeinv1.SuspectResponse{}, nil
}

// Probe tries to reach a node, for the leader.
func (p *peer) Probe(ctx context.Context, req *skeinv1.ProbeRequest) (*skeinv1.ProbeResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddrPort(req.GetAddr())
	if err != nil {
		return nil, badRequest("address %q: %v", req.GetAddr(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return &skeinv1.ProbeResponse{Result: p.cfg.Peers.Probe(ctx, req.GetNode(), addr, req.GetEpoch())}, nil
}

// Renew signs a new certificate for the key that the caller has enrolled.
func (p *peer) Renew(ctx context.Context, req *skeinv1.RenewRequest) (*skeinv1.RenewResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, consensus.ErrNotLeader
	}
	name := identity.PeerName(ctx)
	key, err := x509.ParsePKIXPublicKey(req.GetPublicKey())
	if err != nil {
		return nil, badRequest("public key: %v", err)
	}
	if err := p.verify(name, key); err != nil {
		return nil, refuse(connect.CodePermissionDenied, exitDenied, "", "renew the certificate of node %s: %v", name, err)
	}
	der, err := p.Sign(ctx, name, req.GetPublicKey())
	if err != nil {
		return nil, err
	}
	return &skeinv1.RenewResponse{Certificate: der}, nil
}

// Sign makes a node certificate. It needs the cluster's CA, so only a voter can.
func (s *Server) Sign(ctx context.Context, name string, publicKey []byte) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(publicKey)
	if err != nil {
		return nil, badRequest("public key: %v", err)
	}
	ca, err := s.cfg.Voting.Authority(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the cluster's CA: %w", err)
	}
	return ca.Sign(key, name, s.cfg.Now())
}

// Prepare takes what a voter must hold.
func (p *peer) Prepare(ctx context.Context, req *skeinv1.PrepareRequest) (*skeinv1.PrepareResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	if err := p.cfg.Voting.Accept(req.GetSealingKey()); err != nil {
		return nil, err
	}
	return &skeinv1.PrepareResponse{}, nil
}

// blobChunk is how much of an image travels in one message, in bytes.
const blobChunk = 256 << 10

// Blob serves a piece of an image to another node.
func (p *peer) Blob(ctx context.Context, req *skeinv1.BlobRequest, stream skeinv1connect.PeerServiceBlobServerStream) error {
	r, size, err := p.cfg.Images.Blob(ctx, req.GetDigest(), req.GetOffset())
	if err != nil {
		return refuse(connect.CodeNotFound, exitFailed, "", "blob %s: %v", req.GetDigest(), err)
	}
	defer r.Close()
	if err := stream.Send(&skeinv1.BlobResponse{Size: size}); err != nil {
		return err
	}
	buf := make([]byte, blobChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := stream.Send(&skeinv1.BlobResponse{Chunk: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read blob %s: %w", req.GetDigest(), err)
		}
	}
}

// maxFailed bounds how many machines a question names.
const maxFailed = 1000

// FindBlob answers for the desk of a blob.
func (p *peer) FindBlob(ctx context.Context, req *skeinv1.FindBlobRequest) (*skeinv1.FindBlobResponse, error) {
	if len(req.GetDigest()) > 128 || len(req.GetFailed()) > maxFailed {
		return nil, badRequest("that is no question about a blob")
	}
	return p.cfg.Images.Find(identity.PeerName(ctx), req), nil
}

// Leader tells who leads.
func (p *peer) Leader(context.Context, *skeinv1.LeaderRequest) (*skeinv1.LeaderResponse, error) {
	return &skeinv1.LeaderResponse{Leader: p.cfg.Consensus.Leader(), Voters: p.peers()}, nil
}
