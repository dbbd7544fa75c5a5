package consensus

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// A fullPipeline has no room until it is closed.
type fullPipeline struct {
	raft.AppendPipeline
	closed chan struct{}
}

func (p fullPipeline) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	<-p.closed
	return nil, raft.ErrPipelineShutdown
}

func (p fullPipeline) Close() error {
	close(p.closed)
	return nil
}

// Found by the simulation: a follower whose disk was full refused an entry, and
// its leader's sender waited for ever for room in the pipeline.
func TestAPipelineThatDoesNotMoveIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, inner := raft.NewInmemTransport("n1")
		g, err := newGate(inner)
		if err != nil {
			t.Fatal(err)
		}
		p := gatedPipeline{AppendPipeline: fullPipeline{closed: make(chan struct{})}, gate: g}
		begun := time.Now()
		_, err = p.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
		if !errors.Is(err, raft.ErrPipelineShutdown) || time.Since(begun) != pipelinePatience {
			t.Errorf("after %s: %v, want %v after %s", time.Since(begun), err, raft.ErrPipelineShutdown, pipelinePatience)
		}
	})
}
