// Package lease owns the rule by which a Pod that must never run twice is held
// by one node at a time. The leader's side is a [Table], the node's a [Holder].
// Both are pure: what they answer depends on what they were told and on the
// times that came with it. How a lease travels, and how its end is enforced, is
// their callers' affair.
//
// The rule is that of Gray and Cheriton (Leases, SOSP 1989). The node counts
// from when it sent its request, the leader from when it answered, which was
// later; the leader waits longer than the node holds. A leader grants only what
// it has been asked for before a quorum confirmed it, so whoever leads after it
// began later than any request that it could still answer, and counts every Pod
// from that beginning.
package lease

import "time"

// How long things take. A lease ends at [Kill] by the node's clock and is given
// away at [Wait] by the leader's: so clocks that run apart by less than 4 %
// leave 0.1 s and more for the killing.
const (
	Renew  = time.Second      // between two renewals
	Freeze = 8 * time.Second  // after the request: its processes stop
	Kill   = 10 * time.Second // after the request: they are killed
	Wait   = 11 * time.Second // after the answer: another may start
	// Margin is what must be left until Freeze for a container to be started:
	// a start that hangs must not reach beyond the lease.
	Margin = 3 * time.Second
)

// A Table is what a leader knows of leases in one term.
type Table struct {
	began   time.Time
	granted map[string]time.Time // by uid of the Pod
	closed  map[string]bool      // given away: never granted again
}

// NewTable returns that of a term which begins now, after its barrier: whatever
// earlier leaders granted is counted from here.
func NewTable(now time.Time) *Table {
	return &Table{began: now, granted: map[string]time.Time{}, closed: map[string]bool{}}
}

// An Event is something that the leader hears or wants.
type Event interface{ event() }

// Asked is a request for a Pod's lease by the node that the log binds it to,
// after which a quorum has confirmed the leader.
type Asked struct{ Pod string }

// Take asks whether another may start in the Pod's place. From the answer that
// it may, no lease of this Pod is granted any more.
type Take struct{ Pod string }

// Gone tells that the Pod is not in the log any more.
type Gone struct{ Pod string }

func (Asked) event() {}
func (Take) event()  {}
func (Gone) event()  {}

// An Answer is what comes of an Event.
type Answer struct {
	OK bool      // granted, or free to take
	At time.Time // of a Take that must wait: when to ask again at the earliest
}

// Step takes one event. Times must not go back.
func (t *Table) Step(now time.Time, ev Event) Answer {
	switch ev := ev.(type) {
	case Asked:
		if t.closed[ev.Pod] {
			return Answer{}
		}
		t.granted[ev.Pod] = now
		return Answer{OK: true}
	case Take:
		if t.closed[ev.Pod] {
			return Answer{OK: true}
		}
		since := t.began
		if at, ok := t.granted[ev.Pod]; ok {
			since = at
		}
		if at := since.Add(Wait); now.Before(at) {
			return Answer{At: at}
		}
		t.closed[ev.Pod] = true
		return Answer{OK: true}
	case Gone:
		delete(t.granted, ev.Pod)
		delete(t.closed, ev.Pod)
	}
	return Answer{}
}

// Pods lists those that the table remembers.
func (t *Table) Pods() []string {
	var out []string
	for pod := range t.granted {
		out = append(out, pod)
	}
	for pod := range t.closed {
		if _, too := t.granted[pod]; !too {
			out = append(out, pod)
		}
	}
	return out
}

// Until returns when another may start in the Pod's place if its lease is not
// renewed.
func (t *Table) Until(pod string) time.Time {
	if at, ok := t.granted[pod]; ok {
		return at.Add(Wait)
	}
	return t.began.Add(Wait)
}
