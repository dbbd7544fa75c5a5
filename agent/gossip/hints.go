package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// MaxHint bounds a hint, in bytes: with two of the longest names it still fits
// into one datagram of ours.
const MaxHint = 640

// maxHints bounds the hints that are kept, of as many members.
const maxHints = 10_000

const (
	// hintVersion is the first byte of a hint on its way as a rumour, where claims
	// begin with theirs: builds that know no hints take it for a claim that they
	// cannot read.
	hintVersion = 2
	// hintEach is how many newcomers are told our hint at one look around. What
	// gets lost is repaired by telling one member by chance each time.
	hintEach = 32
)

// A hint is what a node says to whom it may concern. Its meaning is the owner's.
type hint struct {
	name  string
	epoch uint64 // boot epoch of the node; with seq it orders its hints
	seq   uint64
	data  []byte
}

var errHint = errors.New("hint cut short or too long")

func appendHint(b []byte, h hint) []byte {
	b = append(b, hintVersion)
	b = binary.BigEndian.AppendUint64(b, h.epoch)
	b = binary.BigEndian.AppendUint64(b, h.seq)
	b = append(append(b, byte(len(h.name))), h.name...)
	return append(b, h.data...)
}

// parseHint returns a hint whose data points into b.
func parseHint(b []byte) (hint, error) {
	const head = 18
	if len(b) < head+1 || b[0] != hintVersion || b[head-1] == 0 || int(b[head-1]) > maxName || len(b) < head+int(b[head-1]) {
		return hint{}, errHint
	}
	h := hint{epoch: binary.BigEndian.Uint64(b[1:]), seq: binary.BigEndian.Uint64(b[9:])}
	end := head + int(b[head-1])
	h.name, h.data = string(b[head:end]), b[end:]
	if len(h.data) > MaxHint {
		return hint{}, errHint
	}
	return h, nil
}

// Tell spreads a hint of this node in place of the last one. It is told to all by
// gossip, in their time, and to those who come later; it is signed by nobody. It
// must not be longer than MaxHint.
func (g *Gossip) Tell(data []byte) error {
	if len(data) > MaxHint {
		return fmt.Errorf("a hint of %d bytes: %d allowed", len(data), MaxHint)
	}
	g.mu.Lock()
	own := g.hints[g.cfg.Name]
	if bytes.Equal(own.data, data) {
		g.mu.Unlock()
		return nil
	}
	own = hint{name: g.cfg.Name, epoch: g.cfg.Epoch, seq: own.seq + 1, data: bytes.Clone(data)}
	g.hints[g.cfg.Name] = own
	g.mu.Unlock()
	g.rumours.QueueBroadcast(newHintRumour(own.name, appendHint(nil, own)))
	return nil
}

// Hint is what a member has told last, nil if nothing. It must not be changed.
func (g *Gossip) Hint(name string) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hints[name].data
}

// heardRumour takes in what came by memberlist's broadcasts.
func (g *Gossip) heardRumour(data []byte) {
	if len(data) == 0 || data[0] != hintVersion {
		g.heardClaim(data)
		return
	}
	if h, ok := g.heardHint(data); ok {
		g.rumours.QueueBroadcast(newHintRumour(h.name, data))
	}
}

// heardHint keeps a hint, unless it is no news. It keeps data.
func (g *Gossip) heardHint(data []byte) (hint, bool) {
	h, err := parseHint(data)
	if err != nil || g.cfg.Simulated != nil || h.name == g.cfg.Name || !g.cfg.Known(h.name) {
		return hint{}, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	old, ok := g.hints[h.name]
	if ok && (h.epoch < old.epoch || h.epoch == old.epoch && h.seq <= old.seq) || !ok && len(g.hints) >= maxHints {
		return hint{}, false
	}
	g.hints[h.name] = h
	return h, true
}

// newcomer notes that a member should be told our hint. With mu held.
func (g *Gossip) newcomer(name string) {
	if name == g.cfg.Name || g.cfg.Simulated != nil {
		return
	}
	if g.unheard[name] = true; len(g.unheard) == 1 {
		signal(g.tend) // the first; for more it comes back by itself
	}
}

// tellHint tells our hint to some newcomers, and to one member by chance, by
// datagrams of their own. Who does not know of hints drops them. It says whether
// newcomers are left.
func (g *Gossip) tellHint() (more bool) {
	g.mu.Lock()
	own := g.hints[g.cfg.Name]
	to := map[string]netip.AddrPort{}
	for name := range g.unheard {
		if len(to) == hintEach {
			break
		}
		delete(g.unheard, name)
		if m := g.members[name]; m != nil && m.dead.IsZero() {
			to[name] = m.Addr
		}
	}
	for name, m := range g.members { // in random order
		if name != g.cfg.Name && m.dead.IsZero() {
			to[name] = m.Addr
			break
		}
	}
	more = len(g.unheard) > 0
	g.mu.Unlock()
	if len(own.data) == 0 {
		return more
	}
	plain := appendHint([]byte{kindHint}, own)
	for _, addr := range to {
		_, _ = g.transport.write(g.seal.close(nil, plain), addr) // another time, if not now
	}
	return more
}

// forgetHints drops those of nodes that are none. With mu held.
func (g *Gossip) forgetHints(names []string) {
	for _, name := range names {
		delete(g.hints, name)
		delete(g.unheard, name)
	}
}

// newHintRumour puts a hint on its way through memberlist's broadcasts. A newer
// one of the same node takes its place; no claim is named so.
func newHintRumour(name string, data []byte) *rumour {
	return &rumour{name: "\x00hint\x00" + name, data: data}
}
