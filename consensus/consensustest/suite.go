package consensustest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
)

// A Place has the stores of one machine.
type Place struct {
	// Open opens them as a process that starts.
	Open func(testing.TB) Opened
	// Kill ends the process that has them open; what it wrote stays.
	Kill func(testing.TB)
}

// Opened are the stores as a process has them.
type Opened struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Close     func() error
}

// Suite is what stores must do, modelled or real. Fresh returns an empty place.
func Suite(t *testing.T, fresh func(testing.TB) Place) {
	for name, test := range map[string]func(*testing.T, Place){
		"an empty log is empty":                       emptyLog,
		"what was stored is read":                     storedIsRead,
		"entries follow each other":                   noGaps,
		"an empty log begins anywhere":                beginsAnywhere,
		"a log loses its ends, not its middle":        deleteRange,
		"a log that lost all begins anew":             deleteAll,
		"a log outlives its process":                  survivesKill,
		"values are kept":                             values,
		"closed stores answer nothing":                closed,
		"a snapshot is there once closed":             snapshotOnce,
		"a snapshot that was cancelled is not there":  snapshotCancelled,
		"a snapshot that was not finished, neither":   snapshotUnfinished,
		"the newest snapshots are kept, newest first": snapshotOrder,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func entries(from, to uint64) []*raft.Log {
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		l := &raft.Log{Index: i, Term: i/10 + 1, Type: raft.LogCommand, Data: []byte(fmt.Sprint("entry ", i))}
		if i%3 == 0 {
			l.Extensions = []byte{1, 2, 3}
		}
		logs = append(logs, l)
	}
	return logs
}

func store(t *testing.T, s Opened, from, to uint64) {
	t.Helper()
	if err := s.Log.StoreLogs(entries(from, to)); err != nil {
		t.Fatalf("store %d-%d: %v", from, to, err)
	}
}

// holds checks that a log holds exactly these entries; 0, 0 is none.
func holds(t *testing.T, s Opened, from, to uint64) {
	t.Helper()
	first, err := s.Log.FirstIndex()
	last, err2 := s.Log.LastIndex()
	if first != from || last != to || err != nil || err2 != nil {
		t.Fatalf("log holds %d-%d, want %d-%d (%v, %v)", first, last, from, to, err, err2)
	}
	if err := s.Log.GetLog(to+1, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry %d: %v, want %v", to+1, err, raft.ErrLogNotFound)
	}
	if to == 0 {
		return
	}
	// The real log goes on answering for entries before its first, as long as
	// the file that they were in is there.
	if err := s.Log.GetLog(from-1, new(raft.Log)); err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry %d: %v, want %v", from-1, err, raft.ErrLogNotFound)
	}
	for _, want := range entries(from, to) {
		var got raft.Log
		if err := s.Log.GetLog(want.Index, &got); err != nil {
			t.Fatalf("entry %d: %v", want.Index, err)
		}
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type ||
			!bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) {
			t.Errorf("entry %d: got %+v, want %+v", want.Index, got, *want)
		}
	}
}

func emptyLog(t *testing.T, p Place) {
	s := p.Open(t)
	holds(t, s, 0, 0)
	if m, ok := s.Log.(raft.MonotonicLogStore); !ok || !m.IsMonotonic() {
		t.Error("log says that it takes gaps")
	}
	if err := s.Log.StoreLogs(nil); err != nil {
		t.Error(err)
	}
}

func storedIsRead(t *testing.T, p Place) {
	s := p.Open(t)
	store(t, s, 1, 20)
	if err := s.Log.StoreLog(entries(21, 21)[0]); err != nil {
		t.Fatal(err)
	}
	holds(t, s, 1, 21)
	var l raft.Log
	if err := s.Log.GetLog(5, &l); err != nil {
		t.Fatal(err)
	}
	l.Data[0] = 'X' // the reader's own copy
	holds(t, s, 1, 21)
}

func noGaps(t *testing.T, p Place) {
	s := p.Open(t)
	store(t, s, 1, 5)
	gap := append(entries(6, 7), entries(9, 9)...)
	for name, logs := range map[string][]*raft.Log{
		"a gap": entries(7, 8), "a repetition": entries(5, 6), "the past": entries(2, 2), "a gap within": gap,
	} {
		if err := s.Log.StoreLogs(logs); err == nil {
			t.Errorf("%s was stored", name)
		}
	}
	holds(t, s, 1, 5)
	store(t, s, 6, 7)
	holds(t, s, 1, 7)
}

func beginsAnywhere(t *testing.T, p Place) {
	s := p.Open(t)
	store(t, s, 1000, 1010)
	holds(t, s, 1000, 1010)
}

func deleteRange(t *testing.T, p Place) {
	s := p.Open(t)
	store(t, s, 1, 30)
	if err := s.Log.DeleteRange(10, 20); err == nil {
		t.Error("a piece was taken out of the middle")
	}
	for _, step := range []struct{ from, to, first, last uint64 }{
		{1, 5, 6, 30}, {1, 7, 8, 30}, {3, 4, 8, 30}, {31, 40, 8, 30}, {9, 8, 8, 30}, {25, 30, 8, 24}, {20, 99, 8, 19},
	} {
		if err := s.Log.DeleteRange(step.from, step.to); err != nil {
			t.Fatalf("delete %d-%d: %v", step.from, step.to, err)
		}
		holds(t, s, step.first, step.last)
	}
	store(t, s, 20, 22) // others in the place of what was cut off
	holds(t, s, 8, 22)
	p.Kill(t)
	holds(t, p.Open(t), 8, 22)
}

