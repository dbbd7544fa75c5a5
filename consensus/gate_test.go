package consensus

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// slowTransport answers when it is told to.
type slowTransport struct {
	*raft.InmemTransport
	asked, answer chan struct{}
	success       bool
}

func (s *slowTransport) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	s.asked <- struct{}{}
	<-s.answer
	*resp = raft.AppendEntriesResponse{Term: req.Term, LastLog: 7, Success: s.success}
	return nil
}

func TestAnswersToEarlierQuestionsConfirmNothing(t *testing.T) {
	_, inner := raft.NewInmemTransport("n1")
	slow := &slowTransport{InmemTransport: inner, asked: make(chan struct{}), answer: make(chan struct{}), success: true}
	g, err := newGate(slow)
	if err != nil {
		t.Fatal(err)
	}
	call := func(during func()) {
		t.Helper()
		done := make(chan error)
		go func() {
			done <- g.AppendEntries("n2", "n2", &raft.AppendEntriesRequest{Term: 3}, &raft.AppendEntriesResponse{})
		}()
		<-slow.asked
		during()
		slow.answer <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	var round uint64
	_, more := g.agreed(0, nil)
	call(func() { round = g.mark() })
	select {
	case <-more:
	default:
		t.Error("nobody was told of an answer")
	}
	if n, _ := g.agreed(round, []string{"n2", "n3"}); n != 0 {
		t.Error("an answer counts that was asked for before")
	}
	slow.success = false
	call(func() {})
	if n, _ := g.agreed(round, []string{"n2"}); n != 0 {
		t.Error("a refusal counts")
	}
	slow.success = true
	call(func() {})
	if n, _ := g.agreed(round, []string{"n2", "n3"}); n != 1 {
		t.Errorf("%d agreed, want n2 alone", n)
	}
	if p, ok := g.peer("n2"); !ok || p.lastIndex != 7 {
		t.Errorf("n2 is known to be at %d (%v)", p.lastIndex, ok)
	}
	g.close()
	if err := g.AppendEntries("n2", "n2", nil, nil); !errors.Is(err, errOffNetwork) {
		t.Errorf("a shut gate answered %v", err)
	}
}
