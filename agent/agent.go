// Package agent joins the parts of skein into the agent of one machine. It owns
// the wiring and the order in which parts start and stop, and nothing else:
// whatever has a decision in it is in a package of its own.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/leader"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/traffic"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/disk"
)

// An Agent is all of skein on one machine.
type Agent struct {
	cfg Config
	log *slog.Logger

	id      *identity.Identity
	voting  *voting
	compass *compass
	book    book
	peers   *peers
	images  *images
	sampler *sampler
	disk    *disk.Disk

	suspicions *suspicions
	doubts     chan string // addresses that refuse to speak to this node

	ports   *ports
	dialer  *identity.Dialer
	stores  *consensus.Stores
	raft    *consensus.Node
	replica *consensus.Replica
	gossip  *gossip.Gossip
	driver  Driver
	store   ImageStore
	volumes VolumeStore
	duties  *leader.Leader
	node    *node.Node
	traffic *traffic.Traffic
	api     *api.Server
}

// Run runs an agent until ctx ends. Its Pods go on then, unless it ends with a
// RemovedError.
func Run(ctx context.Context, cfg Config) error {
	if Removed(cfg.DataDir) {
		return stayRemoved(ctx, cfg)
	}
	a, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// New acquires what an agent needs: its identity, by making a cluster or joining
// one if it has none yet, its ports, its stores and its runtime. What it has
// acquired when it fails, it gives back.
func New(ctx context.Context, cfg Config) (a *Agent, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.World.complete(cfg.Logger)
	a = &Agent{cfg: cfg, log: cfg.Logger, compass: newCompass(), suspicions: newSuspicions(), doubts: make(chan string, 16)}
	a.suspicions.agent = a
	defer func() {
		if err != nil {
			a.close()
			a = nil
		}
	}()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return a, fmt.Errorf("make the data directory: %w", err)
	}
	if err := consensus.SyncDirs(filepath.Dir(filepath.Clean(cfg.DataDir))); err != nil { // its name, too, is to last
		return a, err
	}
	medium, err := cfg.World.Disk(cfg)
	if err != nil {
		return a, err
	}
	a.disk = disk.New(cfg.DataDir, medium, a.log)
	if !cfg.Advertise.IsValid() {
		addr, err := ownAddress(ctx, cfg.Join)
		if err != nil {
			return a, err
		}
		a.cfg.Advertise = netip.AddrPortFrom(addr, cfg.Listen.Port())
	}
	if err := a.identify(ctx); err != nil {
		return a, err
	}
	if _, err := settleEpoch(a.cfg.DataDir, a.id); err != nil {
		return a, err
	}
	a.dialer = identity.NewDialer(a.id, a.verify, a.cfg.World.Network.Dial)
	a.dialer.Refused = a.doubt
	if a.ports, err = listen(ctx, a.cfg.World.Network, a.cfg.Listen, a.id, a.verify, a.log); err != nil {
		return a, err
	}
	a.peers = newPeers(a)
	for _, open := range []func() error{a.agree, a.meet, a.prepareRuntime, a.connect} {
		if err := open(); err != nil {
			return a, err
		}
	}
	return a, a.assemble()
}

// agree opens what consensus is made of.
func (a *Agent) agree() error {
	var err error
	if a.stores, err = a.cfg.World.Stores(filepath.Join(a.cfg.DataDir, raftDir), a.log); err != nil {
		return fmt.Errorf("open the raft log: %w", err)
	}
	transport := consensus.NewTransport(consensus.TransportConfig{
		Name: a.cfg.Name, Listener: a.ports.mux.Listener(identity.ProtoRaft), Logger: a.log,
		Dial: func(ctx context.Context, name string) (net.Conn, error) { return a.dial(ctx, identity.ProtoRaft, name) },
	})
	a.raft, err = consensus.Open(consensus.Config{
		Name: a.cfg.Name, Log: a.stores.Log, Stable: a.stores.Stable, Snapshots: a.stores.Snapshots,
		Transport: transport, Logger: a.log, Bootstrap: a.unseeded(),
		CommitTimeout: commitTimeout, Writes: a.disk.Write,
	})
	if err != nil {
		return fmt.Errorf("open consensus: %w", err)
	}
	a.replica = consensus.NewReplica(consensus.ReplicaConfig{
		Path: filepath.Join(a.cfg.DataDir, "replica"), Source: a.source, Logger: a.log, Writes: a.disk.Write,
		Selectors: []state.Selector{
			{Kind: object.KindNode},
			{Kind: object.KindImage},
			{Kind: object.KindKeyring},
			{Kind: object.KindService},
			{Kind: object.KindEndpointSlice},
			{Kind: object.KindSelection},
			{Kind: object.KindPod, Index: object.NodeIndex(a.cfg.Name)},
		},
	})
	return nil
}

