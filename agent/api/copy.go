package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// A Copy is what an agent without a vote keeps of the agreed objects: the
// Nodes, the Images and the Pods that are its own.
type Copy interface {
	Store() *state.Store
	Contact() time.Time // when it was last up to date, zero if not since the start
}

// copied is the agreed state as far as a Copy has it, with nobody to agree with.
type copied struct {
	Consensus
	copy Copy
}

func (c copied) Store() *state.Store                              { return c.copy.Store() }
func (c copied) Contact() time.Time                               { return c.copy.Contact() }
func (copied) Leader() string                                     { return "" }
func (copied) IsLeader() bool                                     { return false }
func (copied) CaughtUp() bool                                     { return false }
func (copied) Confirm(context.Context) error                      { return errNotLeader }
func (copied) Commit(context.Context, *logv1.Txn) (uint64, error) { return 0, errNotLeader }
func (copied) Remove(context.Context, string, uint64) error       { return errNotLeader }
func (copied) TransferLeadership(context.Context, string) error   { return errNotLeader }
func (c copied) Members() ([]consensus.Member, uint64, error)     { return c.Consensus.Members() }

// copyHolds are the kinds of which a Copy has something.
var copyHolds = []string{object.KindNode, object.KindImage, object.KindPod}

// fromCopy answers reads out of this agent's copy, for when no voter can be
// reached. nil where there is none.
func (s *Server) fromCopy() http.Handler {
	if s.cfg.Copy == nil {
		return nil
	}
	own := *s
	own.part = true
	own.cfg.Consensus = copied{Consensus: s.cfg.Consensus, copy: s.cfg.Copy}
	mux := http.NewServeMux()
	server := connect.NewServer(own.translated)
	skeinv1connect.RegisterClusterServiceHandler(server, &cluster{Server: &own})
	connecthttp.Mount(mux, server, connecthttp.WithReadMaxBytes(maxRead))
	return mux
}

// holds refuses what a copy knows nothing of.
func (s *Server) holds(kind object.Kind) error {
	if !s.part || slices.Contains(copyHolds, kind.Name) {
		return nil
	}
	return refuse(connect.CodeUnavailable, exitNoLeader, hintNoLeader,
		"no voter can be reached, and %s holds no %s: it knows the nodes, the images and its own Pods", s.cfg.Name, kind.Plural)
}

// partial says what an answer out of a copy cannot tell, "" of any other.
func (s *Server) partial() string {
	if !s.part {
		return ""
	}
	return "no voter can be reached; " + s.cfg.Name + " answers from its own copy, which has of the Pods only those that run here"
}
