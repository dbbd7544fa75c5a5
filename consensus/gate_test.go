package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// agreeing is a transport to followers that agree to everything, and counts.
type agreeing struct {
	preVoteTransport
	asked int
}

func (a *agreeing) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	a.asked++
	resp.Term, resp.Success, resp.LastLog = req.Term, true, 9
	return nil
}

func TestHeartbeatsAreSentOnlyAsOftenAsTheyMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &agreeing{}
		g := &gate{preVoteTransport: to, peers: map[raft.ServerID]peer{}, acked: make(chan struct{})}
		send := func(req raft.AppendEntriesRequest, want int, why string) {
			t.Helper()
			before := to.asked
			resp := &raft.AppendEntriesResponse{}
			if err := g.AppendEntries("n2", "n2", &req, resp); err != nil {
				t.Fatal(err)
			}
			if !resp.Success || resp.Term != req.Term || resp.LastLog != 9 {
				t.Errorf("%s: the answer is %+v, want that of the follower", why, resp)
			}
			if got := to.asked - before; got != want {
				t.Errorf("%s: the follower was asked %d times, want %d", why, got, want)
			}
		}
		beat := raft.AppendEntriesRequest{Term: 3}
		send(beat, 1, "the first heartbeat")
		time.Sleep(beatEvery / 2)
		send(beat, 0, "one right after")
		send(raft.AppendEntriesRequest{Term: 4}, 1, "one of a new term")
		send(beat, 1, "one of another term again")
		send(raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 5, Entries: []*raft.Log{{}}}, 1, "entries")
		g.mark()
		send(beat, 1, "one by which leadership is confirmed")
		send(beat, 0, "one after that")
		time.Sleep(beatEvery)
		send(beat, 1, "one when its time has come")
	})
}

// Raft answers into one response again and again, and its transport decodes into
// the bytes that are there.
func TestTheGatesAnswerSharesNoBytesWithTheHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{preVoteTransport: &agreeing{}, peers: map[raft.ServerID]peer{}, acked: make(chan struct{})}
		req := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte("n1"), Addr: []byte("n1")}, Term: 3}
		resp := &raft.AppendEntriesResponse{}
		for range 2 { // the second is answered here
			if err := g.AppendEntries("n2", "n2", req, resp); err != nil {
				t.Fatal(err)
			}
		}
		resp.ID = append(resp.ID[:0], "n2"...)
		resp.Addr = append(resp.Addr[:0], "n2"...)
		if string(req.ID) != "n1" || string(req.Addr) != "n1" {
			t.Errorf("the heartbeat now says that %s at %s leads, want n1", req.ID, req.Addr)
		}
	})
}
