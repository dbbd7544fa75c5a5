package traffic

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/balance"
)

// A model is what of the agreed objects the network is made of, kept up to date by
// their changes.
type model struct {
	nodes      map[string]node
	services   map[state.Key]*service
	forgotten  map[state.Key]map[balance.Frontend]balance.Service // of Services that are gone, until that is in force
	slices     map[state.Key]*discoveryv1.EndpointSlice
	of         map[state.Key]map[state.Key]bool // slices of a Service
	near       map[string]map[state.Key]int     // how many endpoints a Service has on a node
	addrs      map[netip.Addr]int               // how many endpoints have an address
	going      int                              // how many endpoints are to go
	selections map[state.Key]*object.Selection
}

// A node is a machine of the cluster.
type node struct {
	addr   netip.Addr
	blocks []netip.Prefix
	lost   bool
}

// A service is a Service with what is in force of it.
type service struct {
	*corev1.Service
	slices []*discoveryv1.EndpointSlice
	fronts map[balance.Frontend]balance.Service
}

// news is what a step has made different.
type news struct {
	services  []state.Key // that have to be looked at
	gone      []netip.Addr
	nodes     bool // addresses or blocks
	verdicts  bool // which nodes are lost
	policies  bool
	endpoints bool
}

func newModel() *model {
	return &model{
		nodes: map[string]node{}, services: map[state.Key]*service{}, forgotten: map[state.Key]map[balance.Frontend]balance.Service{},
		slices: map[state.Key]*discoveryv1.EndpointSlice{}, of: map[state.Key]map[state.Key]bool{},
		near: map[string]map[state.Key]int{}, addrs: map[netip.Addr]int{}, selections: map[state.Key]*object.Selection{},
	}
}

// apply takes in one step. A row that this build cannot read leaves what there was.
func (m *model) apply(b state.Batch, log *slog.Logger) news {
	n := news{}
	touched := map[state.Key]bool{}
	if b.Reset {
		kept := map[state.Key]bool{}
		for _, row := range b.Puts {
			kept[row.Key] = true
		}
		for _, key := range m.keys() {
			if !kept[key] {
				m.remove(key, &n, touched)
			}
		}
	}
	for _, key := range b.Deletes {
		m.remove(key, &n, touched)
	}
	for _, row := range b.Puts {
		if err := m.put(row, &n, touched); err != nil {
			log.Error("object cannot be read", "key", row.Key, "err", err)
		}
	}
	n.services = slices.SortedFunc(maps.Keys(touched), state.Key.Compare)
	n.gone = m.without(n.gone)
	return n
}

// keys are of all that is in the model.
func (m *model) keys() []state.Key {
	var out []state.Key
	for name := range m.nodes {
		out = append(out, state.Key{Kind: object.KindNode, Name: name})
	}
	out = slices.AppendSeq(out, maps.Keys(m.services))
	out = slices.AppendSeq(out, maps.Keys(m.slices))
	return slices.AppendSeq(out, maps.Keys(m.selections))
}

func (m *model) put(row *state.Row, n *news, touched map[state.Key]bool) error {
	switch row.Key.Kind {
	case object.KindNode:
		obj, err := object.Decode[corev1.Node](row)
		if err != nil {
			return err
		}
		m.putNode(row.Key.Name, nodeOf(obj), n)
	case object.KindService:
		obj, err := object.Decode[corev1.Service](row)
		if err != nil {
			return err
		}
		next := &service{Service: obj}
		if old := m.services[row.Key]; old != nil {
			next.fronts, next.slices = old.fronts, old.slices
		} else {
			next.fronts = m.forgotten[row.Key]
			delete(m.forgotten, row.Key)
		}
		m.services[row.Key] = next
		m.gather(row.Key)
		touched[row.Key] = true
	case object.KindEndpointSlice:
		obj, err := object.Decode[discoveryv1.EndpointSlice](row)
		if err != nil {
			return err
		}
		m.putSlice(row.Key, obj, n, touched)
	case object.KindSelection:
		obj, err := object.Decode[object.Selection](row)
		if err != nil {
			return err
		}
		m.selections[row.Key] = obj
		n.policies = true
	}
	return nil
}

