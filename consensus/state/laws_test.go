package state

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// small worlds make collisions likely.
var (
	someKey = rapid.Custom(func(t *rapid.T) Key {
		return Key{
			Kind:      rapid.SampledFrom([]string{"Pod", "Node", "Event"}).Draw(t, "kind"),
			Namespace: rapid.SampledFrom([]string{"", "default", "other"}).Draw(t, "namespace"),
			Name:      rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"),
		}
	})
	someSelector = rapid.Custom(func(t *rapid.T) Selector {
		return Selector{
			Kind:      rapid.SampledFrom([]string{"Pod", "Node", "Event", AllKinds}).Draw(t, "kind"),
			Namespace: rapid.SampledFrom([]string{"", "default", "other"}).Draw(t, "namespace"),
			Index:     rapid.SampledFrom([]string{"", "node=n1", "node=n2", "app=x"}).Draw(t, "index"),
		}
	})
	someSelectors = rapid.SliceOfN(someSelector, 1, 3)
)

var epochs atomic.Uint64

// freshEpoch returns what was never returned before, as random epochs are.
func freshEpoch() string { return fmt.Sprint("epoch ", epochs.Add(1)) }

func someOp(s *Store) *rapid.Generator[*logv1.Op] {
	return rapid.Custom(func(t *rapid.T) *logv1.Op {
		key := someKey.Draw(t, "key")
		op := del(key)
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0:
		case 1:
			op = check(key)
		default:
			indexes := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"node=n1", "node=n2", "app=x"}), 0, 3, rapid.ID)
			op = put(key, rapid.StringN(0, 40, 60).Draw(t, "body"), indexes.Draw(t, "index")...)
		}
		switch rapid.IntRange(0, 9).Draw(t, "expect") {
		case 0:
			op = at(0, op)
		case 1:
			op = at(rapid.Uint64Range(0, 20).Draw(t, "version"), op)
		case 2, 3, 4:
			var have uint64
			if row, ok := s.Get(key); ok {
				have = row.Version
			}
			op = at(have, op)
		}
		return op
	})
}

func someEntry(s *Store) *rapid.Generator[*logv1.Entry] {
	return rapid.Custom(func(t *rapid.T) *logv1.Entry {
		entry := &logv1.Entry{}
		for range rapid.IntRange(0, 3).Draw(t, "transactions") {
			entry.Txns = append(entry.Txns, txn(rapid.SliceOfN(someOp(s), 0, 4).Draw(t, "ops")...))
		}
		if rapid.IntRange(0, 30).Draw(t, "epoch") == 0 {
			entry.Epoch = freshEpoch()
		}
		return entry
	})
}

// fill applies random entries and returns what it applied and was answered.
func fill(t *rapid.T, s *Store, n int) (entries []*logv1.Entry, answers []string) {
	for range rapid.IntRange(0, n).Draw(t, "entries") {
		entry := someEntry(s).Draw(t, "entry")
		answers = append(answers, fmt.Sprint(s.ApplyEntry(s.Index()+1, entry)))
		entries = append(entries, entry)
	}
	return entries, answers
}

func TestReplayGivesEqualRowsAndAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, again := checked(t), checked(t)
		entries, answers := fill(t, first, 30)
		for i, entry := range entries {
			if got := fmt.Sprint(again.ApplyEntry(uint64(i+1), entry)); got != answers[i] {
				t.Fatalf("entry %d was answered %s, then %s", i+1, answers[i], got)
			}
		}
		if !bytes.Equal(dump(t, first), dump(t, again)) {
			t.Fatal("replay gave other rows")
		}
		first.Verify()
		again.Verify()
	})
}

func TestRestoreUndoesSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := checked(t)
		fill(t, s, 30)
		saved := dump(t, s)
		fill(t, s, 10)
		other := checked(t)
		fill(t, other, 5)
		for _, into := range []*Store{s, other} {
			if err := into.Restore(bytes.NewReader(saved)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(dump(t, into), saved) {
				t.Fatal("restored store differs from its snapshot")
			}
			sameIndexes(t, into)
		}
		entry := someEntry(s).Draw(t, "entry after")
		if a, b := fmt.Sprint(s.ApplyEntry(s.Index()+1, entry)), fmt.Sprint(other.ApplyEntry(other.Index()+1, entry)); a != b {
			t.Fatalf("restored stores answer %s and %s to the same entry", a, b)
		}
	})
}

