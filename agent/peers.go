package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// peers reaches the other agents by name. Where a node is comes from gossip,
// else from its object, else from what was known when this agent stopped.
type peers struct {
	agent *Agent
	http  *http.Client

	mu      sync.Mutex
	clients map[string]skeinv1connect.PeerServiceClient
}

func newPeers(a *Agent) *peers {
	return &peers{
		agent: a, clients: map[string]skeinv1connect.PeerServiceClient{},
		http: identity.NodeClient(func(ctx context.Context, node string) (net.Conn, error) {
			return a.dial(ctx, identity.ProtoNode, node)
		}),
	}
}

// maxAnswer bounds one message that another node answers, in bytes. A part of a
// follow stream is small unless one object alone is larger, and none is larger
// than a log entry may be.
const maxAnswer = 64<<20 + 1<<10

// Client returns how to call a node.
func (p *peers) Client(node string) skeinv1connect.PeerServiceClient {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.clients[node]; ok {
		return c
	}
	c := skeinv1connect.NewPeerServiceClient(connect.NewClient(connecthttp.NewTransport(p.http, "http://"+node, connecthttp.WithReadMaxBytes(maxAnswer))))
	p.clients[node] = c
	return c
}

// Inside returns how to reach into the containers of a node.
func (p *peers) Inside(node string) skeinv1connect.InsidePeerServiceClient {
	return skeinv1connect.NewInsidePeerServiceClient(connect.NewClient(
		connecthttp.NewTransport(p.http, "http://"+node, connecthttp.WithReadMaxBytes(maxAnswer))))
}

// Layers returns how to ask a node about images on their way.
func (p *peers) Layers(node string) skeinv1connect.LayerServiceClient {
	return skeinv1connect.NewLayerServiceClient(connect.NewClient(
		connecthttp.NewTransport(p.http, "http://"+node, connecthttp.WithReadMaxBytes(maxAnswer))))
}

// Images returns how to ask a node about its images.
func (p *peers) Images(node string) skeinv1connect.ImagePeerServiceClient {
	return skeinv1connect.NewImagePeerServiceClient(connect.NewClient(
		connecthttp.NewTransport(p.http, "http://"+node, connecthttp.WithReadMaxBytes(maxAnswer))))
}

// Transport carries requests for http://<node>/….
func (p *peers) Transport() http.RoundTripper { return p.http.Transport }

// Addr returns where a node was last.
func (p *peers) Addr(node string) (netip.AddrPort, bool) {
	if addr, ok := p.agent.gossip.Addr(node); ok && addr.IsValid() {
		return addr, true
	}
	row, ok := p.agent.replica.Store().Get(state.Key{Kind: object.KindNode, Name: node})
	if ok {
		if n, ok := p.agent.book.open(row); ok && n.addr.IsValid() {
			return n.addr, true
		}
	}
	return p.agent.compass.addr(node)
}

// Votes tells whether a node votes, as far as this one was told. A node that
// takes part in raft knows that itself.
func (p *peers) Votes(node string) bool {
	in, _ := p.agent.member()
	return !in && p.agent.compass.votes(node)
}

// Probe tries to reach a node from here.
func (p *peers) Probe(ctx context.Context, node string, addr netip.AddrPort, _ uint64) skeinv1.ProbeResult {
	switch p.agent.gossip.Probe(ctx, node, addr).Outcome {
	case gossip.Alive:
		return skeinv1.ProbeResult_PROBE_RESULT_ALIVE
	case gossip.AgentGone:
		return skeinv1.ProbeResult_PROBE_RESULT_AGENT_GONE
	case gossip.Silent:
		return skeinv1.ProbeResult_PROBE_RESULT_SILENT
	case gossip.Unknown:
	}
	return skeinv1.ProbeResult_PROBE_RESULT_UNSPECIFIED
}

