package gossip

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func zoneOf(zones int) func(string) string {
	return func(name string) string {
		if zones == 0 {
			return ""
		}
		return fmt.Sprintf("z%d", hashString("zone of "+name)%uint64(zones))
	}
}

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = nodeName(i)
	}
	return list
}

func TestRingLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := names(rapid.IntRange(1, 40).Draw(t, "nodes"))
		zone := zoneOf(rapid.IntRange(0, 4).Draw(t, "zones"))
		r := NewRing(all, zone)
		shuffled := rapid.Permutation(append(all, all[0])).Draw(t, "order")
		if other := NewRing(shuffled, zone); other.Hash() != r.Hash() || other.Len() != len(all) {
			t.Fatalf("the order or a repetition of names makes another ring")
		}
		want := min(4, len(all)-1)
		for _, name := range all {
			by := r.Observers(name)
			if len(by) != want || slices.Contains(by, name) {
				t.Fatalf("%s of %d has observers %v", name, len(all), by)
			}
			slices.Sort(by)
			if len(slices.Compact(by)) != want {
				t.Fatalf("%s has observers %v, some twice", name, by)
			}
			for _, o := range by {
				if !r.Observes(o, name) || !slices.Contains(r.Observed(o), name) {
					t.Fatalf("%s observes %s by one answer and not by another", o, name)
				}
			}
			inZone := map[string]int{}
			for _, o := range by {
				inZone[zone(o)]++
			}
			// Whoever could be chosen instead is in no other zone.
			for z, count := range inZone {
				if z == "" || count <= (want+1)/2 {
					continue
				}
				for _, o := range all {
					if o != name && zone(o) != z && !slices.Contains(by, o) {
						t.Fatalf("%s has %d of %d observers in %s, though %s is in %s", name, count, want, z, o, zone(o))
					}
				}
			}
		}
	})
}

func TestANodeMoreChangesOnlyItsNeighboursObservers(t *testing.T) {
	before := NewRing(names(200), nil)
	after := NewRing(append(names(200), "newcomer"), nil)
	changed := 0
	for _, name := range names(200) {
		if !slices.Equal(before.Observers(name), after.Observers(name)) {
			changed++
		}
	}
	if changed != 4 {
		t.Errorf("a newcomer changed the observers of %d nodes, want 4", changed)
	}
}

func TestObserversAreSpreadEvenly(t *testing.T) {
	r := NewRing(names(1000), nil)
	for _, name := range names(1000) {
		if got := len(r.Observed(name)); got != 4 {
			t.Errorf("%s observes %d nodes, want 4", name, got)
		}
	}
}

func TestDomainsChangeTheView(t *testing.T) {
	plain, zoned := NewRing(names(9), nil), NewRing(names(9), zoneOf(3))
	if plain.Hash() == zoned.Hash() {
		t.Error("two views with other observers have one hash")
	}
}
