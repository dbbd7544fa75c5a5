package agent

import (
	"context"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/traffic"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/balance"
	"github.com/skein-dev/skein/runtime/dns"
	"github.com/skein-dev/skein/runtime/fabric"
)

// Wires are this machine's part of the cluster's network, as its kernel has it.
type Wires struct {
	Table  traffic.Table
	Fabric traffic.Fabric
	Names  traffic.Names
}

// openWires opens those of the machine that this program runs on.
func openWires(_ Config, upstreams func() []string, log *slog.Logger) (Wires, error) {
	table, err := balance.Open()
	if err != nil {
		return Wires{}, err
	}
	ways, err := fabric.Open(log)
	if err != nil {
		return Wires{}, err
	}
	names := dns.New(dns.Config{
		Domain: object.ClusterDomain, Addr: netip.AddrPortFrom(traffic.Resolver, 53), Pods: object.PodRange, Services: object.ServiceRange,
		Upstreams: upstreams, Logger: log,
	})
	return Wires{Table: table, Fabric: ways, Names: names}, nil
}

// upstreams are whom this machine asks for names.
func (a *Agent) upstreams() []string {
	var out []string
	for _, server := range node.Nameservers(a.cfg.World.Resolv(true)) {
		if addr, err := netip.ParseAddr(server); err == nil && addr != traffic.Resolver {
			out = append(out, netip.AddrPortFrom(addr, 53).String())
		}
	}
	return out
}

// connect makes this machine's part of the cluster's network.
func (a *Agent) connect() error {
	wires, err := a.cfg.World.Wires(a.cfg, a.upstreams, a.log)
	if err != nil {
		return err
	}
	a.traffic = traffic.New(traffic.Config{
		Node: a.cfg.Name, Address: a.cfg.Advertise.Addr(), Network: networkOf(a.id.ClusterID()), Mode: fabric.Mode(a.cfg.PodNetwork),
		Replica: a.replica, Table: wires.Table, Fabric: wires.Fabric, Names: wires.Names, Sandboxes: a.driver.Sandboxes,
		Suspects: a.gossip.Suspects, SuspectsChanged: a.gossip.Changed,
		Ack: reporter{a}.ack, LeaderChanged: a.compass.turns, Logger: a.log,
	})
	return nil
}

// networkOf is the number by which a cluster's tunnels are told from another's.
func networkOf(cluster string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(cluster)) // never fails
	return h.Sum32()>>8 | 1
}

// podNetwork is the network as the node sees it.
type podNetwork struct {
	*traffic.Traffic
	agent *Agent
}

// Release asks whoever leads, which may be this agent.
func (n podNetwork) Release(ctx context.Context, pod *corev1.Pod) error {
	req := &skeinv1.ReleaseRequest{Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID)}
	leader := n.agent.leader()
	var late []string
	var err error
	switch leader {
	case "":
		return errNobody
	case n.agent.cfg.Name:
		late, err = n.agent.api.Released(ctx, leader, req)
	default:
		ctx, cancel := n.agent.whileLeads(ctx, leader)
		defer cancel()
		var answer *skeinv1.ReleaseResponse
		answer, err = n.agent.peers.Client(leader).Release(ctx, req)
		late = answer.GetLate()
	}
	if err == nil && len(late) > 0 {
		n.agent.log.Warn("nodes have not let go of a pod in time", "pod", pod.Namespace+"/"+pod.Name, "late", late)
	}
	return err
}

// ack tells the leader how far this node has taken in what the log says of
// endpoints.
func (r reporter) ack(ctx context.Context, index uint64) error {
	leader := r.agent.leader()
	switch leader {
	case "":
		return errNobody
	case r.agent.cfg.Name:
		r.agent.duties.Acked(leader, index)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := r.agent.peers.Client(leader).Ack(ctx, &skeinv1.AckRequest{Index: index})
	return err
}

// wireReport is what this node says of the network, for the API.
type wireReport struct{ *traffic.Traffic }

func (w wireReport) Inspect(ctx context.Context, pods map[string]netip.Addr) (*skeinv1.InspectResponse, error) {
	r, err := w.Traffic.Inspect(ctx, pods)
	if err != nil {
		return nil, err
	}
	return &skeinv1.InspectResponse{
		Index: r.Index, Names: r.Names, Services: int64(r.Services), Mtu: int32(r.MTU), //nolint:gosec // an MTU is small
		Wrong: r.Wrong, Paths: r.Paths, Unreached: r.Unreached,
	}, nil
}
