package verdict

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// size counts the nodes that are not lost.
func (m *Machine) size() int {
	if m.live < 0 {
		m.live = 0
		for _, n := range m.nodes {
			if n.state != Lost {
				m.live++
			}
		}
	}
	return m.live
}

// fit says whether a node may be expected to answer.
func (m *Machine) fit(n *node) bool {
	return n.state == OK && n.since.IsZero() && n.stream != streamClosed
}

// reporters lists those whose reports count now, by name.
func (m *Machine) reporters(now time.Time, n *node) []string {
	var names []string
	for by, until := range n.reports {
		r := m.nodes[by]
		if !now.Before(until) || r == nil || r.state == Lost {
			delete(n.reports, by)
			continue
		}
		names = append(names, by)
	}
	slices.Sort(names)
	return names
}

// enough is how many observers must miss a node: two, unless fewer are fit to
// tell.
func (m *Machine) enough(n *node) int {
	fit := 0
	for _, by := range m.observers(n.name) {
		if r := m.nodes[by]; r != nil && r != n && m.fit(r) {
			fit++
		}
	}
	return max(1, min(needReports, fit))
}

// helpers picks who is to verify a node with us: fit ones first, others each time.
func (m *Machine) helpers(now time.Time, n *node) []string {
	type candidate struct {
		name string
		rank uint64
	}
	var all []candidate
	for _, h := range m.nodes {
		if h.name == m.self || h == n || h.state == Lost {
			continue
		}
		hash := fnv.New64a()
		_, _ = fmt.Fprintf(hash, "%s %s %d", n.name, h.name, n.attempt)
		rank := hash.Sum64() >> 2
		switch {
		case !m.fit(h):
			rank |= 1 << 63
		case !h.failed.IsZero() && now.Sub(h.failed) < helperRest:
			rank |= 1 << 62
		}
		all = append(all, candidate{h.name, rank})
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.name, b.name))
	})
	want := min(maxHelpers, len(all)) // at most N-2: all but the two of us
	names := make([]string, 0, want)
	for _, c := range all[:want] {
		names = append(names, c.name)
	}
	return names
}
