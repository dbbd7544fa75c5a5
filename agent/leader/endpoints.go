package leader

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

const (
	maxEndpoints = 100 // of one EndpointSlice, as in Kubernetes
	maxSlices    = 64  // Services looked at for one transaction
)

// keepEndpoints writes which Pods are behind each Service. Nobody else writes
// EndpointSlices, so it needs no turn.
func (r *reign) keepEndpoints(ctx context.Context) error {
	if time.Since(r.audited) >= lookAtAll {
		r.audited = time.Now()
		r.model.suspectLeftovers(r.store)
	}
	for {
		keys, upTo := r.model.takeStale(maxSlices)
		err := r.writeEndpoints(ctx, keys)
		if err != nil {
			r.model.mu.Lock()
			for _, key := range keys {
				r.model.web.stale[key] = struct{}{}
			}
			r.model.mu.Unlock()
			if conflict(err) {
				r.model.stir(ctx)
				continue
			}
			return err
		}
		if upTo > 0 {
			r.model.settle(upTo, r.store.Index())
		}
		if len(keys) < maxSlices {
			return nil
		}
	}
}

// suspectLeftovers has all looked at whose Service or NetworkPolicy is gone, or has
// none: it was deleted while nobody led who would have noticed.
func (m *model) suspectLeftovers(store *state.Store) {
	ends, selections := store.List(object.KindEndpointSlice, "", ""), store.List(object.KindSelection, "", "")
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range ends {
		key := state.Key{Kind: object.KindService, Namespace: row.Key.Namespace, Name: object.Labels(row)[object.LabelServiceName]}
		if m.web.services[key] == nil {
			m.web.stale[key] = struct{}{}
		}
	}
	for _, row := range selections {
		key := state.Key{Kind: object.KindNetworkPolicy, Namespace: row.Key.Namespace, Name: row.Key.Name}
		if m.web.policies[key] == nil {
			m.web.lapsed[key] = struct{}{}
			m.bells.selections.Ring()
		}
	}
}

// takeStale returns some Services to look at. upTo is the index up to which all are
// told once these are, 0 if there are more.
func (m *model) takeStale(most int) (keys []state.Key, upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.web.stale {
		if len(keys) == most {
			return keys, 0
		}
		keys = append(keys, key)
		delete(m.web.stale, key)
	}
	return keys, m.index
}

// settle says that the endpoints of all that was known up to an index are in the log
// since another.
func (m *model) settle(upTo, since uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if upTo > m.web.released {
		m.web.released, m.web.spoken = upTo, since
		close(m.web.settled)
		m.web.settled = make(chan struct{})
	}
}

func (r *reign) writeEndpoints(ctx context.Context, keys []state.Key) error {
	var ops []*logv1.Op
	for _, key := range keys {
		want := r.model.slices(key)
		for _, row := range r.store.List(object.KindEndpointSlice, key.Namespace, object.LabelIndex(object.LabelServiceName, key.Name)) {
			slice, there := want[row.Key.Name]
			if !there {
				ops = append(ops, object.Delete(row.Key, row.Version))
				continue
			}
			delete(want, row.Key.Name)
			old, err := object.Decode[discoveryv1.EndpointSlice](row)
			if err != nil {
				return err
			}
			if sameSlice(old, slice) {
				continue
			}
			slice.UID, slice.CreationTimestamp, slice.Generation = old.UID, old.CreationTimestamp, old.Generation+1
			op, err := object.Put(slice, row.Version)
			if err != nil {
				return err
			}
			ops = append(ops, op)
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			slice := want[name]
			slice.UID, slice.CreationTimestamp, slice.Generation = types.UID(r.UID()), stamp(r.Now()), 1
			op, err := object.Put(slice, 0)
			if err != nil {
				return err
			}
			ops = append(ops, op)
		}
	}
	_, err := r.commit(ctx, ops)
	return err
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return equalJSON(a.Endpoints, b.Endpoints) && equalJSON(a.Ports, b.Ports) && equalJSON(a.OwnerReferences, b.OwnerReferences)
}

// slices works out the EndpointSlices of a Service, by name; none, if it is gone.
// Pods among which a name of a port means different numbers are in different ones.
func (m *model) slices(key state.Key) map[string]*discoveryv1.EndpointSlice {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.web.services[key]
	if s == nil || firstPair(s) == "" {
		return nil
	}
	groups := map[string][]*pod{}
	for _, p := range m.web.byName[key.Namespace] {
		if p.reachable() && selects(s.Spec.Selector, p.labels) {
			ports := fmt.Sprint(portNumbers(s, p))
			groups[ports] = append(groups[ports], p)
		}
	}
	out := map[string]*discoveryv1.EndpointSlice{}
	for ports, list := range groups {
		n := 1
		for n*maxEndpoints < len(list) {
			n *= 2 // so that seldom many move from one to another
		}
		for _, p := range list {
			name := sliceName(s.Name, ports, n, int(sum(p.key.Name))%n)
			if out[name] == nil {
				out[name] = newSlice(s, name, portNumbers(s, p))
			}
			out[name].Endpoints = append(out[name].Endpoints, endpointOf(s, p))
		}
	}
	for _, slice := range out {
		slices.SortFunc(slice.Endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(a.TargetRef.Name, b.TargetRef.Name) })
	}
	return out
}

func sum(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum32() & (1<<31 - 1)
}

// sliceName tells apart the slices of a Service, the same way each time.
func sliceName(service, ports string, of, at int) string {
	return object.PodName(service, uint64(sum(fmt.Sprint(ports, of, at))))
}

// portNumbers is what each port of a Service is at a Pod, 0 where the Pod has none of
// that name.
func portNumbers(s *corev1.Service, p *pod) []int32 {
	out := make([]int32, len(s.Spec.Ports))
	for i := range s.Spec.Ports {
		want := &s.Spec.Ports[i]
		if want.TargetPort.Type == intstr.Int {
			out[i] = want.TargetPort.IntVal
			if out[i] == 0 {
				out[i] = want.Port
			}
			continue
		}
		for _, have := range p.ports {
			if have.name == want.TargetPort.StrVal && have.protocol == want.Protocol {
				out[i] = have.number
				break
			}
		}
	}
	return out
}

func newSlice(s *corev1.Service, name string, numbers []int32) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: s.Namespace, Labels: map[string]string{object.LabelServiceName: s.Name},
			OwnerReferences: []metav1.OwnerReference{object.Controls(s)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if numbers[i] == 0 {
			continue
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &numbers[i], AppProtocol: p.AppProtocol})
	}
	return slice
}

func endpointOf(s *corev1.Service, p *pod) discoveryv1.Endpoint {
	ready := p.serving && !p.deleting || s.Spec.PublishNotReadyAddresses
	serving, going := p.serving || s.Spec.PublishNotReadyAddresses, p.deleting
	e := discoveryv1.Endpoint{
		Addresses:  []string{p.addr.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &going},
		NodeName:   &p.node,
		TargetRef:  &corev1.ObjectReference{Kind: object.KindPod, Namespace: p.key.Namespace, Name: p.key.Name, UID: types.UID(p.uid)},
	}
	if p.host != "" && p.domain == s.Name {
		e.Hostname = &p.host
	}
	return e
}

func equalJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