// meet makes this node's part in the gossip.
func (a *Agent) meet() error {
	var epoch uint64
	err := a.disk.Do(func() (err error) {
		epoch, err = bootEpoch(a.cfg.DataDir, a.cfg.World.Now())
		return err
	})
	if err != nil {
		return fmt.Errorf("count the starts of this agent: %w", err)
	}
	a.sampler = newSampler(a.cfg.World.Load(a.cfg), a.log)
	a.gossip, err = gossip.New(gossip.Config{
		Name: a.cfg.Name, Advertise: a.cfg.Advertise, Epoch: epoch,
		Packets: a.ports.packets, Streams: a.ports.mux.Listener(identity.ProtoGossip),
		Dial: func(ctx context.Context, name string, addr netip.AddrPort) (net.Conn, error) {
			if name == "" {
				return a.dialAnyone(ctx, addr)
			}
			return a.dialer.Dial(ctx, addr.String(), identity.ProtoGossip, name)
		},
		DialPacket: a.cfg.World.Network.DialPacket,
		Knock:      a.cfg.World.Network.Knock,
		Keys:       a.id.GossipKeys(),
		Meta:       func() gossip.Meta { return gossip.Meta{Format: a.cfg.Format, Epoch: epoch, Load: a.sampler.load()} },
		Known:      a.knows,
		Domain:     a.zone,
		Peers:      a.everybody,
		Report:     a.suspicions.add,
		Sign:       a.id.Claim,
		Verify:     a.verifyClaim,
		Logger:     a.log,
	})
	if err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	return nil
}

// commitTimeout is how late the other voters may learn of the last commit while
// nothing else happens. Everybody who acts on it follows the leader's stream, so
// it matters only to reads without a leader, and a third of what an idle leader
// does is telling it.
const commitTimeout = 250 * time.Millisecond

// prepareRuntime opens what runs containers here.
func (a *Agent) prepareRuntime() error {
	var err error
	if a.driver, err = a.cfg.World.Driver(a.cfg); err != nil {
		return fmt.Errorf("open the runtime: %w", err)
	}
	if a.store, err = a.cfg.World.Images(a.cfg); err != nil {
		return fmt.Errorf("open the image store: %w", err)
	}
	if a.volumes, err = a.cfg.World.Volumes(a.cfg); err != nil {
		return fmt.Errorf("open the volumes: %w", err)
	}
	a.images = newImages(a, a.store)
	return nil
}

