package api

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
)

// assigning keeps two Services from being given the same address or node port: who
// writes any holds mu from reading those of the others until the log has its own. A
// leader that was deposed meanwhile commits nothing.
type assigning struct {
	mu    sync.Mutex
	taken map[string]string // what the transaction that is being made has given out
}

// begin waits for the turn, if a transaction writes Services.
func (a *assigning) begin(services bool) (end func()) {
	if !services {
		return func() {}
	}
	a.mu.Lock()
	return a.mu.Unlock
}

// again forgets what was given out, as the transaction is made anew.
func (a *assigning) again(services bool) {
	if services {
		a.taken = map[string]string{}
	}
}

// assign gives a Service the address and the node ports that it lacks, and refuses
// those that another has.
func (s *Server) assign(svc *corev1.Service) error {
	used, err := s.used(svc)
	if err != nil {
		return err
	}
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	me := svc.Namespace + "/" + svc.Name
	if spec.ClusterIP == "" {
		addr, err := freeAddress(used, me)
		if err != nil {
			return err
		}
		spec.ClusterIP, spec.ClusterIPs = addr, []string{addr}
	}
	if spec.ClusterIP != corev1.ClusterIPNone {
		if who := used[spec.ClusterIP]; who != "" {
			return refuse(connect.CodeAlreadyExists, exitFailed, "leave clusterIP out: the cluster chooses one", "the address %s is service %s's; nothing was changed", spec.ClusterIP, who)
		}
		s.assigning.taken[spec.ClusterIP] = me
	}
	if spec.Type != corev1.ServiceTypeNodePort {
		return nil
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.NodePort == 0 {
			if p.NodePort, err = freePort(used, s.assigning.taken, me, p); err != nil {
				return err
			}
		}
		key := portKey(p.NodePort, p.Protocol)
		if who := used[key]; who != "" {
			return refuse(connect.CodeAlreadyExists, exitFailed, "leave nodePort out: the cluster chooses one", "the node port %s is service %s's; nothing was changed", key, who)
		}
		s.assigning.taken[key] = me
	}
	return nil
}

func portKey(port int32, p corev1.Protocol) string { return fmt.Sprintf("%d/%s", port, p) }

// used lists the addresses and node ports of all other Services.
func (s *Server) used(svc *corev1.Service) (map[string]string, error) {
	out := map[string]string{}
	for _, row := range s.cfg.Consensus.Store().List(object.KindService, "", "") {
		if row.Key == object.KeyOf(svc) {
			continue
		}
		other, err := object.Decode[corev1.Service](row)
		if err != nil {
			return nil, err
		}
		who := row.Key.Namespace + "/" + row.Key.Name
		out[other.Spec.ClusterIP] = who
		for i := range other.Spec.Ports {
			if p := &other.Spec.Ports[i]; p.NodePort != 0 {
				out[portKey(p.NodePort, p.Protocol)] = who
			}
		}
	}
	delete(out, "")
	delete(out, corev1.ClusterIPNone)
	for key, who := range s.assigning.taken {
		if who != svc.Namespace+"/"+svc.Name {
			out[key] = who
		}
	}
	return out, nil
}

// start is where to begin to look: elsewhere for each name, so that what was given
// back is not given out again at once.
func start(text string, n uint32) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum32() % n
}

func freeAddress(used map[string]string, me string) (string, error) {
	const n = 1<<16 - 2 // less the first and the last
	base := object.ServiceRange.Addr().As4()
	for i := range uint32(n) {
		at := (start(me, n)+i)%n + 1
		addr := netip.AddrFrom4([4]byte{base[0], base[1], byte(at >> 8), byte(at)}).String()
		if used[addr] == "" {
			return addr, nil
		}
	}
	return "", refuse(connect.CodeResourceExhausted, exitFailed, "", "no address of %s is free; nothing was changed", object.ServiceRange)
}

func freePort(used, taken map[string]string, me string, p *corev1.ServicePort) (int32, error) {
	const n = object.NodePortLast - object.NodePortFirst + 1
	for i := range uint32(n) {
		port := int32((start(fmt.Sprint(me, p.Port, p.Protocol), n)+i)%n) + object.NodePortFirst //nolint:gosec // small
		key := portKey(port, p.Protocol)
		if used[key] == "" && taken[key] == "" {
			return port, nil
		}
	}
	return 0, refuse(connect.CodeResourceExhausted, exitFailed, "", "no node port from %d to %d is free; nothing was changed", object.NodePortFirst, object.NodePortLast)
}
