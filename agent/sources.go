package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// How long to wait before a voter is asked again for the sources of this node's
// Pods.
const (
	sourceRetry    = 100 * time.Millisecond
	sourceMaxRetry = 5 * time.Second
)

// followSources has this node's Pods hear of the ConfigMaps and Secrets that they
// name: from the leader, else from a voter, which may be this node.
func (a *Agent) followSources(ctx context.Context) error {
	retry := sourceRetry
	for ctx.Err() == nil {
		turned := a.compass.turns() // taken before anybody is asked
		begun, err := a.hearSources(ctx)
		if begun {
			retry = sourceRetry
		}
		a.log.DebugContext(ctx, "nobody tells of ConfigMaps and Secrets", "err", err, "retry", retry)
		pause := time.NewTimer(retry/2 + rand.N(retry/2)) //nolint:gosec // spreads load, keeps no secret
		select {
		case <-ctx.Done():
		case <-turned:
			retry = sourceRetry
		case <-pause.C:
			retry = min(2*retry, sourceMaxRetry)
		}
		pause.Stop()
	}
	return nil
}

// hearSources hears one voter until it ends, or another leads, and tells whether
// it said anything.
func (a *Agent) hearSources(ctx context.Context) (begun bool, err error) {
	leader := a.leader()
	ctx, cancel := a.whileLeads(ctx, leader)
	defer cancel()
	take := func(msg *skeinv1.SourcesResponse) error {
		begun = begun || msg.GetSynced()
		a.node.TakeSource(msg)
		return nil
	}
	in, votes := a.member()
	voter := leader
	switch {
	case leader == a.cfg.Name, leader == "" && in && votes && a.raft.CaughtUp():
		return begun, errors.Join(a.api.SourcesOf(ctx, a.cfg.Name, take), ctx.Err())
	case leader == "":
		if _, voter, err = a.inquire(ctx); err != nil {
			return false, err
		}
		if voter == "" {
			return false, errNobody
		}
	}
	stream, err := a.peers.sources(voter).Sources(ctx, &skeinv1.SourcesRequest{})
	if err != nil {
		return false, err
	}
	defer func() { _ = stream.Close() }() // it has ended, or nobody hears it
	for {
		msg, err := stream.Receive()
		if err != nil {
			return begun, err
		}
		_ = take(msg) // it cannot fail
	}
}

func (p *peers) sources(node string) skeinv1connect.SourceServiceClient {
	return skeinv1connect.NewSourceServiceClient(connect.NewClient(connecthttp.NewTransport(p.http, "http://"+node, connecthttp.WithReadMaxBytes(maxAnswer))))
}
