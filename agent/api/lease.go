package api

import (
	"context"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/consensus"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Lease grants the calling node leases of its own exclusive Pods.
func (p *peer) Lease(ctx context.Context, req *skeinv1.LeaseRequest) (*skeinv1.LeaseResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, consensus.ErrNotLeader
	}
	if len(req.GetPods()) > maxReportPods {
		return nil, badRequest("a request for %d leases is too large", len(req.GetPods()))
	}
	granted, err := p.cfg.Duties.Lease(ctx, identity.PeerName(ctx), req.GetPods())
	if err != nil {
		return nil, err
	}
	return &skeinv1.LeaseResponse{Granted: granted}, nil
}
