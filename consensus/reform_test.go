package consensus

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

func openAt(t *testing.T, dir string) *Stores {
	t.Helper()
	s, err := OpenStores(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func putting(name, body string) *logv1.Txn {
	key := &logv1.Key{Kind: "Thing", Name: name}
	return &logv1.Txn{Ops: []*logv1.Op{{Key: key, Change: &logv1.Op_Put{Put: &logv1.Object{Key: key, Body: []byte(body)}}}}}
}

// oldLog is what a survivor of three voters holds: a few entries, the last of
// them perhaps never agreed on.
func oldLog(t *testing.T, s *Stores) {
	t.Helper()
	three := raft.Configuration{}
	for _, id := range []raft.ServerID{"n1", "n2", "n3"} {
		three.Servers = append(three.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
	}
	codec := newCodec()
	entry := func(p *logv1.Txn) []byte {
		prop, err := newProposal(p)
		if err != nil {
			t.Fatal(err)
		}
		return codec.encode(txnEntry([]*proposal{prop}))
	}
	if err := s.Log.StoreLogs([]*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(three)},
		{Index: 2, Term: 2, Type: raft.LogCommand, Data: codec.encode(epochEntry("OLD"))},
		{Index: 3, Term: 2, Type: raft.LogCommand, Data: entry(putting("a", "1"))},
		{Index: 4, Term: 3, Type: raft.LogCommand, Data: entry(putting("b", "2"))},
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Stable.SetUint64(stableTerm, 7); err != nil {
		t.Fatal(err)
	}
}

func TestACopyTellsAllThatItsLogHolds(t *testing.T) {
	s := openAt(t, t.TempDir())
	defer s.Close()
	if _, err := ReadCopy(s); !errors.Is(err, ErrNoCluster) {
		t.Errorf("empty stores: got %v, want ErrNoCluster", err)
	}
	oldLog(t, s)
	c, err := ReadCopy(s)
	if err != nil {
		t.Fatal(err)
	}
	if c.LastIndex != 4 || c.LastTerm != 3 || c.Term != 7 || len(c.Members) != 3 || !c.Members[2].Voter || c.Store.Epoch() != "OLD" {
		t.Errorf("got %+v of epoch %q", c, c.Store.Epoch())
	}
	for _, tt := range []struct {
		term, index uint64
		further     bool
	}{{2, 9, true}, {3, 3, true}, {3, 4, false}, {4, 1, false}} {
		if got := c.Further(&Copy{LastTerm: tt.term, LastIndex: tt.index}); got != tt.further {
			t.Errorf("further than (%d, %d): got %v, want %v", tt.term, tt.index, got, tt.further)
		}
	}
}

func TestAReformedLogHoldsEverythingAndOneVoter(t *testing.T) {
	old, fresh := openAt(t, t.TempDir()), openAt(t, t.TempDir())
	defer old.Close()
	defer fresh.Close()
	oldLog(t, old)
	c, err := ReadCopy(old)
	if err != nil {
		t.Fatal(err)
	}
	index, err := Reform(c, fresh, "n1", "1.NEW", putting("c", "3"))
	if err != nil || index != 5 {
		t.Fatalf("got entry %d, %v, want 5", index, err)
	}
	again, err := ReadCopy(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if again.LastIndex != 5 || again.LastTerm != 8 || again.Term != 8 || again.Store.Epoch() != "1.NEW" {
		t.Errorf("got %+v of epoch %q, want entry 5 of term 8: none of the old epoch is later", again, again.Store.Epoch())
	}
	if len(again.Members) != 1 || again.Members[0] != (Member{Name: "n1", Voter: true}) {
		t.Errorf("members %v, want n1 alone", again.Members)
	}
	for name, body := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		row, ok := again.Store.Get(state.Key{Kind: "Thing", Name: name})
		if !ok || string(row.Body) != body {
			t.Errorf("%s: got %v, want %q", name, row, body)
		}
	}
	if _, err := Reform(again, fresh, "n1", "2.NEW", nil); err == nil {
		if left, _ := fresh.Snapshots.List(); len(left) == 1 {
			t.Error("stores that hold something are written to")
		}
	}
	if left, err := ReadCopy(old); err != nil || left.LastIndex != 4 || len(left.Members) != 3 {
		t.Errorf("the old stores have changed: %+v, %v", left, err)
	}
}
