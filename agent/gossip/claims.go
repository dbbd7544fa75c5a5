package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	claimExpires = 25 * time.Second // without being said again
	maxRepeat    = 8 * time.Second  // the longest pause between two sayings
	needClaims   = 2                // observers who must agree
)

// claims are what observers say of the nodes they watch. Pure; not safe for
// concurrent use.
type claims struct {
	by map[string]map[string]heardClaim // node, observer
}

type heardClaim struct {
	claim
	until time.Time
}

func newClaims() *claims { return &claims{by: map[string]map[string]heardClaim{}} }

// news says whether c could be put: it is newer than what its observer said
// before of that node, and observer and node are so by the ring. This is cheap,
// for use before the signature is checked.
func (t *claims) news(c claim, ring *Ring) bool {
	if !ring.Observes(c.observer, c.node) {
		return false
	}
	old, ok := t.by[c.node][c.observer]
	return !ok || c.epoch > old.epoch || c.epoch == old.epoch && c.seq > old.seq
}

// put records a claim for which news was true.
func (t *claims) put(now time.Time, c claim) {
	if t.by[c.node] == nil {
		t.by[c.node] = map[string]heardClaim{}
	}
	t.by[c.node][c.observer] = heardClaim{claim: c, until: now.Add(claimExpires)}
}

// prune drops what has expired and what the ring does not bear any more. It
// says when to prune next (zero: never), and whether it dropped anything.
func (t *claims) prune(now time.Time, ring *Ring) (next time.Time, dropped bool) {
	for node, by := range t.by {
		for observer, c := range by {
			if !now.Before(c.until) || !ring.Observes(observer, node) {
				delete(by, observer)
				dropped = true
				continue
			}
			if next.IsZero() || c.until.Before(next) {
				next = c.until
			}
		}
		if len(by) == 0 {
			delete(t.by, node)
		}
	}
	return next, dropped
}

// of tells what the observers of a node agree on: claimSilent or claimGone if
// two of them miss it at this time, else claimCleared. Boot is the node's
// newest boot epoch that is known: what was said of an earlier one is void.
func (t *claims) of(now time.Time, node string, boot uint64) claimed {
	var silent, gone int
	for _, c := range t.by[node] {
		if !now.Before(c.until) || c.boot < boot {
			continue
		}
		switch c.what {
		case claimSilent:
			silent++
		case claimGone:
			gone++
		case claimCleared:
		}
	}
	switch {
	case silent+gone < needClaims:
		return claimCleared
	case gone >= silent: // some kernels answer some only: rate limits
		return claimGone
	default:
		return claimSilent
	}
}

// A rumour is one claim on its way through memberlist's broadcasts. A newer
// one of the same observer on the same node takes its place.
type rumour struct {
	name string
	data []byte
}

func newRumour(c claim, data []byte) *rumour {
	return &rumour{name: c.observer + "\x00" + c.node, data: data}
}

func (r *rumour) Invalidates(memberlist.Broadcast) bool { return false } // by name instead
func (r *rumour) Name() string                          { return r.name }
func (r *rumour) Message() []byte                       { return r.data }
func (r *rumour) Finished()                             {}
