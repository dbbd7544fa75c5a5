package lease

import (
	"slices"
	"time"
)

// A Holder is what a node knows of its leases. Its times are those of one boot,
// by a clock that goes on while the machine sleeps.
type Holder struct {
	sent map[string]time.Duration // of the request whose answer counts, by uid of the Pod
}

// NewHolder returns one that holds nothing.
func NewHolder() *Holder { return &Holder{sent: map[string]time.Duration{}} }

// A Limit is how long a Pod may run.
type Limit struct {
	Pod          string
	Freeze, Kill time.Duration // since boot
}

// Granted takes an answer to the request that was sent then, and returns the new
// limits. An answer that was overtaken changes nothing, and neither does one
// that came after the time was up.
func (h *Holder) Granted(now, sent time.Duration, pods []string) []Limit {
	var out []Limit
	for _, pod := range pods {
		if before, ok := h.sent[pod]; ok && before >= sent || now >= sent+Kill {
			continue
		}
		h.sent[pod] = sent
		out = append(out, Limit{pod, sent + Freeze, sent + Kill})
	}
	return out
}

// MayStart tells whether a container of the Pod may be started.
func (h *Holder) MayStart(now time.Duration, pod string) bool {
	sent, ok := h.sent[pod]
	return ok && now < sent+Freeze-Margin
}

// Expired lists the Pods whose time is up, and says when the next one's is, 0
// if none's.
func (h *Holder) Expired(now time.Duration) (pods []string, next time.Duration) {
	for pod, sent := range h.sent {
		switch end := sent + Kill; {
		case end <= now:
			pods = append(pods, pod)
		case next == 0 || end < next:
			next = end
		}
	}
	slices.Sort(pods)
	return pods, next
}

// Keep forgets all Pods but these.
func (h *Holder) Keep(pods []string) {
	for pod := range h.sent {
		if !slices.Contains(pods, pod) {
			delete(h.sent, pod)
		}
	}
}

// Drop forgets a lease that could not be kept.
func (h *Holder) Drop(pod string) { delete(h.sent, pod) }
