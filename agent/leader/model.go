package leader

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus/state"
)

// isFollowed tells whether the model hears of changes to a kind.
func isFollowed(kind string) bool { _, is := rankOf[kind]; return is }

// followed are the kinds that the model is made of.
var followed = []state.Selector{
	{Kind: object.KindNamespace},
	{Kind: object.KindImage},
	{Kind: object.KindNode},
	{Kind: object.KindDeployment},
	{Kind: object.KindRevision},
	{Kind: object.KindPod},
	{Kind: object.KindService},
	{Kind: object.KindNetworkPolicy},
}

// rankOf orders the rows of one step: owners before what they own.
var rankOf = map[string]int{
	object.KindNamespace: 0, object.KindImage: 0, object.KindNode: 1, object.KindDeployment: 2, object.KindRevision: 3, object.KindPod: 4,
	object.KindService: 5, object.KindNetworkPolicy: 5,
}

type pods map[state.Key]*pod

// A model is the leader's compact copy of what it decides on, kept up to date
// by the changes of the store. Every change costs the same, whatever else is
// there, and notes who has to look.
type model struct {
	log   *slog.Logger
	wall  func() time.Time
	bells bells

	mu          sync.Mutex
	index       uint64        // all up to here is in
	moved       chan struct{} // closed when index moves on
	begun       chan struct{} // closed once the first step is in
	pods        pods
	byNode      map[string]pods
	byOwner     map[string]pods // by uid of the controller
	waiting     pods
	nodes       map[string]*node
	doubted     map[string]bool                 // nodes whose verdict is pending: nothing new goes there
	distrusted  map[string]bool                 // nodes that come and go: nothing new goes there
	deployments map[string]*deployment          // by uid
	revisions   map[string]*revision            // by uid
	uids        map[state.Key]string            // of Deployments and Revisions
	byParent    map[string]map[string]*revision // by uid of the Deployment
	images      map[state.Key]string            // what Images are called
	ending      map[string]bool                 // namespaces that are being deleted
	loaded      time.Time                       // when the view last heard how busy nodes are
	view        *place.View

	dirty   map[state.Key]struct{} // Deployments to look at
	slots   map[string]pods        // exclusive Pods by what they may be in only once
	over    []string               // uids of Pods with a lease that are not in the log any more
	orphans map[state.Key]struct{} // Pods and Revisions whose owner may be gone
	leaving map[state.Key]struct{} // Pods that are being deleted

	web web
}

// bells wake the loops.
type bells struct {
	deployments, placement, garbage, nodes, voters, court, blocks, endpoints, selections reconcile.Bell
}

func newBells() bells {
	return bells{
		deployments: reconcile.NewBell(), placement: reconcile.NewBell(), garbage: reconcile.NewBell(),
		nodes: reconcile.NewBell(), voters: reconcile.NewBell(), court: reconcile.NewBell(), blocks: reconcile.NewBell(),
		endpoints: reconcile.NewBell(), selections: reconcile.NewBell(),
	}
}

func newModel(log *slog.Logger, wall func() time.Time) *model {
	m := &model{log: log, wall: wall, bells: newBells(), moved: make(chan struct{}), begun: make(chan struct{}), doubted: map[string]bool{}, distrusted: map[string]bool{}}
	m.clear()
	return m
}

func (m *model) clear() {
	m.pods, m.waiting = pods{}, pods{}
	m.byNode, m.byOwner = map[string]pods{}, map[string]pods{}
	m.nodes, m.deployments, m.revisions = map[string]*node{}, map[string]*deployment{}, map[string]*revision{}
	m.uids, m.images = map[state.Key]string{}, map[state.Key]string{}
	m.byParent, m.ending = map[string]map[string]*revision{}, map[string]bool{}
	m.slots = map[string]pods{}
	m.view = place.NewView()
	settled := m.web.settled
	if m.web = newWeb(); settled != nil {
		close(settled)
	}
	m.dirty, m.orphans, m.leaving = map[state.Key]struct{}{}, map[state.Key]struct{}{}, map[state.Key]struct{}{}
}

// follow keeps the model up to date until ctx ends.
func (m *model) follow(ctx context.Context, store *state.Store) error {
	for batch, err := range state.Whole(store.Follow(ctx, 0, "", followed)) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		m.apply(batch)
	}
	return nil
}

// reached returns once the model knows what the entry at index changed.
func (m *model) reached(ctx context.Context, index uint64) error {
	for {
		m.mu.Lock()
		there, moved := m.index >= index, m.moved
		m.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-moved:
		}
	}
}

// stir waits, but not for long, for the model to hear of what was faster.
func (m *model) stir(ctx context.Context) {
	m.mu.Lock()
	moved := m.moved
	m.mu.Unlock()
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-moved:
	case <-timer.C:
	}
}

func enter(in map[string]pods, name string, p *pod) {
	set := in[name]
	if set == nil {
		set = pods{}
		in[name] = set
	}
	set[p.key] = p
}

func exit(in map[string]pods, name string, key state.Key) {
	if set := in[name]; set != nil {
		if delete(set, key); len(set) == 0 {
			delete(in, name)
		}
	}
}

// enrolled tells whether there is any node.
func (m *model) enrolled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.nodes) > 0
}

func (m *model) isEnding(namespace string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ending[namespace]
}

// takeDirty returns the Deployments that something has changed about.
func (m *model) takeDirty() []state.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]state.Key, 0, len(m.dirty))
	for key := range m.dirty {
		keys = append(keys, key)
	}
	clear(m.dirty)
	slices.SortFunc(keys, state.Key.Compare)
	return keys
}

// soil says that a Deployment is to be looked at.
func (m *model) soil(key state.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirty[key] = struct{}{}
}

// soilAll says that of all.
func (m *model) soilAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.deployments {
		m.dirty[d.key] = struct{}{}
	}
}

// sorted returns Pods in an order that does not depend on the map's.
func (p pods) sorted() []*pod {
	out := make([]*pod, 0, len(p))
	for _, one := range p {
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b *pod) int { return a.key.Compare(b.key) })
	return out
}