// Health is what gossip says of everybody.
func (p *peers) Health() map[string]api.Health {
	voters := map[string]bool{}
	if members, _, err := p.agent.raft.Members(); err == nil {
		for _, m := range members {
			voters[m.Name] = m.Voter
		}
	}
	out := map[string]api.Health{}
	for _, m := range p.agent.gossip.Members() {
		h := api.Health{
			State: m.State.String(), Voter: voters[m.Name] || p.Votes(m.Name), Seen: m.Since,
			CPU: share(m.Meta.Load.CPU), Memory: share(m.Meta.Load.Memory), Disk: share(m.Meta.Load.Disk),
		}
		out[m.Name] = h
	}
	return out
}

func share(p gossip.Permille) float64 { return float64(p) / 1000 }

// remote is another agent's store as something to follow.
type remote struct {
	client skeinv1connect.PeerServiceClient
	node   string
}

// Follow streams from the other agent.
func (r remote) Follow(ctx context.Context, since uint64, epoch string, sels []state.Selector) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		req := &skeinv1.FollowRequest{Since: since, Epoch: epoch}
		for _, s := range sels {
			req.Selectors = append(req.Selectors, &skeinv1.Selector{Kind: s.Kind, Namespace: s.Namespace, Index: s.Index})
		}
		stream, err := r.client.Follow(ctx, req)
		if err != nil {
			yield(state.Batch{}, fmt.Errorf("follow node %s: %w", r.node, err))
			return
		}
		defer func() { _ = stream.Close() }()
		for {
			msg, err := stream.Receive()
			if err != nil {
				yield(state.Batch{}, fmt.Errorf("follow node %s: %w", r.node, err))
				return
			}
			if !yield(batch(msg), nil) {
				return
			}
		}
	}
}

// batch reads one frame of a stream.
func batch(msg *skeinv1.FollowResponse) state.Batch {
	b := state.Batch{Index: msg.GetIndex(), Reset: msg.GetReset_(), More: msg.GetMore(), Epoch: msg.GetEpoch()}
	for _, o := range msg.GetPuts() {
		b.Puts = append(b.Puts, state.RowOf(o))
	}
	for _, k := range msg.GetDeletes() {
		b.Deletes = append(b.Deletes, state.KeyOf(k))
	}
	return b
}

var errNobody = errors.New("nobody to follow: no leader, and no voter is known")

// reporter brings reports to whoever leads.
type reporter struct{ agent *Agent }

// Report says it to the leader, which may be this agent. When another leads
// meanwhile, that one must hear it: a dead leader's connection takes seconds to
// fail, in which nobody would know what runs here.
func (r reporter) Report(ctx context.Context, req *skeinv1.ReportRequest) error {
	req.Advertise = r.agent.cfg.Advertise.String() // its key is who it is, its address is news
	leader := r.agent.leader()
	switch leader {
	case "":
		return errNobody
	case r.agent.cfg.Name:
		return r.agent.api.Reported(ctx, leader, req)
	}
	ctx, cancel := r.agent.whileLeads(ctx, leader)
	defer cancel()
	_, err := r.agent.peers.Client(leader).Report(ctx, req)
	return err
}

// suspicion tells the leader that this node misses another.
func (r reporter) suspicion(ctx context.Context, rep gossip.Report) {
	req := &skeinv1.SuspectRequest{
		Node: rep.Node, Epoch: rep.Epoch, Cleared: rep.Cleared, View: rep.View, SilentMs: rep.Silent.Milliseconds(),
	}
	leader := r.agent.leader()
	switch leader {
	case "", rep.Node:
		return // it is repeated every second, and to the next leader at once
	case r.agent.cfg.Name:
		r.agent.duties.Suspect(leader, req)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := r.agent.peers.Client(leader).Suspect(ctx, req); err != nil {
		r.agent.log.Debug("the leader has not heard a suspicion", "node", rep.Node, "err", err)
	}
}

// Lease asks whoever leads, which may be this agent.
func (r reporter) Lease(ctx context.Context, pods []string) ([]string, error) {
	leader := r.agent.leader()
	switch leader {
	case "":
		return nil, errNobody
	case r.agent.cfg.Name:
		return r.agent.duties.Lease(ctx, leader, pods)
	}
	ctx, cancel := r.agent.whileLeads(ctx, leader)
	defer cancel()
	answer, err := r.agent.peers.Client(leader).Lease(ctx, &skeinv1.LeaseRequest{Pods: pods})
	return answer.GetGranted(), err
}
