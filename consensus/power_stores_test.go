package consensus

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// A powerStep is one thing done to the stores, and what it does to those that
// are kept in mind.
type powerStep struct {
	do   func(*Stores) error
	mind func(*minded)
}

// minded is what the stores hold.
type minded struct {
	first, last uint64 // 0, 0: no entries
	generation  map[uint64]int
	stable      uint64
	snapshot    uint64 // newest
}

func (m *minded) empty() bool { return m.last == 0 || m.first > m.last }

func (m *minded) clone() *minded {
	c := *m
	c.generation = make(map[uint64]int)
	maps.Copy(c.generation, m.generation)
	return &c
}

func powerEntry(index uint64, generation int) *raft.Log {
	data := make([]byte, 100+index*577%1500)
	chance := rand.New(rand.NewPCG(index, uint64(generation))) //nolint:gosec // not a secret
	for i := range data {
		data[i] = byte(1 + chance.IntN(255))
	}
	return &raft.Log{Index: index, Term: uint64(generation), Data: data}
}

func powerAppend(from, to uint64, generation int) powerStep {
	return powerStep{
		func(s *Stores) error {
			var logs []*raft.Log
			for index := from; index <= to; index++ {
				logs = append(logs, powerEntry(index, generation))
			}
			return s.Log.StoreLogs(logs)
		},
		func(m *minded) {
			if m.empty() {
				m.first = from
			}
			for index := from; index <= to; index++ {
				m.generation[index] = generation
			}
			m.last = to
		},
	}
}

func powerDelete(from, to uint64) powerStep {
	return powerStep{
		func(s *Stores) error { return s.Log.DeleteRange(from, to) },
		func(m *minded) {
			if from <= m.first {
				m.first = to + 1
			} else {
				m.last = from - 1
			}
		},
	}
}

func powerSet(value uint64) powerStep {
	return powerStep{
		func(s *Stores) error { return s.Stable.SetUint64([]byte("term"), value) },
		func(m *minded) { m.stable = value },
	}
}

func powerSnapshotData(index uint64) []byte { return powerEntry(index+1000, 9).Data }

func powerSnapshot(index uint64) powerStep {
	return powerStep{
		func(s *Stores) error {
			_, nowhere := raft.NewInmemTransport("n1")
			sink, err := s.Snapshots.Create(1, index, 1, raft.Configuration{}, 1, nowhere)
			if err != nil {
				return err
			}
			if _, err := sink.Write(powerSnapshotData(index)); err != nil {
				return err
			}
			return sink.Close()
		},
		func(m *minded) { m.snapshot = index },
	}
}

// powerSteps fill files of the log, cut the log at both ends, and take more
// snapshots than are kept.
func powerSteps() []powerStep {
	return []powerStep{
		powerSet(1),
		powerAppend(1, 1, 1), powerAppend(2, 6, 1), powerAppend(7, 16, 1),
		powerSet(2),
		powerDelete(13, 16), powerAppend(13, 14, 2), // as when a new leader knows better
		powerSnapshot(9), powerDelete(1, 8),
		powerAppend(15, 30, 2),
		powerSnapshot(20), powerDelete(9, 18),
		powerAppend(31, 31, 2),
		powerSnapshot(28), powerDelete(19, 27),
		powerDelete(28, 31), powerAppend(40, 44, 3), // as when another's snapshot was taken over
		powerSet(3),
	}
}

func storesWork(dir string, said io.Writer) {
	stores, err := openStores(filepath.Join(dir, "raft"), powerSegment, nil)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(said, "open")
	for i, step := range powerSteps() {
		if err := step.do(stores); err != nil {
			panic(fmt.Sprintf("step %d: %v", i, err))
		}
		fmt.Fprintln(said, i)
	}
}

func TestStoresOutliveAPowerCutAtEverySync(t *testing.T) {
	powerCuts(t, "stores", 2, checkStores)
}

// The test above would notice if one of these syncs were left out.
func TestAForgottenSyncIsNoticed(t *testing.T) {
	for _, forgotten := range []string{".wal", "wal-meta.db", "raft/log", "raft", ".", "raft/snapshots", ".tmp", "meta.json", "state.bin"} {
		death := powerLife(t, "stores", 0, func(path string) bool {
			return path == forgotten || len(forgotten) > 1 && forgotten != "raft" && strings.HasSuffix(path, forgotten)
		})
		if death != nil && len(powerLeft(t, death, 1, 0, checkStores)) == 0 {
			t.Errorf("nobody notices that %s is not synced", forgotten)
		}
	}
}

