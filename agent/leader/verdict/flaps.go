package verdict

import "time"

// A node that comes and goes is trusted less, by a leaky bucket: a suspicion
// that is taken back adds one point, a return from being lost two, and one
// leaks a minute. What is over flapFree makes two delays grow, each doubling:
// that after which the node gets new Pods again, and that by which its next
// loss is declared later. The first two returns in a row cost nothing, and
// flapMost bounds both delays, and how long all of it is remembered.
const (
	flapFree   = 4
	flapMost   = 10
	flapLeak   = time.Minute // a point
	trustFirst = 15 * time.Second
	trustMost  = 5 * time.Minute
	declFirst  = time.Second
	declMost   = 30 * time.Second
)

// flaps is what is remembered of one node's coming and going.
type flaps struct {
	points int
	leaked time.Time // when a point last leaked
	until  time.Time // it gets nothing new; zero: it may have
}

// add counts points and says how many are over what is free.
func (f *flaps) add(now time.Time, points int) (over int) {
	f.leak(now)
	f.points = min(f.points+points, flapMost)
	return max(f.points-flapFree, 0)
}

func (f *flaps) leak(now time.Time) {
	if f.points == 0 {
		f.leaked = now
		return
	}
	gone := int(now.Sub(f.leaked) / flapLeak)
	if gone <= 0 {
		return
	}
	f.leaked = f.leaked.Add(time.Duration(gone) * flapLeak)
	if f.points -= gone; f.points <= 0 {
		f.points, f.leaked = 0, now
	}
}

// later is by how much the node's loss is declared later than another's.
func (f *flaps) later(now time.Time) time.Duration {
	f.leak(now)
	return doubled(declFirst, max(f.points-flapFree, 0), declMost)
}

// doubled is first for one, twice that for two and so on, at most most.
func doubled(first time.Duration, n int, most time.Duration) time.Duration {
	if n <= 0 {
		return 0
	}
	return min(first<<min(n-1, 20), most)
}

// flapped counts that a node is back, and keeps new Pods away from one that has
// come and gone too often: but from no more than half of all, as somebody must
// have them.
func (m *Machine) flapped(now time.Time, n *node, points int) {
	over := n.flaps.add(now, points)
	if over == 0 || m.leaving(n)*2 > m.size() {
		return
	}
	n.flaps.until = now.Add(doubled(trustFirst, over, trustMost))
	m.touch(n)
	m.act(Distrust{Node: n.name, Points: n.flaps.points, Until: n.flaps.until})
}

// leaving counts the nodes that get nothing new for coming and going, with n.
func (m *Machine) leaving(n *node) int {
	count := 1
	for _, o := range m.active {
		if o != n && o.state != Lost && !o.flaps.until.IsZero() {
			count++
		}
	}
	return count
}

// trusted ends the delay of a node, and says when it will.
func (m *Machine) trusted(now time.Time, n *node) time.Time {
	if n.flaps.until.IsZero() || now.Before(n.flaps.until) {
		return n.flaps.until
	}
	n.flaps.until = time.Time{}
	m.act(Trust{Node: n.name})
	return time.Time{}
}
