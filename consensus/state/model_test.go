package state

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// The model is the store said in the simplest way: a map. Every sequence of so
// many events is tried on both.
const modelDepth = 4

type modelRow struct {
	version uint64
	node    string
}

type world struct {
	store  *Store
	mirror *Store // follows the Pods of n1
	saved  []byte

	model      map[string]modelRow
	savedModel map[string]modelRow
	epochs     int
}

// modelEvents change the world and return what went wrong, or "".
var modelEvents = map[string]func(*testing.T, *world) string{
	"put a on n1":     func(_ *testing.T, w *world) string { return w.put("a", "n1", nil) },
	"put a on n2":     func(_ *testing.T, w *world) string { return w.put("a", "n2", nil) },
	"create b on n1":  func(_ *testing.T, w *world) string { zero := uint64(0); return w.put("b", "n1", &zero) },
	"move a by cas":   func(_ *testing.T, w *world) string { v := w.model["a"].version; return w.put("a", "n2", &v) },
	"stale put a":     func(_ *testing.T, w *world) string { v := w.model["a"].version + 7; return w.put("a", "n1", &v) },
	"delete a":        func(_ *testing.T, w *world) string { return w.delete("a") },
	"follow":          func(t *testing.T, w *world) string { return w.follow(t) },
	"save":            func(t *testing.T, w *world) string { return w.save(t) },
	"restore, reform": func(_ *testing.T, w *world) string { return w.restore() },
}

func (w *world) put(name, node string, expect *uint64) string {
	op := put(pod(name), "", "node="+node)
	op.Expect = expect
	index := w.store.Index() + 1
	err := w.store.Apply(index, txn(op))
	have := w.model[name].version
	if refuse := expect != nil && *expect != have; refuse != (err != nil) {
		return fmt.Sprintf("put %s expecting %v of %d: %v", name, expect, have, err)
	} else if !refuse {
		w.model[name] = modelRow{index, node}
	}
	return ""
}

func (w *world) delete(name string) string {
	if err := w.store.Apply(w.store.Index()+1, txn(del(pod(name)))); err != nil {
		return err.Error()
	}
	delete(w.model, name)
	return ""
}

func (w *world) follow(t *testing.T) string {
	catchUp(t, w.mirror, w.store, Selector{Kind: "Pod", Index: "node=n1"})
	want := maps.Clone(w.model)
	maps.DeleteFunc(want, func(_ string, r modelRow) bool { return r.node != "n1" })
	return compare("mirror", w.mirror, want)
}

func (w *world) save(t *testing.T) string {
	w.saved, w.savedModel = dump(t, w.store), maps.Clone(w.model)
	return ""
}

func (w *world) restore() string {
	if w.saved == nil {
		return ""
	}
	if err := w.store.Restore(bytes.NewReader(w.saved)); err != nil {
		return err.Error()
	}
	w.model = maps.Clone(w.savedModel)
	w.epochs++
	w.store.ApplyEntry(w.store.Index()+1, &logv1.Entry{Epoch: fmt.Sprint(w.epochs)})
	return ""
}

func compare(what string, s *Store, want map[string]modelRow) string {
	got := make(map[string]modelRow)
	for _, row := range s.List("Pod", "", "") {
		got[row.Key.Name] = modelRow{row.Version, row.Index[0][len("node="):]}
	}
	if !maps.Equal(got, want) {
		return fmt.Sprintf("%s holds %v, want %v", what, got, want)
	}
	return ""
}

func TestTheStoreEqualsItsModelAfterEverySequence(t *testing.T) {
	names := slices.Sorted(maps.Keys(modelEvents))
	for _, ringBytes := range []int{0, 16 << 20} { // always reset, never reset
		sequence := make([]string, 0, modelDepth)
		var try func()
		try = func() {
			if len(sequence) == modelDepth {
				playModel(t, ringBytes, append(slices.Clone(sequence), "follow"))
				return
			}
			for _, name := range names {
				if t.Failed() {
					return
				}
				sequence = append(sequence, name)
				try()
				sequence = sequence[:len(sequence)-1]
			}
		}
		try()
	}
}

func playModel(t *testing.T, ringBytes int, sequence []string) {
	w := &world{store: New(RingBytes(ringBytes)), mirror: New(), model: make(map[string]modelRow)}
	for i, name := range sequence {
		wrong := modelEvents[name](t, w)
		if wrong == "" {
			wrong = compare("store", w.store, w.model)
		}
		if wrong != "" {
			t.Fatalf("ring of %d bytes, after %q: %s", ringBytes, sequence[:i+1], wrong)
		}
	}
}
