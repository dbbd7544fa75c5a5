package leader

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
)

// A wiring is what a Pod is on the cluster's network.
type wiring struct {
	addr    netip.Addr // zero: it has none yet
	labels  map[string]string
	ports   []port // those with a name
	serving bool   // ready, though it may be going
	host    string // by which a Service of its subdomain names it; empty: by none
	domain  string // that subdomain
}

// A port is one of a Pod's that goes by a name.
type port struct {
	name     string
	protocol corev1.Protocol
	number   int32
}

func wiringOf(p *corev1.Pod, labels map[string]string) wiring {
	w := wiring{labels: labels}
	w.addr, _ = netip.ParseAddr(p.Status.PodIP) // none yet
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, c := range list[i].Ports {
				if c.Name != "" {
					w.ports = append(w.ports, port{c.Name, c.Protocol, c.ContainerPort})
				}
			}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			w.serving = c.Status == corev1.ConditionTrue
		}
	}
	if p.Spec.Subdomain != "" {
		w.host, w.domain = p.Spec.Hostname, p.Spec.Subdomain
	}
	return w
}

func (w *wiring) same(o *wiring) bool {
	return w.addr == o.addr && w.serving == o.serving && w.host == o.host && w.domain == o.domain &&
		maps.Equal(w.labels, o.labels) && slices.Equal(w.ports, o.ports)
}

// reachable tells whether the Pod is anywhere to be reached.
func (p *pod) reachable() bool { return p.addr.IsValid() && p.node != "" && !p.finished() }

// A web is what of the cluster's network is the leader's to say: which Pods are
// behind a Service, and whom a policy lets through. It is a part of the model, and
// its mu is held.
type web struct {
	services map[state.Key]*corev1.Service
	// bySelector finds the Services that may select a Pod by one of their pairs of
	// labels: the first, so each is found once.
	bySelector map[string]map[state.Key]*corev1.Service
	policies   map[state.Key]*policy
	namespaces map[string]map[string]string // labels, by name
	byName     map[string]pods              // Pods by namespace

	stale    map[state.Key]struct{} // Services whose endpoints are to be looked at
	lapsed   map[state.Key]struct{} // NetworkPolicies to be looked at
	released uint64                 // endpoints say all that the model knew up to here,
	spoken   uint64                 // and have been in the log since there
	settled  chan struct{}          // closed when released moves on
}

func newWeb() web {
	return web{
		services: map[state.Key]*corev1.Service{}, bySelector: map[string]map[state.Key]*corev1.Service{},
		policies: map[state.Key]*policy{}, namespaces: map[string]map[string]string{}, byName: map[string]pods{},
		stale: map[state.Key]struct{}{}, lapsed: map[state.Key]struct{}{}, settled: make(chan struct{}),
	}
}

// firstPair is the pair of labels by which a Service is found; empty: it selects
// nothing.
func firstPair(s *corev1.Service) string {
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return ""
	}
	key := slices.Min(slices.Collect(maps.Keys(s.Spec.Selector)))
	return s.Namespace + "/" + key + "=" + s.Spec.Selector[key]
}

func (w *web) putService(key state.Key, s *corev1.Service) {
	w.dropService(key)
	w.services[key] = s
	if pair := firstPair(s); pair != "" {
		if w.bySelector[pair] == nil {
			w.bySelector[pair] = map[state.Key]*corev1.Service{}
		}
		w.bySelector[pair][key] = s
	}
}

func (w *web) dropService(key state.Key) {
	w.stale[key] = struct{}{}
	old := w.services[key]
	if old == nil {
		return
	}
	delete(w.services, key)
	pair := firstPair(old)
	if delete(w.bySelector[pair], key); len(w.bySelector[pair]) == 0 {
		delete(w.bySelector, pair)
	}
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return len(selector) > 0
}

// behind calls each for the Services that select a Pod.
func (w *web) behind(p *pod, each func(state.Key)) {
	for k, v := range p.labels {
		for key, s := range w.bySelector[p.key.Namespace+"/"+k+"="+v] {
			if selects(s.Spec.Selector, p.labels) {
				each(key)
			}
		}
	}
}

// moved notes whom a change of a Pod concerns. Either side may be nil.
func (w *web) moved(old, now *pod) {
	if old != nil && now != nil && old.uid == now.uid && old.node == now.node && old.reachable() == now.reachable() &&
		old.deleting == now.deleting && old.wiring.same(&now.wiring) {
		return
	}
	for _, p := range []*pod{old, now} {
		if p == nil || !p.addr.IsValid() {
			continue
		}
		w.behind(p, func(key state.Key) { w.stale[key] = struct{}{} })
		for key, one := range w.policies {
			if one.concerns(p, w.namespaces[p.key.Namespace]) {
				w.lapsed[key] = struct{}{}
			}
		}
	}
}

// putWeb takes in a row of the kinds that are the web's own.
func (m *model) putWeb(row *state.Row) error {
	switch row.Key.Kind {
	case object.KindService:
		s, err := object.Decode[corev1.Service](row)
		if err != nil {
			return err
		}
		m.web.putService(row.Key, s)
	case object.KindNetworkPolicy:
		n, err := object.Decode[networkingv1.NetworkPolicy](row)
		if err != nil {
			return err
		}
		p, err := compile(n)
		if err != nil {
			return err
		}
		m.web.policies[row.Key] = p
		m.web.lapsed[row.Key] = struct{}{}
	}
	return nil
}

// nameSpace takes in the labels of a namespace.
func (w *web) nameSpace(name string, labels map[string]string) {
	if old, there := w.namespaces[name]; there && maps.Equal(old, labels) {
		return
	}
	w.namespaces[name] = labels
	for key, p := range w.policies {
		if p.looksAround {
			w.lapsed[key] = struct{}{}
		}
	}
}
