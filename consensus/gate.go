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
	term      uint64 // that it agreed to last
	asked     time.Time
}

// beatEvery is how soon after a heartbeat that was agreed to the next one is
// sent. Raft wants to send one every 30-60 ms, a tenth of its timeout, and each
// wakes two processes that have nothing else to do: most of what an idle cluster
// costs. At this pace a follower still hears three in its shortest timeout.
const beatEvery = 75 * time.Millisecond

// fresh answers a heartbeat in place of a follower that has just agreed to one
// of the same term. It never does while somebody wants leadership confirmed.
func (g *gate) fresh(id raft.ServerID, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) bool {
	if len(req.Entries) > 0 || req.PrevLogEntry != 0 || req.LeaderCommitIndex != 0 {
		return false // no heartbeat
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers[id]
	if p.term != req.Term || p.round < g.round || time.Since(p.asked) >= beatEvery {
		return false
	}
	// Raft uses resp again, and decodes the next answer into the bytes that it
	// holds: they must not be those of req, which say who leads.
	resp.RPCHeader = raft.RPCHeader{ProtocolVersion: req.ProtocolVersion}
	resp.Term, resp.LastLog, resp.Success = req.Term, p.lastIndex, true
	return true
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
	if g.fresh(id, req, resp) {
		return nil
	}
	g.mu.Lock()
	round := g.round
	g.mu.Unlock()
	asked := time.Now()
	if debugBeat { println("real", string(id), time.Since(g.peers[id].asked).Milliseconds(), len(req.Entries), req.PrevLogEntry, req.LeaderCommitIndex) }
	if err := g.preVoteTransport.AppendEntries(id, target, req, resp); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := peer{lastIndex: resp.LastLog, heard: time.Now(), round: g.peers[id].round}
	if resp.Success && resp.Term == req.Term {
		p.round, p.term, p.asked = max(p.round, round), req.Term, asked
	}
	g.peers[id] = p
	close(g.acked)
	g.acked = make(chan struct{})
	return nil
}

// mark begins a round and returns its number: answers count for it only if they
// were asked for after this.
var debugBeat bool

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

func (p gatedPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.gate.pass(); err != nil {
		return nil, err
	}
	return p.AppendPipeline.AppendEntries(req, resp)
}
