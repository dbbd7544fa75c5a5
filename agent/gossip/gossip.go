// Package gossip owns who is here, how well each is, and what each says of
// itself: memberlist over our own transport for membership and news, a ring of
// observers that miss a node's beats within half a second, and probes by fresh
// datagrams that tell a dead agent from a dead machine.
//
// All of it is advice: anyone with the gossip key can lie in it. It decides
// nothing. Verdicts on nodes are the leader's, with certified reports and
// probes, and go through the log.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config is what the agent hands in. Fields without a remark are required.
//
// The functions are called from several goroutines, some with memberlist's
// lock held: they must be quick, not block, and not call back into Gossip.
type Config struct {
	Name      string         // of this node
	Advertise netip.AddrPort // where the others reach Packets and Streams
	// Epoch is this agent's boot epoch. It must grow from one start of the
	// agent to the next, also when the clock went back meanwhile.
	Epoch uint64

	// Packets carries memberlist's packets and our own. Run closes it.
	Packets net.PacketConn
	// Streams accepts connections from certified members only. Run closes it.
	Streams net.Listener
	// Dial connects to the Streams of the node called name, or of whichever
	// member is at addr if name is empty.
	Dial func(ctx context.Context, name string, addr netip.AddrPort) (net.Conn, error)
	// DialPacket opens a connected UDP socket. The kernel must report refusals
	// of the other end (ECONNREFUSED) on it.
	DialPacket func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Knock tells whether the kernel at an address takes or refuses a
	// connection: then its machine is there. It ends with ctx. It may be nil
	// where every datagram to a closed port is refused.
	Knock func(ctx context.Context, addr netip.AddrPort) bool
	// Keys are the gossip keys, 16, 24 or 32 bytes each. The first one seals.
	Keys [][]byte

	// Meta is asked every few seconds what this node says of itself.
	Meta func() Meta
	// Known says whether a node belongs to the cluster. All others are ignored.
	Known func(name string) bool
	// Domain names a node's failure domain, "" for none. Optional.
	Domain func(name string) string
	// Peers lists all nodes of the cluster with the last address that is known
	// of each, to find back to them. Optional.
	Peers func() []Peer
	// Report is told when this node misses the beats of a node that it
	// observes, again every second while it does, and when it has them again.
	Report func(Report)

	// Simulated is for machines of which there are many on one processor; nil: not
	// one of those.
	Simulated *Simulated

	// Sign signs a claim of this node, in at most 256 bytes; Verify checks one
	// of another. Optional, both or none: without them, claims in gossip are
	// as good as the gossip key.
	Sign   func(message []byte) []byte
	Verify func(name string, message, signature []byte) bool

	Logger *slog.Logger
}

// Simulated is what simulated machines would all work out alike, handed in. Each
// beats and answers as any node does, and exchanges the membership with real nodes
// alone: those hear of it what they would, and it passes on no news and keeps to
// itself whom it misses.
type Simulated struct {
	Ring func() *Ring                             // of all nodes; see Refresh
	Addr func(name string) (netip.AddrPort, bool) // of any node
	Real func(name string) bool                   // whether a node is no simulated one
}

// A Peer is a node and where it was last.
type Peer struct {
	Name string
	Addr netip.AddrPort
}

// A Report is this node's word, as an observer, on another.
type Report struct {
	Node    string
	Epoch   uint64 // the node's boot epoch as it was last heard
	Cleared bool   // the beats are back
	// AgentGone says that the node's kernel still answers.
	AgentGone bool
	View      uint64        // hash of this node's view of the ring
	Silent    time.Duration // since the last beat
}

// Gossip is this node's part in the gossip of the cluster.
type Gossip struct {
	cfg     Config
	log     *slog.Logger
	seal    *seal
	prober  *prober
	keyring *memberlist.Keyring
	answers *bucket // pings that we answer
	checks  *bucket // signatures that we check

	ready chan struct{} // closed when list is set
	done  chan struct{} // closed when Run returns
	list  *memberlist.Memberlist
	poke  chan struct{} // the ring loop should look again
	tend  chan struct{} // the tender should look again

	rumours memberlist.TransmitLimitedQueue

	// mu guards all below. memberlist calls us with its lock held and we take
	// mu then, so nothing of memberlist may be called with mu held.
	mu        sync.Mutex
	members   map[string]*member
	strange   map[string]netip.AddrPort // met, but not known
	ring      *Ring
	detector  *detector
	claims    *claims
	told      map[string]telling
	seq       uint64          // of my claims
	hints     map[string]hint // by node, mine among them
	unheard   map[string]bool // members that were not told mine
	seeds     []netip.AddrPort
	meta      []byte
	meet      string      // member to exchange the membership with, "" for none
	displaced time.Time   // until then members are told where we are now
	timer     *time.Timer // of the ring: its next deadline or lookAt
	lookAt    time.Time   // when claims expire or the ring is made again
	dirty     bool        // the ring may have changed
	changed   chan struct{}

	transport *transport      // set by Run
	ctx       context.Context // of Run: ends what it began
	asks      sync.WaitGroup
}

