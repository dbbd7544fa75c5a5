package verdict

import (
	"slices"
	"time"
)

// A breaker holds verdicts back when many nodes become suspect at once, which
// is more often our own link than their end.
type breaker struct {
	begun []time.Time // of the suspicions in the window
	on    bool
	until time.Time // verdicts wait at least so long
	size  int       // of a batch
	batch time.Time // when the present one began
	lost  int       // in it
}

// suspectAnother counts a suspicion that begins, and trips the breaker.
func (m *Machine) suspectAnother(now time.Time, n *node) {
	b := &m.breaker
	b.begun = slices.DeleteFunc(b.begun, func(t time.Time) bool { return now.Sub(t) > m.rules.Burst })
	b.begun = append(b.begun, now)
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

// rest switches the breaker off once nothing is left to decide.
func (b *breaker) rest(idle bool, now time.Time) {
	if b.on && idle && !now.Before(b.until) {
		*b = breaker{}
	}
}

func (b *breaker) shift(late time.Duration) {
	for i := range b.begun {
		b.begun[i] = b.begun[i].Add(late)
	}
	for _, t := range []*time.Time{&b.until, &b.batch} {
		if !t.IsZero() {
			*t = t.Add(late)
		}
	}
}