// sameIndexes checks that every selector finds what a look at all rows finds.
func sameIndexes(t *rapid.T, s *Store) {
	all := s.List(AllKinds, "", "")
	sel := someSelector.Draw(t, "selector")
	var want []*Row
	for _, row := range all {
		if sel.Matches(row) {
			want = append(want, row)
		}
	}
	got := s.List(sel.Kind, sel.Namespace, sel.Index)
	if fmt.Sprint(keysInOrder(got)) != fmt.Sprint(keysInOrder(want)) {
		t.Fatalf("%+v finds %v, want %v", sel, keysInOrder(got), keysInOrder(want))
	}
}

func TestADamagedSnapshotChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := checked(t)
		fill(t, s, 20)
		saved := dump(t, s)
		damaged := bytes.Clone(saved)
		switch rapid.IntRange(0, 2).Draw(t, "damage") {
		case 0:
			damaged = damaged[:rapid.IntRange(0, len(damaged)-1).Draw(t, "length")]
		case 1:
			at := rapid.IntRange(0, len(damaged)-1).Draw(t, "byte")
			damaged[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
		case 2:
			damaged = append(damaged, rapid.Byte().Draw(t, "more"))
		}
		if err := s.Restore(bytes.NewReader(damaged)); err == nil {
			t.Fatal("a damaged snapshot was restored")
		}
		if !bytes.Equal(dump(t, s), saved) {
			t.Fatal("a refused snapshot changed the store")
		}
	})
}

// A follower that applies what it is told equals the store as its selectors see
// it, however it loses its stream, its memory or its patience, and whatever
// happens to the store. A follower of the follower does too.
func TestAFollowerEqualsTheStoreThroughItsSelectors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := checked(t, RingBytes(rapid.SampledFrom([]int{0, 400, 2000, 16 << 20}).Draw(t, "ring")))
		selectors := someSelectors.Draw(t, "selectors")
		mirror, second := checked(t), checked(t)
		var saved []byte
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				mirror = checked(t) // forgets
			case 1:
				saved = dump(t, s)
			case 2:
				if saved == nil || s.Epoch() == "" {
					break
				}
				// What happened since the snapshot happens otherwise now, which
				// is what a new epoch is for.
				if err := s.Restore(bytes.NewReader(saved)); err != nil {
					t.Fatal(err)
				}
				s.ApplyEntry(s.Index()+1, &logv1.Entry{Epoch: freshEpoch()})
			default:
				fill(t, s, 8)
			}
			stay(t, mirror, s, selectors, rapid.IntRange(0, 3).Draw(t, "steps on one stream"))
			equalThrough(t, mirror, s, selectors)
			stay(t, second, mirror, selectors, 0)
			equalThrough(t, second, mirror, selectors)
		}
		s.Verify()
		mirror.Verify()
	})
}

// stay follows for a while: it catches up, and so often as rounds says more
// happens to src while the stream is open, and it catches up with that.
func stay(t *rapid.T, dst, src *Store, selectors []Selector, rounds int) {
	for b, err := range Whole(src.Follow(t.Context(), dst.Index(), dst.Epoch(), selectors)) {
		if err != nil {
			t.Fatal(err)
		}
		dst.ApplyBatch(b)
		if b.Index < src.Index() {
			t.Fatalf("told up to %d only, of %d", b.Index, src.Index())
		}
		if rounds--; rounds < 0 {
			return
		}
		fill(t, src, 4)
		// Something this stream must tell, or it would wait for ever.
		key := Key{Kind: selectors[0].Kind, Namespace: selectors[0].Namespace, Name: "awaited"}
		if key.Kind == AllKinds {
			key.Kind = "Pod"
		}
		_ = src.Apply(src.Index()+1, txn(put(key, fmt.Sprint(rounds), selectors[0].Index)))
	}
}

func equalThrough(t *rapid.T, mirror, s *Store, selectors []Selector) {
	var want []string
	for _, row := range s.List(AllKinds, "", "") {
		if matchesAny(selectors, row) {
			want = append(want, fmt.Sprint(row.Key, row.Version, row.UID, row.Index, string(row.Body)))
		}
	}
	var got []string
	for _, row := range mirror.List(AllKinds, "", "") {
		got = append(got, fmt.Sprint(row.Key, row.Version, row.UID, row.Index, string(row.Body)))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("through %+v the copy holds\n%q\nthe store\n%q", selectors, got, want)
	}
	if mirror.Index() != s.Index() || mirror.Epoch() != s.Epoch() {
		t.Fatalf("the copy is at %d of %q, the store at %d of %q", mirror.Index(), mirror.Epoch(), s.Index(), s.Epoch())
	}
}
