package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	metaEvery   = 5 * time.Second       // at most so often do we say something new of ourselves
	metaPerNode = 10 * time.Millisecond // and for each member so much less often
	aloneEvery  = time.Second           // first pause before looking for the others again
	aloneMost   = 10 * time.Second
	movedFor    = 15 * time.Second // after we last heard of an old address of ours, tell members of the new one
	seekEvery   = 15 * time.Second // look for one of those that are not here
	probeEvery  = 500 * time.Millisecond
	// memberlist's ticker wakes also when there is nothing to say: at 100 ms it
	// took a third of all that idle gossip costs. News that must be quick do not
	// wait for it: claims go to everybody at once.
	gossipEvery = 500 * time.Millisecond
	leaveWithin = 400 * time.Millisecond
)

// settings are memberlist's for a local network, but quicker to probe and to
// gossip. It is the slow safety net under the ring, and how news travel when
// there is no leader.
func (g *Gossip) settings(t *transport) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name, c.Transport, c.Keyring = g.cfg.Name, t, g.keyring
	c.Logger = bridge(g.log)
	c.GossipInterval = gossipEvery
	c.ProbeInterval = probeEvery
	c.ProbeTimeout = 300 * time.Millisecond
	c.SuspicionMult = 4
	c.AwarenessMaxMultiplier = 8
	c.TCPTimeout = 3 * time.Second
	c.GossipToTheDeadTime = 30 * time.Second
	c.DeadNodeReclaimTime = time.Nanosecond // a dead node may come back elsewhere
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.EnableCompression = false
	c.UDPBufferSize = 1400
	c.DNSConfigPath = "" // addresses only
	if g.cfg.Simulated != nil {
		// It knows but the few real nodes, and would ask each of them as often as
		// it would ask all the others together.
		c.ProbeInterval, c.PushPullInterval = 0, 0
	}
	e := events{g}
	c.Delegate, c.Events, c.Alive, c.Conflict = e, e, e, e
	return c
}

// Run takes part until ctx ends, then says goodbye and closes Packets and
// Streams. That takes about a second: memberlist cannot be told to drop a probe
// under way, so Run waits for it, longer (up to 4 s) if many probes failed.
func (g *Gossip) Run(ctx context.Context) error {
	defer close(g.done)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	t := newTransport(work, g)
	g.publish()
	g.mu.Lock()
	g.transport, g.ctx = t, work
	g.mu.Unlock()

	list, err := memberlist.Create(g.settings(t))
	if err != nil {
		return errors.Join(fmt.Errorf("start memberlist: %w", err), t.Shutdown())
	}
	g.list = list
	close(g.ready)
	var sockets, loops sync.WaitGroup
	sockets.Go(t.receive)
	sockets.Go(t.accept)
	loops.Go(func() { g.runRing(ctx) })
	loops.Go(func() { g.runTender(ctx) })
	loops.Wait() // until ctx ends

	g.leave()
	stop()
	g.mu.Lock()   // no ask begins after this
	g.mu.Unlock() //nolint:staticcheck // see above
	g.asks.Wait()
	err = list.Shutdown()
	sockets.Wait()
	// A probe under way hears of nothing and ends with its interval.
	time.Sleep(time.Duration(list.GetHealthScore()+1) * probeEvery)
	if err != nil {
		return fmt.Errorf("stop memberlist: %w", err)
	}
	return nil
}

// leave says goodbye: by our own datagrams, which take us off the ring at once,
// and by memberlist, whose news would wait for its ticker: they travel with pings.
func (g *Gossip) leave() {
	g.toAll([]byte{kindLeave})
	left := make(chan error, 1)
	go func() { left <- g.list.Leave(leaveWithin) }()
	for {
		for _, m := range g.Members() {
			if m.Name != g.cfg.Name && m.State == StateAlive && len(left) == 0 {
				_, _ = g.list.Ping(m.Name, net.UDPAddrFromAddrPort(m.Addr))
			}
		}
		select {
		case err := <-left:
			if err != nil {
				g.log.Debug("goodbye not heard", "err", err)
			}
			return
		case <-time.After(leaveWithin / 8):
		}
	}
}

