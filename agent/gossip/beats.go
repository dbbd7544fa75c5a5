package gossip

import (
	"context"
	"net/netip"
	"time"
)

const (
	// The ring is made again this often in any case: members that died leave
	// it by and by, and labels change.
	ringEvery = 10 * time.Second
)

// hands are the buffers of one goroutine that drives the detector.
type hands struct {
	actions    []action
	plain, out []byte
}

// heard takes in one datagram of ours. It keeps nothing of b and, for a beat,
// allocates nothing.
func (g *Gossip) heard(h *hands, b []byte, from netip.AddrPort) {
	head, body, err := g.seal.open(b, h.plain[:0], g.cfg.Known)
	if err != nil {
		return
	}
	h.plain = body[:0]
	kind, body := body[0], body[1:]
	switch kind {
	case kindBeat:
		if m, err := parseBeat(body); err == nil {
			g.heardBeat(h, head, m)
		}
	case kindPing:
		m, err := parsePing(body)
		if err != nil || m.target != hashString(g.cfg.Name) || !g.answers.take(time.Now()) {
			return
		}
		h.out = g.seal.close(h.out[:0], appendPong(h.plain[:0], pong{challenge: m.challenge}))
		_, _ = g.transport.write(h.out, from)
	case kindClaim:
		g.heardClaim(append([]byte(nil), body...))
	case kindLeave:
		g.heardLeave(head)
	case kindHint:
		_, _ = g.heardHint(append([]byte(nil), body...))
	}
}

func (g *Gossip) heardBeat(h *hands, head header, m beat) {
	g.mu.Lock()
	p := g.detector.peer(string(head.name))
	if p == nil {
		g.mu.Unlock()
		return
	}
	g.stepLocked(h, event{kind: evBeat, name: p.name, epoch: head.epoch, seq: head.seq, farewell: m.farewell, view: m.view})
	g.mu.Unlock()
	g.perform(h)
}

func (g *Gossip) heardLeave(head header) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.members[string(head.name)]; m != nil && head.epoch >= m.Meta.Epoch {
		m.leaving = true // until memberlist hears it live again
		g.dirty = true
		if g.assess(time.Now(), m) {
			g.notify()
		}
		signal(g.poke)
	}
}

// step tells the detector and does what it wants.
func (g *Gossip) step(h *hands, ev event) {
	g.mu.Lock()
	g.stepLocked(h, ev)
	g.mu.Unlock()
	g.perform(h)
}

func (g *Gossip) stepLocked(h *hands, ev event) {
	slept := g.detector.slept
	h.actions = g.detector.step(time.Now(), ev, h.actions[:0])
	if late := g.detector.slept - slept; late > 0 {
		g.log.Debug("slept, forgave everybody", "for", late)
	}
	if at := g.detector.deadline(); !at.IsZero() {
		g.timer.Reset(max(time.Until(earlier(at, g.lookAt)), 0))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// perform does what the detector wanted. Not with mu held.
func (g *Gossip) perform(h *hands) {
	for i := range h.actions {
		switch a := h.actions[i]; a.kind {
		case actBeat:
			g.sendBeat(h, a, i)
		case actAsk:
			if g.cfg.Simulated == nil {
				g.ask(a.name)
			}
		case actSay:
			if g.cfg.Simulated == nil {
				g.say(a)
			}
		case actMeet:
			if g.cfg.Simulated != nil {
				continue // its members are few: no view of its own differs
			}
			g.mu.Lock()
			g.meet = a.name
			g.mu.Unlock()
			signal(g.tend)
		}
	}
}

// sendBeat sends one beat. Observers of one kind get the same datagram.
func (g *Gossip) sendBeat(h *hands, a action, i int) {
	addr, view, ok := g.target(a.name)
	if !ok {
		return
	}
	if i == 0 || h.actions[i-1].kind != actBeat || h.actions[i-1].farewell != a.farewell || len(h.out) == 0 {
		h.plain = appendBeat(h.plain[:0], beat{view: view, farewell: a.farewell})
		h.out = g.seal.close(h.out[:0], h.plain)
	}
	if _, err := g.transport.write(h.out, addr); err != nil {
		g.log.Debug("beat not sent", "node", a.name, "err", err)
	}
}

func (g *Gossip) target(name string) (addr netip.AddrPort, view uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.cfg.Simulated; s != nil {
		addr, ok = s.Addr(name)
		return addr, g.ring.Hash(), ok
	}
	m := g.members[name]
	if m == nil {
		return netip.AddrPort{}, 0, false
	}
	return m.Addr, g.ring.Hash(), true
}

// ask probes a peer that is about to be suspect, and tells the detector.
func (g *Gossip) ask(name string) {
	addr, ok := g.Addr(name)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return
	}
	g.asks.Go(func() {
		r := g.prober.probe(g.ctx, name, addr, askWindow)
		if g.ctx.Err() != nil {
			return
		}
		var h hands
		g.step(&h, event{kind: evAnswer, name: name, epoch: r.Epoch, seq: r.seq, answer: r.Outcome})
	})
}

// runRing drives the detector by the one timer of the ring, which every step
// sets anew: while all is well it wakes for its beats at the most.
func (g *Gossip) runRing(ctx context.Context) {
	defer g.timer.Stop()
	var h hands
	var ringAt time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.poke:
		case <-g.timer.C:
		}
		now := time.Now()
		if g.remakeRing(&h, !now.Before(ringAt)) {
			ringAt = now.Add(ringEvery)
		}
		g.mu.Lock()
		pruneAt, dropped := g.claims.prune(now, g.ring)
		if dropped {
			g.assessAll(now)
		}
		g.lookAt = earlier(ringAt, pruneAt)
		g.timer.Reset(max(time.Until(g.lookAt), 0))
		g.mu.Unlock()
		g.step(&h, event{kind: evTick})
	}
}

// remakeRing makes the ring again if it may have changed, or must be, and says
// whether it looked.
func (g *Gossip) remakeRing(h *hands, must bool) bool {
	g.mu.Lock()
	if !g.dirty && !must {
		g.mu.Unlock()
		return false
	}
	g.dirty = false
	if s := g.cfg.Simulated; s != nil {
		g.mu.Unlock()
		g.turn(h, s.Ring())
		return true
	}
	names := make([]string, 0, len(g.members))
	for name := range g.members {
		names = append(names, name)
	}
	g.mu.Unlock()

	now := time.Now()
	var unknown []string
	for _, name := range names { // may ask the store: not with mu held
		if name != g.cfg.Name && !g.cfg.Known(name) {
			unknown = append(unknown, name)
		}
	}
	g.mu.Lock()
	for _, name := range unknown {
		delete(g.members, name)
		delete(g.told, name)
	}
	g.forgetHints(unknown)
	on := names[:0]
	for _, name := range names {
		m := g.members[name]
		if m == nil || !m.dead.IsZero() && (m.leaving || now.Sub(m.dead) >= ringKeeps) {
			continue
		}
		on = append(on, name)
	}
	if len(unknown) > 0 {
		g.notify()
	}
	g.mu.Unlock()
	g.turn(h, NewRing(on, g.cfg.Domain))
	return true
}

// turn has the node take its place on a ring.
func (g *Gossip) turn(h *hands, ring *Ring) {
	g.mu.Lock()
	same := ring.Hash() == g.ring.Hash() && ring.Len() == g.ring.Len()
	if !same {
		g.ring = ring
	}
	g.mu.Unlock()
	if !same {
		g.seal.forget(ring.Has)
		g.step(h, event{kind: evView, ring: ring})
	}
}