func deleteAll(t *testing.T, p Place) {
	s := p.Open(t)
	store(t, s, 1, 9)
	if err := s.Log.DeleteRange(1, 9); err != nil {
		t.Fatal(err)
	}
	holds(t, s, 0, 0)
	store(t, s, 500, 502) // as after a snapshot from the leader
	holds(t, s, 500, 502)
	p.Kill(t)
	holds(t, p.Open(t), 500, 502)
}

func survivesKill(t *testing.T, p Place) {
	to := uint64(0)
	for round := range uint64(4) {
		s := p.Open(t)
		if to > 0 {
			holds(t, s, 1, to)
		}
		for range round + 2 {
			store(t, s, to+1, to+7)
			to += 7
		}
		if round == 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		p.Kill(t)
	}
	holds(t, p.Open(t), 1, to)
}

func values(t *testing.T, p Place) {
	s := p.Open(t)
	if v, err := s.Stable.Get([]byte("none")); len(v) > 0 || err != nil {
		t.Errorf("a value never set is %q, %v", v, err)
	}
	if v, err := s.Stable.GetUint64([]byte("none")); v != 0 || err != nil {
		t.Errorf("a number never set is %d, %v", v, err)
	}
	for _, term := range []uint64{1, 2, 1 << 40} {
		if err := errors.Join(s.Stable.SetUint64([]byte("CurrentTerm"), term), s.Stable.Set([]byte("LastVoteCand"), fmt.Append(nil, "n", term))); err != nil {
			t.Fatal(err)
		}
		p.Kill(t)
		s = p.Open(t)
		if v, err := s.Stable.GetUint64([]byte("CurrentTerm")); v != term || err != nil {
			t.Errorf("term is %d, %v, want %d", v, err, term)
		}
		if v, err := s.Stable.Get([]byte("LastVoteCand")); string(v) != fmt.Sprint("n", term) || err != nil {
			t.Errorf("vote is %q, %v", v, err)
		}
	}
}

func closed(t *testing.T, p Place) {
	s := p.Open(t)
	store(t, s, 1, 3)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Log.StoreLogs(entries(4, 4)); err == nil {
		t.Error("a closed log stores")
	}
	if _, err := s.Log.LastIndex(); err == nil {
		t.Error("a closed log answers")
	}
	if err := s.Stable.Set([]byte("a"), []byte("b")); err == nil {
		t.Error("a closed store keeps")
	}
	holds(t, p.Open(t), 1, 3)
}

var members = raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}, {Suffrage: raft.Nonvoter, ID: "n2", Address: "n2"}}}

func begin(t *testing.T, s Opened, term, index uint64, text string) raft.SnapshotSink {
	t.Helper()
	_, transport := raft.NewInmemTransport("n1")
	sink, err := s.Snapshots.Create(1, index, term, members, index-1, transport)
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range []string{text[:len(text)/2], text[len(text)/2:]} {
		if _, err := io.WriteString(sink, half); err != nil {
			t.Fatal(err)
		}
	}
	return sink
}

// lists checks which snapshots there are, by index, newest first, and that each
// can be read.
func lists(t *testing.T, s Opened, want ...uint64) {
	t.Helper()
	metas, err := s.Snapshots.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, m := range metas {
		got = append(got, m.Index)
		opened, r, err := s.Snapshots.Open(m.ID)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if text := fmt.Appendf(nil, "snapshot of %d", m.Index); err != nil || !bytes.Equal(data, text) || opened.Size != int64(len(text)) {
			t.Errorf("snapshot %s is %q of %d bytes, %v", m.ID, data, opened.Size, err)
		}
		_ = r.Close() // was only read
		if m.ConfigurationIndex != m.Index-1 || !cmp.Equal(m.Configuration, members) {
			t.Errorf("snapshot %s is of members %v at %d", m.ID, m.Configuration, m.ConfigurationIndex)
		}
	}
	if !cmp.Equal(got, want) {
		t.Errorf("snapshots of %v, want %v", got, want)
	}
}

func snapshotOnce(t *testing.T, p Place) {
	s := p.Open(t)
	lists(t, s)
	if _, _, err := s.Snapshots.Open("1-1-1"); err == nil {
		t.Error("a snapshot that never was is opened")
	}
	sink := begin(t, s, 2, 40, "snapshot of 40")
	lists(t, s)
	for range 2 {
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	}
	lists(t, s, 40)
	if metas, err := s.Snapshots.List(); err != nil || metas[0].ID != sink.ID() {
		t.Errorf("id is %v, %v, was to be %s", metas[0].ID, err, sink.ID())
	}
	p.Kill(t)
	lists(t, p.Open(t), 40)
}

func snapshotCancelled(t *testing.T, p Place) {
	s := p.Open(t)
	sink := begin(t, s, 2, 40, "snapshot of 40")
	if err := sink.Cancel(); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	lists(t, s)
}

func snapshotUnfinished(t *testing.T, p Place) {
	s := p.Open(t)
	if err := begin(t, s, 2, 30, "snapshot of 30").Close(); err != nil {
		t.Fatal(err)
	}
	begin(t, s, 2, 40, "snapshot of 40")
	p.Kill(t)
	lists(t, p.Open(t), 30)
}

func snapshotOrder(t *testing.T, p Place) {
	s := p.Open(t)
	for _, at := range []struct{ term, index uint64 }{{1, 10}, {3, 20}, {2, 30}, {3, 25}} {
		if err := begin(t, s, at.term, at.index, fmt.Sprint("snapshot of ", at.index)).Close(); err != nil {
			t.Fatal(err)
		}
	}
	lists(t, s, 25, 20)
	p.Kill(t)
	lists(t, p.Open(t), 25, 20)
}
