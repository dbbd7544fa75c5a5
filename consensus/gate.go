package consensus

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

var errOffNetwork = errors.New("this node has left the network because its log does not answer")

type preVoteTransport interface {
	raft.Transport
	raft.WithPreVote
}

// A gate lets a node leave the network while its disk hangs, and notes on the
// way how far each follower is.
type gate struct {
	preVoteTransport
	shut atomic.Bool

	mu    sync.Mutex
	peers map[raft.ServerID]peer
	round uint64        // counts marks
	acked chan struct{} // closed when a follower has answered
}

// A peer is what a follower answered last.
type peer struct {
	lastIndex uint64
	heard     time.Time
	round     uint64 // in which it was asked what it then agreed to
}

func newGate(t raft.Transport) (*gate, error) {
	inner, ok := t.(preVoteTransport)
	if !ok {
		return nil, errors.New("transport cannot ask for pre-votes")
	}
	return &gate{preVoteTransport: inner, peers: make(map[raft.ServerID]peer), acked: make(chan struct{})}, nil
}

func (g *gate) open()        { g.shut.Store(false) }
func (g *gate) close()       { g.shut.Store(true) }
func (g *gate) closed() bool { return g.shut.Load() }

func (g *gate) pass() error {
	if g.closed() {
		return errOffNetwork
	}
	return nil
}

func (g *gate) peer(id raft.ServerID) (peer, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.peers[id]
	return p, ok
}

// Close ends the transport for good.
func (g *gate) Close() error {
	if c, ok := g.preVoteTransport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

// AppendEntries carries heartbeats too, several a second even while entries go
// through a pipeline, so their answers tell how far the follower is.
func (g *gate) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := g.pass(); err != nil {
		return err
	}
	g.mu.Lock()
	round := g.round
	g.mu.Unlock()
	if err := g.preVoteTransport.AppendEntries(id, target, req, resp); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := peer{lastIndex: resp.LastLog, heard: time.Now(), round: g.peers[id].round}
	if resp.Success && resp.Term == req.Term {
		p.round = max(p.round, round)
	}
	g.peers[id] = p
	close(g.acked)
	g.acked = make(chan struct{})
	return nil
}

// mark begins a round and returns its number: answers count for it only if they
// were asked for after this.
func (g *gate) mark() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.round++
	return g.round
}

// agreed returns how many of the names agreed in a round or a later one, and a
// channel that is closed when there is an answer that was not counted.
func (g *gate) agreed(round uint64, names []string) (int, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, name := range names {
		if g.peers[raft.ServerID(name)].round >= round {
			n++
		}
	}
	return n, g.acked
}

func (g *gate) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := g.pass(); err != nil {
		return nil, err
	}
	p, err := g.preVoteTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return gatedPipeline{p, g}, nil
}

func (g *gate) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.preVoteTransport.RequestVote(id, target, req, resp)
}

func (g *gate) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.preVoteTransport.RequestPreVote(id, target, req, resp)
}

func (g *gate) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.preVoteTransport.InstallSnapshot(id, target, req, resp, data)
}

func (g *gate) TimeoutNow(id raft.ServerID, target raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.preVoteTransport.TimeoutNow(id, target, req, resp)
}

// SetHeartbeatHandler makes heartbeats, which bypass raft's main loop, stop at a
// shut gate too: a voter that cannot write should not count as one.
func (g *gate) SetHeartbeatHandler(handle func(raft.RPC)) {
	g.preVoteTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if err := g.pass(); err != nil {
			rpc.Respond(nil, err)
			return
		}
		handle(rpc)
	})
}

type gatedPipeline struct {
	raft.AppendPipeline
	gate *gate
}

// pipelinePatience is how long one append may wait for room in its pipeline.
const pipelinePatience = 3 * time.Second

// AppendEntries closes a pipeline that does not move. The library's stops reading
// answers once a follower refuses an entry or its leader steps down, while the
// sender may wait for room that only read answers make: both wait for ever, the
// follower gets nothing more, and raft cannot be stopped.
func (p gatedPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.gate.pass(); err != nil {
		return nil, err
	}
	stuck := time.AfterFunc(pipelinePatience, func() { _ = p.Close() }) // the sender is told by its own call
	defer stuck.Stop()
	return p.AppendPipeline.AppendEntries(req, resp)
}
