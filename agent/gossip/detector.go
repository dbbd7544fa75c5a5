package gossip

import (
	"slices"
	"time"
)

// The rhythm of the ring.
const (
	beatEvery = 150 * time.Millisecond
	// A peer is asked directly once two beats are overdue, and suspect once
	// three are. The margin is for a network's and a scheduler's jitter.
	beatMargin = 30 * time.Millisecond
	// Beats may be sent so much early when a peer's beat has woken us anyway:
	// neighbours fall into step, and a period costs one wake-up, not several.
	beatEarly    = 30 * time.Millisecond
	askAfter     = 2*beatEvery + beatMargin/3
	suspectAfter = 3*beatEvery + beatMargin
	// How long the answer to the direct question may take, so that it is here
	// before the peer is suspect.
	askWindow = suspectAfter - askAfter - beatMargin/3
	// A suspicion is said again while it lasts.
	repeatEvery = time.Second
	// Beats go on to an observer that the view dropped, until its view will
	// have changed too.
	lingerFor = 3 * time.Second
	// A step this much later than asked for means that this process slept, and
	// says nothing of the others.
	lateAfter = beatEvery / 2
	// Two views of the ring that differ for longer than news take to spread:
	// somebody missed one, and is told by an exchange of the membership.
	oddFor    = 2 * time.Second
	meetPause = 5 * time.Second  // between two such exchanges
	meetAgain = 20 * time.Second // with the same peer
)

// An event is something the detector is told. Which fields count depends on kind.
type event struct {
	kind     eventKind
	name     string // evBeat, evAnswer
	epoch    uint64 // of the sender; evBeat, evAnswer
	seq      uint64
	farewell bool    // evBeat
	view     uint64  // evBeat: hash of the sender's ring
	answer   Outcome // evAnswer
	ring     *Ring   // evView
}

type eventKind int

const (
	evTick   eventKind = iota // the deadline has come
	evBeat                    // a beat arrived
	evAnswer                  // what became of an ask
	evView                    // the ring has changed
	evLeader                  // there is a new leader, who has heard no report yet
)

// An action is something the detector wants done.
type action struct {
	kind     actionKind
	name     string
	farewell bool          // actBeat
	epoch    uint64        // actSay: of the suspect
	what     claimed       // actSay
	silent   time.Duration // actSay
}

type actionKind int

const (
	actBeat actionKind = iota // send a beat to name
	actAsk                    // probe name within askWindow and tell the outcome
	actSay                    // report what is claimed of name, and spread it
	actMeet                   // exchange the membership with name
)

// A detector decides whom to send beats to and whose beats are missed. It is
// pure: it knows the time and the news it is given and nothing else, so that
// it can be run by the million. It is not safe for concurrent use.
type detector struct {
	self     string
	ring     *Ring
	targets  []target
	peers    []*peer // whom I watch, in the order of the ring: few
	nextBeat time.Time
	wake     time.Time // when step wants to be called again; zero: nothing to wait for
	slept    time.Duration
	meet     time.Time // no exchange before
}

// A target is an observer of mine.
type target struct {
	name  string
	until time.Time // zero: for as long as the view lasts
}

// A peer is a node that I watch.
type peer struct {
	name       string
	epoch, seq uint64
	heard      time.Time // zero until the first beat: nothing is missed before
	asked      time.Time // since it was last heard
	said       time.Time // when the suspicion was last told
	odd        time.Time // since when its view differs from mine
	suspect    bool
	gone       bool // its kernel answers, its agent does not
}

func newDetector(self string) *detector {
	return &detector{self: self, ring: NewRing(nil, nil)}
}

// step takes in one event at a time that never goes back, and appends what to
// do to buf. Afterwards deadline says when to step again at the latest.
func (d *detector) step(now time.Time, ev event, buf []action) []action {
	d.forgive(now)
	switch ev.kind {
	case evTick:
	case evBeat:
		buf = d.beat(now, ev, buf)
	case evAnswer:
		buf = d.answer(now, ev, buf)
	case evView:
		d.view(now, ev.ring)
	case evLeader:
		for _, p := range d.peers {
			p.said = time.Time{}
		}
	}
	buf = d.beats(now, ev.kind == evBeat, buf)
	buf = d.judge(now, buf)
	d.plan()
	return buf
}

