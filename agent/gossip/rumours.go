package gossip

import (
	"net/netip"
	"time"
)

// So many members are told of a claim by a datagram of their own, the others
// by gossip.
const tellAtOnce = 64

// telling is how far the news of one of our claims got.
type telling struct {
	what  claimed
	next  time.Time
	pause time.Duration
}

// say reports what we claim of a node and spreads it.
func (g *Gossip) say(a action) {
	g.cfg.Report(Report{
		Node: a.name, Epoch: a.epoch, Cleared: a.what == claimCleared, AgentGone: a.what == claimGone,
		View: g.Ring().Hash(), Silent: a.silent,
	})
	now := time.Now()
	g.mu.Lock()
	t, told := g.told[a.name]
	if told && t.what == a.what && now.Before(t.next) || !told && a.what == claimCleared {
		g.mu.Unlock()
		return
	}
	if t.what != a.what || t.pause == 0 {
		t = telling{what: a.what, pause: repeatEvery}
	} else {
		t.pause = min(2*t.pause, maxRepeat)
	}
	t.next = now.Add(t.pause)
	if g.told[a.name] = t; a.what == claimCleared {
		delete(g.told, a.name)
	}
	g.seq++
	c := claim{observer: g.cfg.Name, epoch: g.cfg.Epoch, seq: g.seq, node: a.name, boot: a.epoch, what: a.what}
	g.mu.Unlock()

	data := appendClaim(nil, c)
	if g.cfg.Sign != nil {
		data = append(data, g.cfg.Sign(append([]byte(signedPrefix), data...))...)
	}
	g.record(c)
	g.spread(c, data)
}

// record puts a claim and works out what it changes.
func (g *Gossip) record(c claim) bool {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.claims.news(c, g.ring) {
		return false
	}
	g.claims.put(now, c)
	if m := g.members[c.node]; m != nil && g.assess(now, m) {
		g.notify()
	}
	signal(g.poke) // it will expire
	return true
}

// spread tells the others of a claim of ours: at once, and by gossip.
func (g *Gossip) spread(c claim, data []byte) {
	g.rumours.QueueBroadcast(newRumour(c, data))
	plain := append([]byte{kindClaim}, data...)
	g.toAll(plain)
}

// toAll sends a datagram to the living members, the nearest on the ring first.
func (g *Gossip) toAll(plain []byte) {
	g.mu.Lock()
	names := g.ring.Names()
	self := g.ring.index[g.cfg.Name]
	var addrs []netip.AddrPort
	for i := 1; i < len(names) && len(addrs) < tellAtOnce; i++ {
		if m := g.members[names[(self+i)%len(names)]]; m != nil && m.dead.IsZero() {
			addrs = append(addrs, m.Addr)
		}
	}
	g.mu.Unlock()
	out := g.seal.close(nil, plain)
	for _, addr := range addrs {
		_, _ = g.transport.write(out, addr)
	}
}

// heardClaim takes in a claim of somebody's, which it may keep.
func (g *Gossip) heardClaim(data []byte) {
	c, signed, err := parseClaim(data)
	if err != nil || c.observer == g.cfg.Name {
		return
	}
	g.mu.Lock()
	news := g.claims.news(c, g.ring)
	g.mu.Unlock()
	if !news {
		return
	}
	if g.cfg.Verify != nil {
		if !g.checks.take(time.Now()) {
			return
		}
		if !g.cfg.Verify(c.observer, append([]byte(signedPrefix), signed...), c.sig) {
			g.log.Warn("claim with a wrong signature", "observer", c.observer, "node", c.node)
			return
		}
	}
	if g.record(c) {
		g.rumours.QueueBroadcast(newRumour(c, data))
	}
}