// publish encodes what we say of ourselves now and says whether the others
// should hear of it.
func (g *Gossip) publish() bool {
	m := g.cfg.Meta()
	m.Epoch = g.cfg.Epoch
	g.mu.Lock()
	defer g.mu.Unlock()
	before, err := parseMeta(g.meta)
	if err == nil && !noticeable(before, m) {
		return false
	}
	g.meta = appendMeta(nil, m)
	return true
}

// runTender does what may take long: it publishes our metadata and looks for
// members that are not here.
func (g *Gossip) runTender(ctx context.Context) {
	timer := time.NewTimer(metaEvery)
	defer timer.Stop()
	alone, metaAt, seekAt := aloneEvery, time.Now(), time.Now()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-g.tend:
			asked = true
		case <-timer.C:
		}
		now := time.Now()
		if asked || !now.Before(metaAt) {
			if g.publish() {
				_ = g.list.UpdateNode(time.Millisecond) // does not wait for it to be sent
			}
			metaAt = now.Add(metaEvery + time.Duration(g.size())*metaPerNode)
		}
		g.welcome(ctx)
		g.meetOdd()
		more := g.tellHint()
		wait := metaEvery
		switch {
		case g.size() <= 1:
			g.seek(ctx, len(g.absent()))
			wait, alone = alone, min(2*alone, aloneMost)
		case !now.Before(seekAt):
			g.seek(ctx, 1)
			seekAt, alone = now.Add(seekEvery), aloneEvery
		}
		if g.moved(ctx) || more {
			wait = aloneEvery
		}
		timer.Reset(wait)
	}
}

// meetOdd exchanges the membership with a member whose view differs from ours.
func (g *Gossip) meetOdd() {
	g.mu.Lock()
	m := g.members[g.meet]
	g.meet = ""
	g.mu.Unlock()
	if m == nil {
		return
	}
	if addr, ok := g.Addr(m.Name); ok {
		if err := g.exchange(addr); err != nil {
			g.log.Debug("membership not compared", "node", m.Name, "err", err)
		}
	}
}

// welcome exchanges the membership with nodes that we met before we knew them.
func (g *Gossip) welcome(ctx context.Context) {
	g.mu.Lock()
	met := make([]Peer, 0, len(g.strange))
	for name, addr := range g.strange {
		met = append(met, Peer{Name: name, Addr: addr})
	}
	full := len(met) >= maxStrange
	g.mu.Unlock()
	for _, p := range met {
		known := g.cfg.Known(p.Name)
		if known || full {
			g.mu.Lock()
			delete(g.strange, p.Name)
			g.mu.Unlock()
		}
		if known && ctx.Err() == nil {
			if err := g.exchange(p.Addr); err != nil {
				g.log.Debug("newcomer not reached", "node", p.Name, "err", err)
			}
		}
	}
}

// absent lists where members might be that are not here.
func (g *Gossip) absent() []netip.AddrPort {
	var peers []Peer
	if g.cfg.Peers != nil {
		peers = g.cfg.Peers()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	at := map[netip.AddrPort]bool{}
	for _, a := range g.seeds {
		at[a] = true
	}
	for _, p := range peers {
		if p.Addr.IsValid() {
			at[p.Addr] = true
		}
	}
	for _, m := range g.members {
		if at[m.Addr] = true; m.dead.IsZero() {
			delete(at, m.Addr)
		}
	}
	delete(at, g.cfg.Advertise)
	list := make([]netip.AddrPort, 0, len(at))
	for a := range at {
		list = append(list, a)
	}
	return list
}

// seek tries up to so many of the absent, until one answers.
func (g *Gossip) seek(ctx context.Context, most int) {
	at := g.absent()
	rand.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	_, _ = g.reach(ctx, at[:min(most, len(at))], 1) // it is tried again
}

// moved exchanges the membership with somebody if the others hold another
// address of ours, until we have not heard of that for a while.
func (g *Gossip) moved(ctx context.Context) bool {
	g.mu.Lock()
	displaced := time.Now().Before(g.displaced)
	var to netip.AddrPort
	for _, m := range g.members { // in random order
		if m.Name != g.cfg.Name && m.dead.IsZero() {
			to = m.Addr
			break
		}
	}
	g.mu.Unlock()
	if !displaced || !to.IsValid() || ctx.Err() != nil {
		return false
	}
	_ = g.exchange(to) // tells us by a conflict if it is still so
	return true
}
