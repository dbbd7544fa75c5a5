package verdict

import (
	"slices"
	"time"
)

// A breaker holds verdicts back when many nodes become suspect at once, which
// is more often our own link than their end.
type breaker struct {
	begun []begun // the suspicions in the window, the last one of each node
	on    bool
	until time.Time // verdicts wait at least so long
	size  int       // of a batch
	batch time.Time // when the present one began
	lost  int       // in it
}

// begun is when a node became suspect.
type begun struct {
	node string
	at   time.Time
}

// suspectAnother counts a node that becomes suspect, and trips the breaker. One
// that does so again and again is still one.
func (m *Machine) suspectAnother(now time.Time, n *node) {
	b := &m.breaker
	b.begun = slices.DeleteFunc(b.begun, func(s begun) bool { return now.Sub(s.at) > m.rules.Burst || s.node == n.name })
	b.begun = append(b.begun, begun{n.name, now})
	size := m.size()
	most := max(burstLeast, (size*burstPercent+99)/100)
	if b.on || len(b.begun) <= most {
		return
	}
	b.on, b.until, b.size = true, now.Add(m.rules.Burst), most
	b.batch, b.lost = time.Time{}, 0
	m.act(Slow{Suspects: len(b.begun), Batch: most, Until: b.until})
}

// allows says from when on a node may be declared lost.
func (b *breaker) allows(now time.Time, n *node, rules Rules) time.Time {
	if !b.on {
		return now
	}
	at := maxTime(b.until, n.since.Add(rules.Burst))
	if now.Before(at) {
		return at
	}
	if b.batch.IsZero() || now.Sub(b.batch) >= rules.Batch {
		b.batch, b.lost = now, 0
	}
	if b.lost >= b.size {
		return b.batch.Add(rules.Batch)
	}
	return now
}

// rest switches the breaker off once nothing is left to decide, and tells if it did.
func (b *breaker) rest(idle bool, now time.Time) bool {
	if !b.on || !idle || now.Before(b.until) {
		return false
	}
	*b = breaker{}
	return true
}

func (b *breaker) shift(late time.Duration) {
	for i := range b.begun {
		b.begun[i].at = b.begun[i].at.Add(late)
	}
	for _, t := range []*time.Time{&b.until, &b.batch} {
		if !t.IsZero() {
			*t = t.Add(late)
		}
	}
}