// checkStores opens what is left, and compares it with what was promised.
func checkStores(dir string, said []string) error {
	stores, err := openStores(filepath.Join(dir, "raft"), powerSegment, nil)
	if err != nil {
		return err
	}
	defer stores.Close()
	steps := powerSteps()
	want := &minded{generation: make(map[uint64]int)}
	done := max(0, len(said)-1)
	for _, step := range steps[:done] {
		step.mind(want)
	}
	whole := want.clone()
	if done < len(steps) {
		steps[done].mind(whole)
	}
	if err := compareLog(stores, want, whole); err != nil {
		return err
	}
	if got, err := stores.Stable.GetUint64([]byte("term")); err != nil && want.stable != 0 || got != want.stable && got != whole.stable {
		return fmt.Errorf("term is %d, %w, want %d or %d", got, err, want.stable, whole.stable)
	}
	if err := compareSnapshots(stores, want, whole); err != nil {
		return err
	}
	if err := noOrphans(dir); err != nil {
		return err
	}
	return goesOn(stores)
}

func compareLog(stores *Stores, want, whole *minded) error {
	first, err1 := stores.Log.FirstIndex()
	last, err2 := stores.Log.LastIndex()
	if err1 != nil || err2 != nil {
		return fmt.Errorf("ask for the ends of the log: %w, %w", err1, err2)
	}
	switch {
	case first == 0 && last == 0 && (want.empty() || whole.empty()):
		return nil
	case first == want.first && last == want.last, first == whole.first && last == whole.last:
	case first == whole.first && !want.empty() && want.last <= last && last <= whole.last: // some of what was appended
	default:
		return fmt.Errorf("the log is %d to %d, want %d to %d or %d to %d", first, last, want.first, want.last, whole.first, whole.last)
	}
	for index := first; index <= last; index++ {
		var got raft.Log
		if err := stores.Log.GetLog(index, &got); err != nil {
			return fmt.Errorf("entry %d of %d to %d: %w", index, first, last, err)
		}
		if !bytes.Equal(got.Data, powerEntry(index, whole.generation[index]).Data) {
			return fmt.Errorf("entry %d is another", index)
		}
	}
	return nil
}

func compareSnapshots(stores *Stores, want, whole *minded) error {
	metas, err := stores.Snapshots.List()
	if err != nil {
		return err
	}
	var newest uint64
	for i, meta := range metas {
		_, r, err := stores.Snapshots.Open(meta.ID)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", meta.ID, err)
		}
		got, err := io.ReadAll(r)
		_ = r.Close() // it was read
		if err != nil || !bytes.Equal(got, powerSnapshotData(meta.Index)) {
			return fmt.Errorf("snapshot %s is not what was written, %w", meta.ID, err)
		}
		if i == 0 {
			newest = meta.Index
		}
	}
	if newest != want.snapshot && newest != whole.snapshot {
		return fmt.Errorf("the newest snapshot is of entry %d, want %d or %d", newest, want.snapshot, whole.snapshot)
	}
	return nil
}

// noOrphans fails if there are snapshots that can never be read.
func noOrphans(dir string) error {
	names, err := os.ReadDir(filepath.Join(dir, "raft", "snapshots"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, "raft", "snapshots", name.Name(), "meta.json")); err != nil || strings.HasSuffix(name.Name(), ".tmp") {
			return fmt.Errorf("%s was left in the folder of snapshots", name.Name())
		}
	}
	return nil
}

// goesOn writes more.
func goesOn(stores *Stores) error {
	last, err := stores.Log.LastIndex()
	if err != nil {
		return err
	}
	for index := last + 1; index < last+12; index++ { // more than a file of the log takes
		if err := stores.Log.StoreLog(powerEntry(index, 5)); err != nil {
			return fmt.Errorf("append %d: %w", index, err)
		}
	}
	for index := last + 1; index < last+12; index++ {
		var got raft.Log
		if err := stores.Log.GetLog(index, &got); err != nil || !bytes.Equal(got.Data, powerEntry(index, 5).Data) {
			return fmt.Errorf("entry %d, appended later, is another, %w", index, err)
		}
	}
	return powerSet(77).do(stores)
}
