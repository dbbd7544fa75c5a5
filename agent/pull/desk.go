// Package pull owns how a machine comes by the pieces of an image: which other
// machine, or the registry, it asks for each, and in which order, so that the
// cluster fetches each piece from the registry once.
//
// Each blob has a desk, at a machine that all of them find by themselves. Who
// lacks a blob asks there, and is told who has it, who is fetching it just now and
// gives on what came so far, or that it is its own turn to fetch it. A desk's
// word is advice: where views differ a blob is fetched twice, and where a machine
// lies a digest tells.
package pull

import (
	"hash/fnv"
	"slices"
	"sync"
	"time"
)

// A State is how a machine stands to a blob.
type State int

// The states that a machine tells a desk of.
const (
	Wanted   State = iota + 1
	Fetching       // from the registry, as the desk has said
	Held
	GivenUp // it was to be fetched
)

// A Question is what a desk is asked and told.
type Question struct {
	Digest string
	State  State
	Failed []string // machines that did not give it
}

// An Answer tells where to get a blob. One field is set, or none: nothing is known
// yet.
type Answer struct {
	Fetch    bool     // the asker is to fetch it from the registry
	Holders  []string // machines that have it
	Fetching string   // the machine that is fetching it
}

const (
	// grantFor is for how long a machine is believed to fetch a blob without
	// saying so again.
	grantFor = 6 * time.Second
	// forgetAfter is how long a desk remembers a blob that nobody asks for.
	forgetAfter = 30 * time.Minute
	// maxBlobs bounds what a desk remembers, and maxHolders what it tells.
	maxBlobs   = 20_000
	maxHolders = 16
)

// A Desk keeps account of blobs. Its zero value is not ready: see NewDesk.
type Desk struct {
	alive func(node string) bool

	mu    sync.Mutex
	blobs map[string]*account
}

// An account is what a desk knows of one blob.
type account struct {
	fetching string
	until    time.Time
	holders  []string // the latest last
	touched  time.Time
}

// NewDesk returns a desk that trusts only machines that are alive.
func NewDesk(alive func(node string) bool) *Desk {
	return &Desk{alive: alive, blobs: map[string]*account{}}
}

// Ask answers a machine, and takes note of what it says.
func (d *Desk) Ask(node string, q Question) Answer {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	a := d.account(q.Digest, now)
	if a.fetching != "" && (now.After(a.until) || !d.alive(a.fetching)) {
		a.fetching = ""
	}
	switch q.State {
	case Held:
		a.drop(node)
		a.holders = append(a.holders, node)
		a.holders = a.holders[max(0, len(a.holders)-maxHolders):]
		if a.fetching == node {
			a.fetching = ""
		}
		return Answer{}
	case GivenUp:
		a.drop(node)
		if a.fetching == node {
			a.fetching = ""
		}
		return Answer{}
	case Fetching, Wanted:
	}
	return a.answer(node, q, now, d.alive)
}

func (a *account) answer(node string, q Question, now time.Time, alive func(string) bool) Answer {
	if a.fetching == node {
		a.until = now.Add(grantFor)
		return Answer{Fetch: true}
	}
	var holders []string
	for _, h := range a.holders {
		if h != node && alive(h) && !slices.Contains(q.Failed, h) {
			holders = append(holders, h)
		}
	}
	if len(holders) > 0 && q.State == Wanted {
		return Answer{Holders: holders}
	}
	if a.fetching != "" && !slices.Contains(q.Failed, a.fetching) {
		return Answer{Fetching: a.fetching}
	}
	a.fetching, a.until = node, now.Add(grantFor)
	return Answer{Fetch: true}
}

func (a *account) drop(node string) {
	a.holders = slices.DeleteFunc(a.holders, func(h string) bool { return h == node })
}

// account finds what is known of a blob. The caller holds mu.
func (d *Desk) account(digest string, now time.Time) *account {
	a := d.blobs[digest]
	if a == nil {
		if len(d.blobs) >= maxBlobs {
			d.forget(now)
		}
		a = &account{}
		d.blobs[digest] = a
	}
	a.touched = now
	return a
}

// forget makes room: for what nobody asks for any more, and else for anything.
func (d *Desk) forget(now time.Time) {
	for digest, a := range d.blobs {
		if now.Sub(a.touched) > forgetAfter {
			delete(d.blobs, digest)
		}
	}
	for digest := range d.blobs {
		if len(d.blobs) < maxBlobs {
			return
		}
		delete(d.blobs, digest)
	}
}

// At tells which of these machines has a blob's desk: the one that weighs most for
// this digest (highest random weight, Thaler and Ravishankar, 1998), so that few
// desks move when a machine comes or goes.
func At(nodes []string, digest string) string {
	best, most := "", uint64(0)
	for _, n := range nodes {
		h := fnv.New64a()
		_, _ = h.Write([]byte(n))
		_, _ = h.Write([]byte{0})
		_, _ = h.Write([]byte(digest))
		if w := mix(h.Sum64()); best == "" || w > most || w == most && n < best {
			best, most = n, w
		}
	}
	return best
}

// mix spreads a hash whose last bytes were almost the same over all bits: the
// finisher of MurmurHash3 (Appleby, public domain).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
