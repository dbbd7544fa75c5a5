package api

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// podsOfService reads the Pods that a Service selects, ready or not.
func (s *Server) podsOfService(svc *corev1.Service) ([]*corev1.Pod, error) {
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, refuse(connect.CodeFailedPrecondition, exitFailed, "", "service %q selects no Pods", svc.Name)
	}
	key := slices.Min(slices.Collect(maps.Keys(svc.Spec.Selector)))
	return s.pods(svc.Namespace, object.LabelIndex(key, svc.Spec.Selector[key]), func(labels map[string]string) bool {
		return object.Selects(svc, labels)
	})
}

// tunnelEnd finds the Pod and its port that a connection leads to: of what has
// several Pods, a ready one, each time by chance.
func (s *Server) tunnelEnd(ctx context.Context, ref *skeinv1.ObjectRef, port uint32) (*corev1.Pod, uint32, error) {
	if kind, ok := object.Lookup(ref.GetKind()); !ok || kind.Name == object.KindPod {
		pod, err := s.within(ctx, ref, "")
		return pod, port, err
	}
	pods, err := s.podsOf(ref)
	if err != nil {
		return nil, 0, err
	}
	row, kind, err := s.row(ref)
	if err != nil {
		return nil, 0, err
	}
	at := func(*corev1.Pod) uint32 { return port }
	if kind.Name == object.KindService {
		svc, err := object.Decode[corev1.Service](row)
		if err != nil {
			return nil, 0, err
		}
		if at, err = portOf(svc, port); err != nil {
			return nil, 0, err
		}
	}
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return !podReady(p) || p.Spec.NodeName == "" || at(p) == 0 })
	if len(pods) == 0 {
		return nil, 0, refuse(connect.CodeFailedPrecondition, exitFailed, "see why with \"skein describe "+kind.Singular+"/"+row.Key.Name+inOther(row.Key.Namespace)+"\"",
			"%s %q has no Pod that is ready", kind.Singular, row.Key.Name)
	}
	pod := pods[rand.IntN(len(pods))] //nolint:gosec // any will do
	return pod, at(pod), nil
}

// portOf says which port of a Pod a TCP port of the Service leads to, 0 where the
// Pod has none of its name.
func portOf(svc *corev1.Service, port uint32) (func(*corev1.Pod) uint32, error) {
	var known []string
	for _, p := range svc.Spec.Ports {
		if p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if uint32(p.Port) != port { //nolint:gosec // validated to be a port
			known = append(known, fmt.Sprint(p.Port))
			continue
		}
		if p.TargetPort.Type == intstr.Int {
			return func(*corev1.Pod) uint32 { return uint32(p.TargetPort.IntVal) }, nil //nolint:gosec // the same
		}
		return func(pod *corev1.Pod) uint32 { return namedPort(pod, p.TargetPort.StrVal) }, nil
	}
	hint := ""
	if len(known) > 0 {
		hint = "it has " + strings.Join(known, ", ")
	}
	return nil, refuse(connect.CodeInvalidArgument, exitUsage, hint, "service %q has no TCP port %d", svc.Name, port)
}

func namedPort(pod *corev1.Pod, name string) uint32 {
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		for _, p := range c.Ports {
			if p.Name == name && p.Protocol != corev1.ProtocolUDP && p.Protocol != corev1.ProtocolSCTP {
				return uint32(p.ContainerPort) //nolint:gosec // validated to be a port
			}
		}
	}
	return 0
}

// lookService waits for the Service's address, and until it leads somewhere: to an
// endpoint, unless it selects no Pod that there is.
func (c *cluster) lookService(svc *corev1.Service) (sight, error) {
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return sight{done: true}, nil
	}
	pods, err := c.podsOfService(svc)
	if err != nil {
		return sight{}, err
	}
	ready := 0
	for _, row := range c.cfg.Consensus.Store().List(object.KindEndpointSlice, svc.Namespace, object.LabelIndex(object.LabelServiceName, svc.Name)) {
		s, err := object.Decode[discoveryv1.EndpointSlice](row)
		if err != nil {
			return sight{}, err
		}
		for i := range s.Endpoints {
			if on := s.Endpoints[i].Conditions.Ready; on == nil || *on {
				ready++
			}
		}
	}
	s := sight{summary: plural(ready, "endpoint")}
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	for _, p := range pods {
		s.lines = append(s.lines, facts(p)...)
		if podReady(p) {
			s.was = append(s.was, facts(p)...)
		} else {
			s.stuck = append(s.stuck, p)
		}
	}
	slices.SortStableFunc(s.stuck, func(a, b *corev1.Pod) int { return trouble(b) - trouble(a) })
	s.done = svc.Spec.ClusterIP != "" && (ready > 0 || len(pods) == 0)
	return s, nil
}

// watched is what to look at again for an object of a kind.
func watched(kind object.Kind, ref *skeinv1.ObjectRef) []state.Selector {
	out := []state.Selector{{Kind: kind.Name, Namespace: ref.GetNamespace()}, {Kind: object.KindPod, Namespace: podsNamespace(kind, ref)}}
	if kind.Name == object.KindService {
		out = append(out, state.Selector{Kind: object.KindEndpointSlice, Namespace: ref.GetNamespace()})
	}
	return out
}
