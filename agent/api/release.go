package api

import (
	"context"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Ack takes a node's word on its own maps.
func (p *peer) Ack(ctx context.Context, req *skeinv1.AckRequest) (*skeinv1.AckResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, consensus.ErrNotLeader
	}
	p.cfg.Duties.Acked(identity.PeerName(ctx), req.GetIndex())
	return &skeinv1.AckResponse{}, nil
}

// Release lets a node wait for the others to let go of a Pod of its own.
func (p *peer) Release(ctx context.Context, req *skeinv1.ReleaseRequest) (*skeinv1.ReleaseResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, consensus.ErrNotLeader
	}
	late, err := p.Released(ctx, identity.PeerName(ctx), req)
	return &skeinv1.ReleaseResponse{Late: late}, err
}

// Released is Release for a node that is known. The leader's own calls it directly.
func (s *Server) Released(ctx context.Context, node string, req *skeinv1.ReleaseRequest) (late []string, err error) {
	key := state.Key{Kind: object.KindPod, Namespace: req.GetNamespace(), Name: req.GetName()}
	row, ok := s.cfg.Consensus.Store().Get(key)
	if !ok || row.UID != req.GetUid() {
		return nil, nil // it is gone for all
	}
	pod, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != node {
		return nil, refuse(connect.CodePermissionDenied, exitDenied, "", "pod %s is not on node %s", key, node)
	}
	return s.cfg.Duties.Released(ctx, key, req.GetUid())
}
