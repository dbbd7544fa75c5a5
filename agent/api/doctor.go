package api

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Wires tell what this node believes of the cluster's network, and try it.
type Wires interface {
	Inspect(ctx context.Context, pods map[string]netip.Addr) (*skeinv1.InspectResponse, error)
}

const (
	inspectPatience = 8 * time.Second // for one node, which tries others
	settlePatience  = 2 * time.Second // for nodes that have not taken in the last change
)

// Inspect answers another node. It tries addresses of Pods, and no others.
func (p *peer) Inspect(ctx context.Context, req *skeinv1.InspectRequest) (*skeinv1.InspectResponse, error) {
	return p.inspect(ctx, req)
}

func (s *Server) inspect(ctx context.Context, req *skeinv1.InspectRequest) (*skeinv1.InspectResponse, error) {
	pods := map[string]netip.Addr{}
	for node, text := range req.GetPods() {
		addr, err := netip.ParseAddr(text)
		if err != nil || !object.PodRange.Contains(addr) {
			return nil, badRequest("%q is no address of a Pod", text)
		}
		pods[node] = addr
	}
	ctx, cancel := context.WithTimeout(ctx, inspectPatience)
	defer cancel()
	return s.cfg.Wires.Inspect(ctx, pods)
}

// Doctor compares what the nodes believe of the network.
func (c *cluster) Doctor(ctx context.Context, _ *skeinv1.DoctorRequest) (*skeinv1.DoctorResponse, error) {
	if err := need(ctx, RoleView); err != nil {
		return nil, err
	}
	nodes, pods, out, err := c.patients()
	if err != nil {
		return nil, err
	}
	said := c.inspectAll(ctx, nodes, pods, out)
	for end := time.Now().Add(settlePatience); !agree(said) && time.Now().Before(end) && ctx.Err() == nil; {
		// Something has changed just now: nodes hear of it one after the other.
		again := &skeinv1.DoctorResponse{}
		said = c.inspectAll(ctx, nodes, pods, again)
	}
	judge(said, pods, out)
	out.Summary = append(out.Summary, fmt.Sprintf("%d nodes: the table of Services, routes, addresses and names of each, and a packet from each to each that has Pods (%d)", len(said), len(pods)))
	slices.SortStableFunc(out.Findings, func(a, b *skeinv1.Finding) int {
		switch {
		case a.GetNode() < b.GetNode():
			return -1
		case a.GetNode() > b.GetNode():
			return 1
		}
		return 0
	})
	return out, nil
}

// patients lists the nodes that are there, and of each the address of a Pod. Those
// that are not there are told.
func (c *cluster) patients() (nodes []string, pods map[string]string, out *skeinv1.DoctorResponse, err error) {
	out, pods = &skeinv1.DoctorResponse{}, map[string]string{}
	store := c.cfg.Consensus.Store()
	for _, row := range store.List(object.KindNode, "", "") {
		n, err := object.Decode[corev1.Node](row)
		if err != nil {
			return nil, nil, nil, err
		}
		if why := notReady(n); why != "" {
			out.Findings = append(out.Findings, &skeinv1.Finding{Node: n.Name, Text: why, Hint: "\"skein describe node " + n.Name + "\" tells since when and why"})
			continue
		}
		if len(object.PodBlocks(n)) == 0 {
			out.Findings = append(out.Findings, &skeinv1.Finding{Node: n.Name, Text: "it has no addresses for Pods", Hint: "without a leader nobody gives it any: \"skein status\""})
		}
		nodes = append(nodes, n.Name)
	}
	for _, row := range store.List(object.KindPod, "", "") {
		p, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return nil, nil, nil, err
		}
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && !p.Spec.HostNetwork && p.Status.PodIP != "" && pods[p.Spec.NodeName] == "" {
			pods[p.Spec.NodeName] = p.Status.PodIP
		}
	}
	return nodes, pods, out, nil
}

func notReady(n *corev1.Node) string {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
			return "it is not ready (" + cond.Reason + "): " + cond.Message
		}
	}
	return ""
}

// inspectAll asks all nodes at the same time. Who does not answer is told.
func (c *cluster) inspectAll(ctx context.Context, nodes []string, pods map[string]string, out *skeinv1.DoctorResponse) map[string]*skeinv1.InspectResponse {
	ctx, cancel := context.WithTimeout(ctx, inspectPatience)
	defer cancel()
	var mu sync.Mutex
	var calls sync.WaitGroup
	said := map[string]*skeinv1.InspectResponse{}
	for _, name := range nodes {
		calls.Go(func() {
			ask := &skeinv1.InspectRequest{Pods: maps.Clone(pods)}
			delete(ask.GetPods(), name)
			var answer *skeinv1.InspectResponse
			var err error
			if name == c.cfg.Name {
				answer, err = c.inspect(ctx, ask)
			} else {
				answer, err = c.cfg.Peers.Client(name).Inspect(ctx, ask)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Findings = append(out.Findings, &skeinv1.Finding{Node: name, Text: "its agent does not answer: " + err.Error(), Hint: "look at its log, and whether port 7373 is open, TCP and UDP"})
				return
			}
			said[name] = answer
		})
	}
	calls.Wait()
	return said
}

// agree tells whether all have the same names.
func agree(said map[string]*skeinv1.InspectResponse) bool {
	first := ""
	for _, s := range said {
		if first != "" && s.GetNames() != first {
			return false
		}
		first = s.GetNames()
	}
	return true
}

// judge says in words what is wrong.
func judge(said map[string]*skeinv1.InspectResponse, pods map[string]string, out *skeinv1.DoctorResponse) {
	most, newest := map[string]int{}, uint64(0)
	for _, s := range said {
		most[s.GetNames()]++
		newest = max(newest, s.GetIndex())
	}
	common := ""
	for names, n := range most {
		if n > most[common] || n == most[common] && names < common {
			common = names
		}
	}
	for _, name := range slices.Sorted(maps.Keys(said)) {
		s := said[name]
		tell := func(hint, text string, args ...any) {
			out.Findings = append(out.Findings, &skeinv1.Finding{Node: name, Text: fmt.Sprintf(text, args...), Hint: hint})
		}
		for _, wrong := range s.GetWrong() {
			tell("the agent mends this by itself within seconds; if it stays, somebody else changes it again and again: a firewall's service, or another agent", "%s", wrong)
		}
		if s.GetNames() != common {
			tell("its stream lags, or it is cut off from the leader: \"skein status\"", "it knows other Services or endpoints than most (%d Services, up to index %d of %d)", s.GetServices(), s.GetIndex(), newest)
		}
		for _, peer := range slices.Sorted(maps.Keys(s.GetUnreached())) {
			hint := "is UDP port 4789 open between them? does a NetworkPolicy keep that Pod to itself?"
			if s.GetPaths()[peer] == "direct" {
				hint = "does the network between them let addresses of Pods through? if not: --pod-network tunnel. Does a NetworkPolicy keep that Pod to itself?"
			}
			tell(hint, "it does not reach the Pod %s on %s (%s): %s", pods[peer], peer, s.GetPaths()[peer], s.GetUnreached()[peer])
		}
	}
}