// New checks the configuration. Nothing runs before Run.
func New(cfg Config) (*Gossip, error) {
	switch {
	case cfg.Packets == nil, cfg.Streams == nil, cfg.Dial == nil, cfg.DialPacket == nil,
		cfg.Meta == nil, cfg.Known == nil, cfg.Report == nil, cfg.Logger == nil:
		return nil, errors.New("gossip: a required field of the configuration is missing")
	case !cfg.Advertise.IsValid() || cfg.Advertise.Port() == 0 || cfg.Advertise.Addr().IsUnspecified():
		return nil, fmt.Errorf("gossip: %v is no address that others could reach", cfg.Advertise)
	case (cfg.Sign == nil) != (cfg.Verify == nil):
		return nil, errors.New("gossip: Sign and Verify go together")
	}
	s, err := newSeal(cfg.Name, cfg.Epoch, cfg.Keys)
	if err != nil {
		return nil, err
	}
	keyring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("make keyring: %w", err)
	}
	g := &Gossip{
		cfg: cfg, log: cfg.Logger.With("component", "gossip"), seal: s, keyring: keyring,
		prober:  &prober{seal: s, dial: cfg.DialPacket, knock: cfg.Knock, known: cfg.Known},
		answers: newBucket(500), checks: newBucket(200),
		ready: make(chan struct{}), done: make(chan struct{}),
		poke: make(chan struct{}, 1), tend: make(chan struct{}, 1),
		members: map[string]*member{}, strange: map[string]netip.AddrPort{},
		ring: NewRing(nil, nil), detector: newDetector(cfg.Name), claims: newClaims(),
		told: map[string]telling{}, hints: map[string]hint{}, unheard: map[string]bool{}, dirty: true, changed: make(chan struct{}),
		timer: time.NewTimer(0),
	}
	g.rumours = memberlist.TransmitLimitedQueue{RetransmitMult: 4, NumNodes: g.size}
	return g, nil
}

// Join exchanges the whole membership with nodes at addrs (ip:port), the first
// ones first, until three have answered, and remembers these addresses for when
// this node finds itself alone. It returns how many answered, and why none did if
// so. It waits for Run to have begun, and for at most six seconds an address.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	var at []netip.AddrPort
	for _, a := range addrs {
		addr, err := netip.ParseAddrPort(a)
		if err != nil {
			return 0, fmt.Errorf("join %q: %w", a, err)
		}
		at = append(at, addr)
	}
	g.mu.Lock()
	for _, addr := range at {
		if addr != g.cfg.Advertise && !slices.Contains(g.seeds, addr) && len(g.seeds) < maxSeeds {
			g.seeds = append(g.seeds, addr)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.ready:
	case <-g.done:
		return 0, errors.New("join: gossip has ended")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	at = slices.DeleteFunc(at, func(addr netip.AddrPort) bool { return addr == g.cfg.Advertise })
	return g.reach(ctx, at, joinEnough)
}

const (
	joinEnough  = 3 // each of them hands on the whole membership
	reachAtOnce = 8
)

// reach exchanges the membership with those at these addresses, several at once,
// as one where nobody is any more takes seconds to say so, until enough have
// answered. It returns how many did, and why none if so.
func (g *Gossip) reach(ctx context.Context, at []netip.AddrPort, enough int) (int, error) {
	next := make(chan netip.AddrPort, len(at))
	for _, addr := range at {
		next <- addr
	}
	close(next)
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		joined int
		errs   []error
	)
	count := func(err error) (done bool) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
		} else {
			joined++
		}
		return joined >= enough || ctx.Err() != nil
	}
	for range min(reachAtOnce, len(at)) {
		asking.Go(func() {
			for addr := range next {
				if count(g.exchange(addr)) {
					return
				}
			}
		})
	}
	asking.Wait()
	if joined > 0 {
		return joined, nil
	}
	return 0, errors.Join(append(errs, ctx.Err())...)
}

// exchange pushes and pulls the whole membership with the node at addr.
func (g *Gossip) exchange(addr netip.AddrPort) error {
	if _, err := g.list.Join([]string{addr.String()}); err != nil {
		return fmt.Errorf("join %v: %w", addr, err)
	}
	return nil
}

// Observers lists the nodes that observe a node, by this node's view.
func (g *Gossip) Observers(name string) []string { return g.Ring().Observers(name) }

// Ring is this node's view of who observes whom.
func (g *Gossip) Ring() *Ring {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ring
}

// SetKeys replaces the gossip keys at once: the first one seals, all open. To
// change the key of a cluster without a gap, every node first gets the new one
// as the last, then as the first, then alone.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if err := g.seal.setKeys(keys); err != nil {
		return err
	}
	return setKeyring(g.keyring, keys)
}

// setKeyring makes keyring hold keys, in their order. Readers of the keyring
// hold its slice without its lock, and RemoveKey moves elements inside that
// slice: so keys to remove are brought to the end first.
func setKeyring(keyring *memberlist.Keyring, keys [][]byte) error {
	for _, key := range keys {
		if err := keyring.AddKey(slices.Clone(key)); err != nil {
			return fmt.Errorf("add gossip key: %w", err)
		}
	}
	for _, key := range slices.Backward(keys) {
		if err := keyring.UseKey(key); err != nil {
			return fmt.Errorf("use gossip key: %w", err)
		}
	}
	for all := keyring.GetKeys(); len(all) > len(keys); all = keyring.GetKeys() {
		if err := keyring.RemoveKey(all[len(all)-1]); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	return nil
}

// UpdateMeta asks Config.Meta again soon instead of in a few seconds.
func (g *Gossip) UpdateMeta() { signal(g.tend) }

// Refresh says that Known or Domain may answer differently from now on.
func (g *Gossip) Refresh() {
	g.mu.Lock()
	g.dirty = true
	g.mu.Unlock()
	signal(g.poke)
	signal(g.tend)
}

// LeaderChanged says that there is a new leader: every suspicion that lasts is
// reported again at once.
func (g *Gossip) LeaderChanged() {
	var hands hands
	g.step(&hands, event{kind: evLeader})
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a wake-up is already waiting
	}
}
