package leader

import (
	"cmp"
	"slices"
	"time"
)

// A wish is what a Deployment asks for.
type wish struct {
	replicas    int
	surge       int // how many more there may be while they are replaced
	unavailable int // how many of them may be missing then
	minReady    time.Duration
	recreate    bool // none of the new before all of the old are gone
	paused      bool
	exclusive   bool // never two, not even one that stops beside one that starts
}

// A cast is what there is: the Pods of the current revision and of older ones.
type cast struct {
	current []*pod
	old     []*pod
	present int // of exclusive ones: all in their slot, those that stop and those that ended too
}

// A deed is what to do about the difference.
type deed struct {
	create int
	remove []removal
	again  time.Duration // look again then, without anything having changed; 0: no need
}

type removal struct {
	pod *pod
	why string
}

// failedStay is how long a Pod that failed stays before it is replaced, counted
// from its creation: one that fails at once is not made again at once.
const failedStay = 10 * time.Second

// plan says how to get from what there is to what is wanted, one step at a time:
// it is asked again after each change.
func (w wish) plan(have cast, now time.Time) deed {
	var d deed
	current := w.sift(&d, have.current, now)
	old := w.sift(&d, have.old, now)
	switch {
	case w.exclusive:
		w.planExclusive(&d, current, old, have.present)
	case w.recreate && len(have.old) > 0:
		// Those that are still stopping count too.
		d.removeAll(old.active, "its template is replaced")
		d.removeAll(surplus(current.active, len(current.active)-w.replicas), "fewer replicas are wanted")
	case w.recreate || w.paused:
		all := len(current.active) + len(old.active)
		d.create = max(0, w.replicas-all)
		d.removeAll(surplus(slices.Concat(current.active, old.active), all-w.replicas), "fewer replicas are wanted")
	default:
		w.roll(&d, current, old)
	}
	return d
}

// A part is the Pods of one side that count.
type part struct {
	active    []*pod
	available int
	spent     int // failed ones that wait for their replacement
}

// sift counts the Pods that count, and lets go of those that have ended.
func (w wish) sift(d *deed, pods []*pod, now time.Time) part {
	var p part
	for _, pod := range pods {
		switch {
		case pod.deleting:
		case pod.finished():
			if left := failedStay - now.Sub(pod.born); left > 0 {
				d.lookAgain(left)
				p.spent++
				continue
			}
			d.remove = append(d.remove, removal{pod, "it has ended"})
		default:
			p.active = append(p.active, pod)
			ok, left := pod.available(w.minReady, now)
			if ok {
				p.available++
			}
			d.lookAgain(left)
		}
	}
	return p
}

// roll makes new Pods as far as the surge allows, and removes old ones as far
// as enough Pods are available without them.
func (w wish) roll(d *deed, current, old part) {
	total := len(current.active) + len(old.active) + current.spent
	d.create = max(0, min(w.replicas-len(current.active)-current.spent, w.replicas+w.surge-total))
	d.removeAll(surplus(current.active, len(current.active)-w.replicas), "fewer replicas are wanted")
	if len(old.active) == 0 {
		return
	}
	idle := len(old.active) - old.available
	least := max(0, w.replicas-w.unavailable)
	// Old Pods that are not available serve nobody; they may all go.
	spare := idle + max(0, min(old.available, min(current.available, w.replicas)+old.available-least))
	d.removeAll(surplus(old.active, spare), "its template is replaced")
}

func (d *deed) removeAll(pods []*pod, why string) {
	for _, p := range pods {
		d.remove = append(d.remove, removal{p, why})
	}
}

func (d *deed) lookAgain(in time.Duration) {
	if in > 0 && (d.again == 0 || in < d.again) {
		d.again = in
	}
}

// surplus picks n Pods to remove: the unbound first, then those that are not
// ready, then those of the node with the most of them, the newest first.
func surplus(pods []*pod, n int) []*pod {
	if n <= 0 {
		return nil
	}
	order := slices.Clone(pods)
	slices.SortFunc(order, func(a, b *pod) int { return compareWorth(a, b, 0, 0) })
	if n >= len(order) {
		return order
	}
	// The n-th Pod of a node leaves when n are there: so its crowd is n.
	crowd := make(map[*pod]int, len(order))
	left := map[string]int{}
	for _, p := range slices.Backward(order) {
		left[p.node]++
		crowd[p] = left[p.node]
	}
	slices.SortFunc(order, func(a, b *pod) int { return compareWorth(a, b, crowd[a], crowd[b]) })
	return order[:n]
}

// compareWorth puts first what is missed least.
func compareWorth(a, b *pod, crowdA, crowdB int) int {
	return cmp.Or(
		compareBool(a.node != "", b.node != ""),
		compareBool(a.ready, b.ready),
		cmp.Compare(crowdB, crowdA),
		b.created.Compare(a.created),
		cmp.Compare(a.key.Name, b.key.Name),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
