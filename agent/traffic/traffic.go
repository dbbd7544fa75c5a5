// Package traffic owns what every node does so that Pods are reached: from the
// objects that the cluster has agreed on, and from what gossip says right now, it
// makes routes to other nodes, the table of Services and policies, and names. Who is
// behind a Service the leader says; how the kernel is told, the runtime's packages
// know.
package traffic

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/balance"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/dns"
	"github.com/skein-dev/skein/runtime/fabric"
	"github.com/skein-dev/skein/runtime/network"
)

// Resolver is where Pods ask for names: an address that every node has for itself.
var Resolver = netip.MustParseAddr("169.254.53.53")

// TunnelPort is the UDP port at which nodes hear packets of Pods from nodes that are
// not on their link.
const TunnelPort = 4789

// Replica is this node's copy of what concerns it.
type Replica interface {
	Store() *state.Store
	Synced() bool
	SyncedC() <-chan struct{}
}

// Table spreads connections; balance.Table is the real one.
type Table interface {
	Set(ctx context.Context, cfg balance.Config) error
	Apply(ctx context.Context, change balance.Change) error
	Repair(ctx context.Context) (bool, error)
	Watch(ctx context.Context, changed func()) error
	Check(ctx context.Context) ([]string, error)
	Forget(gone []netip.Addr, only ...balance.Protocol) (uint, error)
	Remove() error
}

// Fabric joins machines; fabric.Fabric is the real one.
type Fabric interface {
	Set(ctx context.Context, cfg fabric.Config) error
	Watch(ctx context.Context, changed func()) error
	Check(ctx context.Context) ([]string, error)
	Path(peer string) (kind, via string)
	MTU() int
	Remove() error
}

// Names answers for names; dns.Server is the real one.
type Names interface {
	Set(all map[string]dns.Entry)
	Apply(put map[string]dns.Entry, gone []string)
	Run(ctx context.Context) error
}

// Config is what a Traffic needs.
type Config struct {
	Node    string
	Address netip.Addr // of this machine
	Network uint32     // of the cluster, as fabric.Config has it
	Mode    fabric.Mode
	Replica Replica
	Table   Table
	Fabric  Fabric
	Names   Names
	// Sandboxes are the Pods that an earlier agent has left here.
	Sandboxes func(ctx context.Context) ([]container.Sandbox, error)
	// Suspects are the nodes that miss beats now, and SuspectsChanged is closed when
	// that changes.
	Suspects        func() []string
	SuspectsChanged func() <-chan struct{}
	// Ack tells the leader up to where this node has taken in endpoints, and
	// LeaderChanged is closed when that is another.
	Ack           func(ctx context.Context, index uint64) error
	LeaderChanged func() <-chan struct{}
	Logger        *slog.Logger
}

// A Traffic keeps this machine's part of the cluster's network.
type Traffic struct {
	cfg  Config
	log  *slog.Logger
	acks *acks
	bury chan netip.Addr // endpoints that are gone

	mu      sync.Mutex
	model   *model
	begun   bool // the table was written
	suspect map[string]bool
	here    map[string]local // this machine's Pods, by uid
	ready   chan struct{}    // closed once the table was written
}

// local is a Pod of this machine with an address of its own.
type local struct {
	balance.Pod
	namespace string
	labels    map[string]string
	ports     map[string]balance.PortRange // by name
	hostPorts map[balance.Frontend]uint16  // of this machine, to its own
}

// New returns a Traffic that does nothing yet.
func New(cfg Config) *Traffic {
	log := cfg.Logger.With("component", "traffic")
	return &Traffic{
		cfg: cfg, log: log, acks: newAcks(cfg.Ack, log), bury: make(chan netip.Addr, 4096),
		model: newModel(), suspect: map[string]bool{}, here: map[string]local{}, ready: make(chan struct{}),
	}
}

// selectors are what a Traffic looks at.
func (t *Traffic) selectors() []state.Selector {
	return []state.Selector{{Kind: object.KindNode}, {Kind: object.KindService}, {Kind: object.KindEndpointSlice}, {Kind: object.KindSelection}}
}

