package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// enrolled tells whether a key is the one by which the cluster knows a node.
func (a *Agent) enrolled(name string, key crypto.PublicKey) error {
	n, ok := a.page(name)
	switch {
	case !ok && !a.replica.Synced():
		return nil // a newcomer knows nobody yet and has the CA's word alone
	case !ok:
		return errors.New("no such node in the cluster")
	case n.key != identity.Fingerprint(key):
		return errors.New("the key is not the one that this node has enrolled")
	}
	return nil
}

// knows tells gossip who belongs to the cluster.
func (a *Agent) knows(name string) bool {
	if name == a.cfg.Name || a.compass.votes(name) {
		return true
	}
	key := state.Key{Kind: object.KindNode, Name: name}
	_, ok := a.replica.Store().Get(key)
	if in, _ := a.member(); !ok && in { // who was cut off right after joining has nothing else
		_, ok = a.raft.Store().Get(key)
	}
	return ok || a.inLog(name)
}

// inLog tells whether a node takes part in raft by this node's own log, where it
// may stand before anything else tells of it.
func (a *Agent) inLog(name string) bool {
	members, _, _ := a.raft.Members() // none, if it never was one
	return slices.ContainsFunc(members, func(m consensus.Member) bool { return m.Name == name })
}

// zone is a node's failure domain, "" where nobody has said.
func (a *Agent) zone(name string) string {
	n, _ := a.page(name)
	return n.zone
}

// everybody lists all nodes with the last address that is known of each.
func (a *Agent) everybody() []gossip.Peer {
	known := map[string]netip.AddrPort{}
	for _, name := range a.compass.names() {
		known[name], _ = a.compass.addr(name)
	}
	rows := a.replica.Store().List(object.KindNode, "", "")
	if in, _ := a.member(); in && len(rows) == 0 {
		rows = a.raft.Store().List(object.KindNode, "", "")
	}
	for _, row := range rows {
		if n, ok := a.book.open(row); ok && n.addr.IsValid() {
			known[row.Key.Name] = n.addr
		}
	}
	var out []gossip.Peer
	for name, addr := range known {
		if name != a.cfg.Name {
			out = append(out, gossip.Peer{Name: name, Addr: addr})
		}
	}
	return out
}

// dialAnyone reaches the gossip of whichever node of the cluster has an address.
// Who that is may have changed while all were off: its key says who it is.
func (a *Agent) dialAnyone(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return a.dialer.Dial(ctx, addr.String(), identity.ProtoGossip, "")
}

// verifyClaim tells whether a node has made a claim.
func (a *Agent) verifyClaim(name string, message, claim []byte) bool {
	n, known := a.page(name)
	return known && identity.ClaimedBy(n.key, message, claim)
}

// suspicions hands gossip's reports to a goroutine of their own: gossip must
// not wait for the leader.
type suspicions struct {
	agent *Agent
	queue chan gossip.Report
}

func newSuspicions() *suspicions { return &suspicions{queue: make(chan gossip.Report, 256)} }

func (s *suspicions) add(r gossip.Report) {
	select {
	case s.queue <- r:
	default: // it is repeated as long as it lasts
	}
}

func (s *suspicions) run(ctx context.Context) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, 16)
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.queue:
			select {
			case slots <- struct{}{}:
				calls.Go(func() {
					defer func() { <-slots }()
					reporter{s.agent}.suspicion(ctx, r)
				})
			default:
			}
		}
	}
}

// A sampler keeps this machine's load fresh.
type sampler struct {
	log     *slog.Logger
	measure func() (gossip.Load, error)

	mu   sync.Mutex
	last gossip.Load
	at   time.Time
}

// sampleEvery bounds how old a load may be. Who asks sooner gets the last one.
const sampleEvery = 2 * time.Second

func newSampler(measure func() (gossip.Load, error), log *slog.Logger) *sampler {
	return &sampler{log: log, measure: measure}
}

func (s *sampler) load() gossip.Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.at) >= sampleEvery {
		s.at = now
		load, err := s.measure()
		if err != nil {
			s.log.Debug("cannot measure the load", "err", err)
		}
		s.last = load
	}
	return s.last
}

// loadOf tells how busy a node is, by its own word.
func (a *Agent) loadOf(name string) (float64, bool) {
	m, ok := a.gossip.Member(name)
	if !ok || m.State != gossip.StateAlive {
		return 0, false
	}
	return max(share(m.Meta.Load.CPU), share(m.Meta.Load.Memory)), true
}

// prober asks helpers, and this node, to reach another.
type prober struct{ agent *Agent }

func (p prober) Probe(ctx context.Context, helper, node string, epoch uint64) (skeinv1.ProbeResult, error) {
	addr, ok := p.agent.peers.Addr(node)
	if !ok {
		return 0, fmt.Errorf("probe node %s: its address is not known", node)
	}
	res, err := p.agent.peers.Client(helper).Probe(ctx, &skeinv1.ProbeRequest{Node: node, Addr: addr.String(), Epoch: epoch})
	return res.GetResult(), err
}

func (p prober) ProbeSelf(ctx context.Context, node string, epoch uint64) skeinv1.ProbeResult {
	addr, ok := p.agent.peers.Addr(node)
	if !ok {
		return skeinv1.ProbeResult_PROBE_RESULT_UNSPECIFIED
	}
	return p.agent.peers.Probe(ctx, node, addr, epoch)
}

// brakes is what this node holds back as the leader.
func (a *Agent) brakes() []api.Brake {
	var out []api.Brake
	for _, b := range a.duties.Brakes() {
		out = append(out, api.Brake(b))
	}
	return out
}