// assemble makes the parts that use the others.
func (a *Agent) assemble() error {
	what, err := a.cfg.World.Machine(a.cfg)
	if err != nil {
		return err
	}
	uid := func() string { return uuid.NewString() }
	a.duties = leader.New(leader.Config{
		Name: a.cfg.Name, Consensus: a.raft, Voting: a.raft, Prober: prober{a}, Preparer: a.voting,
		Observers: func() func(string) []string { return a.gossip.Ring().Observers },
		Load:      a.loadOf, Now: a.cfg.World.Now, UID: uid, Random: randomNumber, Logger: a.log,
	})
	a.api = api.New(api.Config{
		Name: a.cfg.Name, Consensus: guided{a.raft, a}, Duties: a.duties, Peers: a.peers, Pods: pods{a}, Inside: pods{a}, Wires: wireReport{a.traffic},
		Images: a.images, Holdings: holdings{a}, Pulls: a.pulls, Voting: a.voting, Sealer: a.voting, Format: a.writes, Copy: a.replica, Brakes: a.brakes, Pressure: a.pressures, Now: a.cfg.World.Now, UID: uid, Random: rand.Reader, Logger: a.log,
		Versions: versions(a.cfg),
		Cluster: api.Cluster{
			ID: a.id.ClusterID(), CA: a.id.CA(), GossipKeys: a.id.GossipKeys,
			Advertise: func() netip.AddrPort { return a.cfg.Advertise },
			Epoch:     func() *skeinv1.SignedEpoch { return a.id.Epoch().Proto() },
		},
	})
	a.node = node.New(node.Config{
		Name: a.cfg.Name, Address: a.cfg.Advertise.Addr(), Replica: a.replica, Driver: a.driver, Images: a.images,
		Holdings: a.images, Reclaim: a.cfg.Reclaim, Reporter: reporter{a}, Lessor: reporter{a}, Volumes: a.volumes, Machine: what, Logger: a.log,
		Pressure: a.pressures, PressureChanged: a.disk.Changed, Now: a.cfg.World.Now,
		Resolv: a.cfg.World.Resolv, Network: podNetwork{a.traffic, a},
	})
	a.raft.Lead(a.seed)
	a.raft.Lead(a.raiseFormat)
	a.raft.Lead(a.duties.Run)
	return nil
}

func randomNumber() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Run serves until ctx ends or a part fails. Parts start bottom-up and stop
// top-down: the API first, raft last.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	a.log.Info("agent starts", "node", a.cfg.Name, "addr", a.cfg.Advertise, "version", a.cfg.Version, "format", a.cfg.Format)
	err := runLayers(ctx,
		together(a.ports.mux.Run, a.disk.Run),
		together(a.raft.Run, a.serveNodes),
		together(a.replica.Run, a.gossip.Run, identity.NewRenewer(a.id, a.renew, a.log).Run),
		together(a.watchLeader, a.ownDoubts, a.watchKeys, a.watchPeers, a.suspicions.run, a.enter, a.watchEpoch, a.keepSnapshots),
		together(a.node.Run, a.traffic.Run, a.driver.Run, a.images.tellPieces, a.images.verify, a.followSources),
		together(a.servePeople, a.beat),
	)
	var removed *RemovedError
	if errors.As(err, &removed) {
		if err := errors.Join(strip(ctx, a.driver), stripVolumes(a.volumes), a.traffic.Remove()); err != nil { // the next start tries again
			return fmt.Errorf("this node was removed, and its Pods do not end: %w", err)
		}
		return removed
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// together runs the parts of one layer.
func together(parts ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, part := range parts {
			group.Go(func() error { return part(ctx) })
		}
		return group.Wait()
	}
}

// runLayers starts layers bottom-up and stops them top-down: a layer's context
// ends only after every layer above it has returned. The first failure,
// wherever it happens, brings the whole stack down.
func runLayers(ctx context.Context, layers ...func(context.Context) error) error {
	if len(layers) == 0 {
		<-ctx.Done()
		return nil
	}
	lower, stop := context.WithCancel(context.WithoutCancel(ctx))
	upper, drain := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		defer drain() // nothing above may outlive this layer
		done <- layers[0](lower)
	}()
	err := runLayers(upper, layers[1:]...)
	stop()
	return errors.Join(err, <-done)
}

// close gives back what New acquired.
func (a *Agent) close() {
	var errs []error
	if a.ports != nil {
		errs = append(errs, a.ports.close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if a.stores != nil {
		errs = append(errs, a.stores.Close())
	}
	if err := errors.Join(errs...); err != nil {
		a.log.Warn("not all could be closed", "err", err)
	}
}

func versions(cfg Config) *skeinv1.VersionResponse {
	return &skeinv1.VersionResponse{Version: cfg.Version, GoVersion: goVersion(), RuncVersion: cfg.RuncVersion}
}

// Consensus is this machine's part in the agreement, for those who look on.
func (a *Agent) Consensus() *consensus.Node { return a.raft }