// peer returns the one of this name, nil if I do not watch it. Names come from
// packets: this allocates nothing.
func (d *detector) peer(name string) *peer {
	for _, p := range d.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

// deadline is when to step again; zero means that nothing is waited for.
func (d *detector) deadline() time.Time { return d.wake }

// forgive moves everything that is waited for by the time that this process
// slept beyond its deadline: packets may have been dropped or not been sent.
func (d *detector) forgive(now time.Time) {
	if d.wake.IsZero() || now.Sub(d.wake) <= lateAfter {
		return
	}
	late := now.Sub(d.wake)
	d.slept += late
	for _, p := range d.peers {
		if !p.heard.IsZero() {
			p.heard = p.heard.Add(late)
		}
		if !p.asked.IsZero() {
			p.asked = p.asked.Add(late)
		}
	}
	for i := range d.targets {
		if !d.targets[i].until.IsZero() {
			d.targets[i].until = d.targets[i].until.Add(late)
		}
	}
	d.wake = now
}

func (d *detector) beat(now time.Time, ev event, buf []action) []action {
	p := d.peer(ev.name)
	if p == nil || ev.epoch < p.epoch || ev.epoch == p.epoch && ev.seq <= p.seq {
		return buf // not mine to watch, or played back
	}
	if p.heard.IsZero() { // of its first beat on we are in step with it
		d.nextBeat = now
	}
	buf = d.alive(now, p, ev, buf)
	if ev.farewell {
		p.heard = time.Time{}
	}
	switch {
	case ev.view == d.ring.Hash():
		p.odd = time.Time{}
	case p.odd.IsZero():
		p.odd = now
	case now.Sub(p.odd) >= oddFor && !now.Before(d.meet):
		p.odd, d.meet = now.Add(meetAgain), now.Add(meetPause)
		buf = append(buf, action{kind: actMeet, name: p.name})
	}
	return buf
}

// alive notes a sign of life and takes a suspicion back.
func (d *detector) alive(now time.Time, p *peer, ev event, buf []action) []action {
	p.epoch, p.seq = ev.epoch, ev.seq
	if now.After(p.heard) {
		p.heard = now
	}
	p.asked, p.gone = time.Time{}, false
	if p.suspect {
		p.suspect = false
		buf = append(buf, action{kind: actSay, name: p.name, epoch: p.epoch, what: claimCleared})
	}
	return buf
}

func (d *detector) answer(now time.Time, ev event, buf []action) []action {
	p := d.peer(ev.name)
	if p == nil || p.heard.IsZero() {
		return buf
	}
	switch ev.answer {
	case Alive:
		// The pong echoes a fresh challenge, so its epoch counts even if it is
		// lower than one heard before: a clock went back, or somebody lied.
		return d.alive(now, p, ev, buf)
	case AgentGone, Silent:
		gone := ev.answer == AgentGone
		if p.suspect && gone != p.gone {
			p.said = time.Time{} // what is claimed has changed
		}
		p.gone = gone
	}
	return buf
}

func (d *detector) view(now time.Time, ring *Ring) {
	d.ring = ring
	targets := make([]target, 0, observersEach)
	for _, name := range ring.Observers(d.self) {
		targets = append(targets, target{name: name})
	}
	for _, old := range d.targets {
		if !ring.Has(old.name) || slices.ContainsFunc(targets, func(t target) bool { return t.name == old.name }) {
			continue
		}
		if old.until.IsZero() {
			old.until = now.Add(lingerFor)
		}
		targets = append(targets, old)
	}
	d.targets = targets
	watched := make([]*peer, 0, observersEach)
	for _, name := range ring.Observed(d.self) {
		p := d.peer(name)
		if p == nil {
			p = &peer{name: name}
		}
		watched = append(watched, p)
	}
	d.peers = watched
}

// beats sends those that are due, or nearly so if we are awake for another's.
func (d *detector) beats(now time.Time, woken bool, buf []action) []action {
	d.targets = slices.DeleteFunc(d.targets, func(t target) bool { return !t.until.IsZero() && !now.Before(t.until) })
	due := d.nextBeat
	if woken {
		due = due.Add(-beatEarly)
	}
	if len(d.targets) == 0 || now.Before(due) {
		return buf
	}
	for _, t := range d.targets {
		buf = append(buf, action{kind: actBeat, name: t.name, farewell: !t.until.IsZero()})
	}
	d.nextBeat = now.Add(beatEvery) // late or early: no volley to catch up
	return buf
}

func (d *detector) judge(now time.Time, buf []action) []action {
	for _, p := range d.peers {
		if p.heard.IsZero() {
			continue
		}
		silent := now.Sub(p.heard)
		if silent >= askAfter && (p.asked.IsZero() || now.Sub(p.asked) >= repeatEvery) {
			p.asked = now
			buf = append(buf, action{kind: actAsk, name: p.name})
		}
		if silent < suspectAfter || p.suspect && now.Sub(p.said) < repeatEvery {
			continue
		}
		p.suspect, p.said = true, now
		what := claimSilent
		if p.gone {
			what = claimGone
		}
		buf = append(buf, action{kind: actSay, name: p.name, epoch: p.epoch, what: what, silent: silent})
	}
	return buf
}

// plan works out the deadline. While all is well it is the next beat, so that
// watching wakes nobody.
func (d *detector) plan() {
	d.wake = time.Time{}
	sooner := func(t time.Time) {
		if d.wake.IsZero() || t.Before(d.wake) {
			d.wake = t
		}
	}
	if len(d.targets) > 0 {
		sooner(d.nextBeat)
	}
	for _, p := range d.peers {
		if p.heard.IsZero() {
			continue
		}
		if p.asked.IsZero() {
			sooner(p.heard.Add(askAfter))
		} else {
			sooner(p.asked.Add(repeatEvery))
		}
		if p.suspect {
			sooner(p.said.Add(repeatEvery))
		} else {
			sooner(p.heard.Add(suspectAfter))
		}
	}
}