// Run keeps the network so until ctx ends. What it made stays then.
func (t *Traffic) Run(ctx context.Context) error {
	left, err := t.cfg.Sandboxes(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	for _, s := range left {
		if s.Address.IsValid() {
			if _, there := t.here[s.Pod]; !there {
				t.here[s.Pod] = local{Pod: balance.Pod{Addr: s.Address, Link: network.LinkName(s.Pod)}, namespace: s.Namespace}
			}
		}
	}
	t.mu.Unlock()
	store := t.cfg.Replica.Store()
	if store.Index() == 0 { // nothing is known: what is in the kernel is as good
		select {
		case <-ctx.Done():
			return nil
		case <-t.cfg.Replica.SyncedC():
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	mend := make(chan struct{}, 1)
	ring := func() {
		select {
		case mend <- struct{}{}:
		default:
		}
	}
	group.Go(func() error { return t.follow(ctx, store) })
	group.Go(func() error { return t.mend(ctx, mend) })
	group.Go(func() error { return t.heed(ctx) })
	group.Go(func() error { return t.watch(ctx, t.cfg.Table.Watch, ring) })
	group.Go(func() error { return t.watch(ctx, t.cfg.Fabric.Watch, ring) })
	group.Go(func() error { return t.acks.run(ctx, t.cfg.LeaderChanged) })
	group.Go(func() error { return t.buryAll(ctx) })
	group.Go(func() error {
		select { // its address is there once the fabric is set
		case <-ctx.Done():
			return nil
		case <-t.ready:
			return t.cfg.Names.Run(ctx)
		}
	})
	return group.Wait()
}

// watch listens to the kernel until ctx ends. Who cannot hear looks each time anew,
// and no agent ends for it.
func (t *Traffic) watch(ctx context.Context, listen func(context.Context, func()) error, ring func()) error {
	for {
		if err := listen(ctx, ring); err != nil {
			t.log.Warn("cannot listen to the kernel; trying on", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
			ring()
		}
	}
}

// follow takes in what the cluster agrees on.
func (t *Traffic) follow(ctx context.Context, store *state.Store) error {
	for batch, err := range state.Whole(store.Follow(ctx, 0, "", t.selectors())) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		t.take(ctx, batch)
	}
	return nil
}

// take brings one step of the stream into force.
func (t *Traffic) take(ctx context.Context, b state.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := t.model.apply(b, t.log)
	for _, addr := range news.gone {
		select {
		case t.bury <- addr:
		default: // they end by themselves, in time
		}
	}
	if !t.begun {
		if t.begin(ctx); t.begun {
			t.acks.reached(b.Index)
		}
		return
	}
	if news.nodes {
		t.setFabric(ctx)
	}
	change := balance.Change{}
	if news.nodes {
		nodes := t.model.addresses()
		change.Nodes = &nodes
	}
	if news.policies {
		policy := t.policy()
		change.Policy = &policy
	}
	services := news.services
	if news.verdicts {
		services = t.model.all()
	}
	t.change(ctx, &change, services)
	if news.endpoints && t.model.going > 0 {
		t.acks.reached(b.Index)
	} else {
		t.acks.passed(b.Index)
	}
}

// begin writes all of it for the first time. It is called again until it works.
func (t *Traffic) begin(ctx context.Context) {
	t.setFabric(ctx)
	cfg := balance.Config{
		Pods: object.PodRange, Services: object.ServiceRange, Resolver: Resolver, Tunnel: TunnelPort,
		Nodes: t.model.addresses(), Here: t.pods(), Policy: t.policy(), Frontends: map[balance.Frontend]balance.Service{},
	}
	names := map[string]dns.Entry{}
	for _, key := range t.model.all() {
		s := t.model.services[key]
		s.fronts = t.frontends(s)
		for f, one := range s.fronts {
			cfg.Frontends[f] = one
		}
		names[key.String()] = entryOf(s)
	}
	for f, one := range t.hostPorts() {
		cfg.Frontends[f] = one
	}
	t.cfg.Names.Set(names)
	if err := t.cfg.Table.Set(ctx, cfg); err != nil {
		if ctx.Err() == nil {
			t.log.Error("cannot write the table of Services", "err", err)
		}
		return
	}
	t.begun = true
	close(t.ready)
}

// change writes what has become different of some Services, and whatever else the
// change says.
func (t *Traffic) change(ctx context.Context, change *balance.Change, services []state.Key) {
	put, gone := map[string]dns.Entry{}, []string(nil)
	change.Put = map[balance.Frontend]balance.Service{}
	for _, key := range services {
		s := t.model.services[key]
		if s == nil {
			for f := range t.model.forgotten[key] {
				change.Delete = append(change.Delete, f)
			}
			delete(t.model.forgotten, key)
			gone = append(gone, key.String())
			continue
		}
		now := t.frontends(s)
		for f := range s.fronts {
			if _, still := now[f]; !still {
				change.Delete = append(change.Delete, f)
			}
		}
		for f, one := range now {
			change.Put[f] = one
		}
		s.fronts = now
		put[key.String()] = entryOf(s)
	}
	for f := range change.Put { // one Service has left what another has now
		change.Delete = remove(change.Delete, f)
	}
	if len(put)+len(gone) > 0 {
		t.cfg.Names.Apply(put, gone)
	}
	if len(change.Put)+len(change.Delete) == 0 && change.Nodes == nil && change.Here == nil && change.Policy == nil {
		return
	}
	if err := t.cfg.Table.Apply(ctx, *change); err != nil && ctx.Err() == nil {
		t.log.Error("cannot change the table of Services", "err", err)
	}
}

func remove(list []balance.Frontend, f balance.Frontend) []balance.Frontend {
	for i, have := range list {
		if have == f {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// mendEvery is how often the kernel is compared with what was written, though nobody
// has told of a change.
const mendEvery = time.Minute

// mend repairs what others have changed.
func (t *Traffic) mend(ctx context.Context, told <-chan struct{}) error {
	timer := time.NewTimer(mendEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-told:
		case <-timer.C:
		}
		wait := mendEvery
		t.mu.Lock()
		if !t.begun {
			t.begin(ctx)
			wait = time.Second
		} else {
			t.setFabric(ctx)
			if repaired, err := t.cfg.Table.Repair(ctx); err != nil && ctx.Err() == nil {
				t.log.Error("cannot repair the table of Services", "err", err)
				wait = time.Second
			} else if repaired {
				t.log.Warn("somebody else has changed the table of Services; it was written anew")
			}
		}
		t.mu.Unlock()
		timer.Reset(wait)
	}
}

// heed takes the endpoints of suspect nodes away, and brings them back.
func (t *Traffic) heed(ctx context.Context) error {
	for {
		changed := t.cfg.SuspectsChanged()
		now := map[string]bool{}
		for _, name := range t.cfg.Suspects() {
			now[name] = true
		}
		t.mu.Lock()
		var services []state.Key
		for name := range now {
			if !t.suspect[name] {
				services = append(services, t.model.on(name)...)
			}
		}
		for name := range t.suspect {
			if !now[name] {
				services = append(services, t.model.on(name)...)
			}
		}
		if t.suspect = now; t.begun && len(services) > 0 {
			t.change(ctx, &balance.Change{}, unique(services))
		}
		t.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// setFabric makes the ways to the other nodes.
func (t *Traffic) setFabric(ctx context.Context) {
	cfg := fabric.Config{
		Mode: t.cfg.Mode, Pods: object.PodRange, Services: object.ServiceRange, Network: t.cfg.Network, Port: TunnelPort,
		Resolver: Resolver, Self: fabric.Peer{Name: t.cfg.Node, Addr: t.cfg.Address},
	}
	for name, n := range t.model.nodes {
		switch {
		case name == t.cfg.Node:
			cfg.Self.Blocks = n.blocks
		case n.addr.IsValid() && len(n.blocks) > 0:
			cfg.Peers = append(cfg.Peers, fabric.Peer{Name: name, Addr: n.addr, Blocks: n.blocks})
		}
	}
	if err := t.cfg.Fabric.Set(ctx, cfg); err != nil && ctx.Err() == nil {
		t.log.Error("cannot set the routes to other nodes", "err", err)
	}
}

// MTU is what links of Pods are made with, in bytes.
func (t *Traffic) MTU() int { return t.cfg.Fabric.MTU() }

// Remove takes away all that this machine has of the network. It is for a machine
// that leaves its cluster, and whose Pods are gone.
func (t *Traffic) Remove() error { return errors.Join(t.cfg.Table.Remove(), t.cfg.Fabric.Remove()) }

// buryAll ends what the kernel knows of connections to endpoints that are gone.
func (t *Traffic) buryAll(ctx context.Context) error {
	for {
		var gone []netip.Addr
		select {
		case <-ctx.Done():
			return nil
		case addr := <-t.bury:
			gone = append(gone, addr)
		}
		select { // for more that go at the same time: each look goes through all
		case <-ctx.Done():
			return nil
		case <-time.After(buryAfter):
		}
		for more := true; more; {
			select {
			case addr := <-t.bury:
				gone = append(gone, addr)
			default:
				more = false
			}
		}
		t.mu.Lock()
		gone = t.model.without(gone)
		t.mu.Unlock()
		if _, err := t.cfg.Table.Forget(gone); err != nil {
			t.log.Debug("cannot end connections to endpoints that are gone", "err", err)
		}
	}
}

const buryAfter = 100 * time.Millisecond

// Admit lets a Pod of this machine onto the network, before its containers start:
// with its address, and under the policies that it is in.
func (t *Traffic) Admit(ctx context.Context, pod *corev1.Pod, addr netip.Addr) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.ready:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	uid := string(pod.UID)
	now := localOf(pod, addr, network.LinkName(uid), t.cfg.Address)
	old, there := t.here[uid]
	if there && old.same(now) {
		return nil
	}
	t.here[uid] = now
	change := balance.Change{Put: map[balance.Frontend]balance.Service{}}
	here, policy := t.pods(), t.policy()
	change.Here = &here
	if len(t.model.selections) > 0 {
		change.Policy = &policy
	}
	for f := range old.hostPorts {
		change.Delete = append(change.Delete, f)
	}
	for f, one := range t.hostPorts() {
		change.Put[f] = one
		change.Delete = remove(change.Delete, f)
	}
	return t.cfg.Table.Apply(ctx, change)
}

// Dismiss takes a Pod off the network, of which nothing is left here.
func (t *Traffic) Dismiss(ctx context.Context, uid string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, there := t.here[uid]
	if !there {
		return nil
	}
	delete(t.here, uid)
	if !t.begun {
		return nil
	}
	here := t.pods()
	change := balance.Change{Here: &here}
	if len(t.model.selections) > 0 {
		policy := t.policy()
		change.Policy = &policy
	}
	for f := range old.hostPorts {
		change.Delete = append(change.Delete, f)
	}
	return t.cfg.Table.Apply(ctx, change)
}