func (m *model) remove(key state.Key, n *news, touched map[state.Key]bool) {
	switch key.Kind {
	case object.KindNode:
		if _, there := m.nodes[key.Name]; there {
			delete(m.nodes, key.Name)
			n.nodes, n.verdicts = true, true
		}
	case object.KindService:
		if old := m.services[key]; old != nil {
			m.forgotten[key] = old.fronts
			delete(m.services, key)
			touched[key] = true
		}
	case object.KindEndpointSlice:
		m.putSlice(key, nil, n, touched)
	case object.KindSelection:
		if m.selections[key] != nil {
			delete(m.selections, key)
			n.policies = true
		}
	}
}

func nodeOf(obj *corev1.Node) node {
	out := node{blocks: object.PodBlocks(obj)}
	if at, err := netip.ParseAddrPort(obj.Annotations[object.AnnotationAdvertise]); err == nil {
		out.addr = at.Addr().Unmap()
	}
	for _, c := range obj.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown && c.Reason == object.ReasonNodeLost {
			out.lost = true
		}
	}
	return out
}

func (m *model) putNode(name string, now node, n *news) {
	old, there := m.nodes[name]
	m.nodes[name] = now
	if !there || old.addr != now.addr || !slices.Equal(old.blocks, now.blocks) {
		n.nodes = true
	}
	n.verdicts = n.verdicts || old.lost != now.lost
}

// putSlice takes in one slice, nil if it is gone.
func (m *model) putSlice(key state.Key, now *discoveryv1.EndpointSlice, n *news, touched map[state.Key]bool) {
	n.endpoints = true
	old := m.slices[key]
	if old != nil {
		owner := serviceOf(old)
		delete(m.slices, key)
		delete(m.of[owner], key)
		n.gone = append(n.gone, m.count(owner, old, -1)...)
		m.gather(owner)
		touched[owner] = true
	}
	if now != nil {
		owner := serviceOf(now)
		m.slices[key] = now
		if m.of[owner] == nil {
			m.of[owner] = map[state.Key]bool{}
		}
		m.of[owner][key] = true
		m.count(owner, now, 1)
		m.gather(owner)
		touched[owner] = true
	}
}

// count keeps the numbers of endpoints, and returns the addresses of the slice.
func (m *model) count(owner state.Key, s *discoveryv1.EndpointSlice, by int) []netip.Addr {
	var out []netip.Addr
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if isTrue(e.Conditions.Terminating) {
			m.going += by
		}
		if e.NodeName != nil {
			if m.near[*e.NodeName] == nil {
				m.near[*e.NodeName] = map[state.Key]int{}
			}
			if m.near[*e.NodeName][owner] += by; m.near[*e.NodeName][owner] == 0 {
				delete(m.near[*e.NodeName], owner)
			}
		}
		if addr, ok := addrOf(e); ok {
			if m.addrs[addr] += by; m.addrs[addr] == 0 {
				delete(m.addrs, addr)
			}
			out = append(out, addr)
		}
	}
	return out
}

// gather lists the slices of a Service for those who read it.
func (m *model) gather(owner state.Key) {
	s := m.services[owner]
	if s == nil {
		return
	}
	s.slices = nil
	for _, key := range slices.SortedFunc(maps.Keys(m.of[owner]), state.Key.Compare) {
		s.slices = append(s.slices, m.slices[key])
	}
}

func serviceOf(s *discoveryv1.EndpointSlice) state.Key {
	return state.Key{Kind: object.KindService, Namespace: s.Namespace, Name: s.Labels[object.LabelServiceName]}
}

func addrOf(e *discoveryv1.Endpoint) (netip.Addr, bool) {
	if len(e.Addresses) == 0 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	return addr, err == nil
}

// on lists the Services with endpoints on a node.
func (m *model) on(node string) []state.Key {
	return slices.SortedFunc(maps.Keys(m.near[node]), state.Key.Compare)
}

// all lists every Service.
func (m *model) all() []state.Key {
	return slices.SortedFunc(maps.Keys(m.services), state.Key.Compare)
}

// addresses are those of all nodes.
func (m *model) addresses() []netip.Addr {
	var out []netip.Addr
	for _, n := range m.nodes {
		if n.addr.IsValid() {
			out = append(out, n.addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// without leaves out addresses that some endpoint has.
func (m *model) without(list []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(list, func(a netip.Addr) bool { return m.addrs[a] > 0 })
}

func isTrue(b *bool) bool { return b != nil && *b }

func unique(keys []state.Key) []state.Key {
	slices.SortFunc(keys, state.Key.Compare)
	return slices.Compact(keys)
}