// watchKeys hands gossip the keys that the cluster has agreed on.
func (a *Agent) watchKeys(ctx context.Context) error {
	watch := a.replica.Store().Changed(state.Selector{Kind: object.KindKeyring})
	defer watch.Close()
	for {
		if err := a.useKeys(); err != nil {
			a.log.Error("cannot use the gossip keys", "err", err)
		}
		if err := a.keepFormat(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C():
		}
	}
}

func (a *Agent) useKeys() error {
	row, ok := a.replica.Store().Get(state.Key{Kind: object.KindKeyring, Name: object.KeyringName})
	if !ok {
		return nil
	}
	ring, err := object.Decode[object.Keyring](row)
	if err != nil {
		return err
	}
	var keys [][]byte
	for _, k := range ring.Spec.Keys {
		keys = append(keys, k.Key)
	}
	if len(keys) == 0 {
		return nil
	}
	return errors.Join(a.id.SetGossipKeys(keys), a.gossip.SetKeys(keys))
}

// voters lists the other nodes that vote, and where they are: those of raft's
// own configuration, on a node that is in it. Only they are remembered for the
// next start: whoever is asked then is believed in who leads and who votes.
func (a *Agent) voters() []identity.Peer {
	names := a.compass.names()
	if in, _ := a.member(); in {
		names = nil
		members, _, err := a.raft.Members()
		if err != nil {
			return a.id.Peers()
		}
		for _, m := range members {
			if m.Voter {
				names = append(names, m.Name)
			}
		}
	}
	var out []identity.Peer
	known := map[string]netip.AddrPort{}
	for _, name := range names {
		if addr, ok := a.peers.Addr(name); ok && name != a.cfg.Name {
			out = append(out, identity.Peer{Name: name, Addr: addr})
			known[name] = addr
		}
	}
	a.compass.told(a.compass.leads(), known)
	return out
}

// watchPeers tells gossip and the port when nodes come and go, and remembers
// where the voters are for the next start.
func (a *Agent) watchPeers(ctx context.Context) error {
	watch := a.replica.Store().Changed(state.Selector{Kind: object.KindNode})
	defer watch.Close()
	again := time.NewTimer(votersEvery)
	defer again.Stop()
	names := ""
	for {
		peers := a.everybody()
		slices.SortFunc(peers, func(x, y gossip.Peer) int { return compareNames(x.Name, y.Name) })
		if now := fmt.Sprint(peers); now != names {
			names = now
			a.gossip.Refresh()
			a.ports.mux.Recheck()
		}
		if voters := a.voters(); len(voters) > 0 { // raft that is just starting names nobody
			if err := a.id.SetPeers(voters); err != nil {
				a.log.Warn("cannot remember the voters", "err", err)
			}
		}
		again.Reset(votersEvery)
		select { // all of them are listed each time: not for each of many that come at once
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(len(peers)) * peersEach):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C():
		case <-again.C:
		}
	}
}

// peersEach is how much later the nodes are listed again for each that there is.
const peersEach = 200 * time.Microsecond

// votersEvery bounds how late a change of voters, of which no object tells, is
// heard of and remembered for the next start. It costs a write only when they
// have changed.
const votersEvery = 5 * time.Second

func compareNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// enter finds the others by gossip, and once the cluster is there tells the
// operator and brings in the images that this program carries.
func (a *Agent) enter(ctx context.Context) error {
	addrs := a.seeds(ctx) // what was said last comes first: where nobody is any more costs seconds each
	for _, p := range a.everybody() {
		addrs = append(addrs, p.Addr.String())
	}
	if len(addrs) > 0 {
		if n, err := a.gossip.Join(ctx, addrs); n == 0 && err != nil && ctx.Err() == nil {
			a.log.Warn("no other node answers; trying on", "err", err)
		}
	}
	if a.cfg.DemoImages {
		if err := a.bringDemo(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot keep the images that are carried along", "err", err)
		}
	}
	<-ctx.Done()
	return nil
}

// seeds are the addresses that the operator named, also of a node that joined
// long ago: after a change of every address they are where to look.
func (a *Agent) seeds(ctx context.Context) []string {
	var out []string
	for _, text := range a.cfg.Join {
		if _, err := netip.ParseAddrPort(text); err == nil {
			out = append(out, text)
			continue
		}
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			a.log.Warn("an address to join makes no sense", "addr", text, "err", err)
			continue
		}
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			a.log.Warn("a machine to join is not found", "addr", text, "err", err)
		}
		for _, ip := range found {
			out = append(out, net.JoinHostPort(ip, port))
		}
	}
	return out
}

// bringDemo keeps the carried images and, on the leader, names them.
func (a *Agent) bringDemo(ctx context.Context) error {
	list, err := a.images.carried(ctx)
	if err != nil {
		return err
	}
	for {
		changed := a.raft.LeaderChanged()
		if a.raft.IsLeader() {
			for _, img := range list {
				if err := a.api.Name(ctx, img); err != nil {
					return err
				}
			}
			return nil
		}
		if a.leader() != "" {
			return nil // that one names them, being the same program
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// reattest gets a certificate after the old one has expired.
func (a *Agent) reattest(ctx context.Context) error {
	var errs []error
	addrs := a.seeds(ctx)
	for _, p := range a.everybody() {
		addrs = append(addrs, p.Addr.String())
	}
	for _, addr := range addrs {
		err := a.id.Reattest(ctx, addr, a.cfg.Advertise.String(), a.cfg.World.Network.Dial)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func goVersion() string { return runtime.Version() }
