package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// topPatience is how long a node may take to tell what its containers use: it
// may have to look twice, a second apart.
const topPatience = 5 * time.Second

// A used is a row of Top before it is drawn.
type used struct {
	key         string
	cells       []string // those before the figures
	cpu, memory int64    // thousandths of a core; bytes
	ofCPU       int64    // what there is; 0: not told
	ofMemory    int64
	unknown     bool
}

// Top tells what nodes or Pods use now.
func (c *inside) Top(ctx context.Context, req *skeinv1.TopRequest) (*skeinv1.TopResponse, error) {
	if err := need(ctx, RoleView); err != nil {
		return nil, err
	}
	kind, err := kindNamed(req.GetKind())
	if err != nil {
		return nil, err
	}
	switch req.GetSortBy() {
	case "", "cpu", "memory":
	default:
		return nil, badRequest("it can be sorted by cpu or memory, not by %q", req.GetSortBy())
	}
	match, err := object.MatchLabels(req.GetLabelSelector())
	if err != nil {
		return nil, badRequest("%v", err)
	}
	var (
		rows []used
		out  = &skeinv1.TopResponse{Table: &skeinv1.Table{}}
	)
	switch kind.Name {
	case object.KindNode:
		out.Table.Columns = []string{"NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"}
		rows, err = c.topNodes(req.GetName(), match)
	case object.KindPod:
		out.Table.Columns = topColumns(req)
		rows, out.Notices, err = c.topPods(ctx, req, match)
	default:
		return nil, badRequest("top shows nodes or pods, not %s", kind.Plural)
	}
	if err != nil {
		return nil, err
	}
	sortUsed(rows, req.GetSortBy())
	for _, r := range rows {
		out.Table.Rows = append(out.Table.Rows, &skeinv1.TableRow{Key: r.key, Cells: r.draw()})
	}
	return out, nil
}

func sortUsed(rows []used, by string) {
	slices.SortStableFunc(rows, func(a, b used) int {
		switch by {
		case "cpu":
			return cmp.Or(cmp.Compare(b.cpu, a.cpu), cmp.Compare(a.key, b.key))
		case "memory":
			return cmp.Or(cmp.Compare(b.memory, a.memory), cmp.Compare(a.key, b.key))
		}
		return cmp.Compare(a.key, b.key)
	})
}

// draw writes a row as kubectl does.
func (u used) draw() []string {
	cells := slices.Clone(u.cells)
	if u.unknown {
		for range 2 + 2*min(u.ofCPU, 1) {
			cells = append(cells, "<unknown>")
		}
		return cells
	}
	cells = append(cells, fmt.Sprintf("%dm", u.cpu))
	if u.ofCPU > 0 {
		cells = append(cells, fmt.Sprintf("%d%%", 100*u.cpu/u.ofCPU))
	}
	cells = append(cells, fmt.Sprintf("%dMi", u.memory>>20))
	if u.ofMemory > 0 {
		cells = append(cells, fmt.Sprintf("%d%%", 100*u.memory/u.ofMemory))
	}
	return cells
}

// topNodes tells of every node what it says of itself by gossip.
func (c *inside) topNodes(name string, match func(map[string]string) bool) ([]used, error) {
	var rows []used
	health := c.cfg.Peers.Health()
	for _, row := range c.cfg.Consensus.Store().List(object.KindNode, "", "") {
		node, err := object.Decode[corev1.Node](row)
		if err != nil {
			return nil, err
		}
		if name != "" && node.Name != name || !match(node.Labels) {
			continue
		}
		h, known := health[node.Name]
		u := used{
			key: node.Name, cells: []string{node.Name}, unknown: !known || h.State == "dead",
			ofCPU: max(node.Status.Capacity.Cpu().MilliValue(), 1), ofMemory: max(node.Status.Capacity.Memory().Value(), 1),
		}
		u.cpu, u.memory = int64(h.CPU*float64(u.ofCPU)), int64(h.Memory*float64(u.ofMemory))
		rows = append(rows, u)
	}
	if name != "" && len(rows) == 0 {
		return nil, c.missing(kindOfNode(), &skeinv1.ObjectRef{Kind: "node", Name: name})
	}
	return rows, nil
}

func kindOfNode() object.Kind {
	kind, _ := object.Lookup("node")
	return kind
}

func topColumns(req *skeinv1.TopRequest) []string {
	columns := []string{"CPU(cores)", "MEMORY(bytes)"}
	if req.GetContainers() {
		columns = append([]string{"POD", "NAME"}, columns...)
	} else {
		columns = append([]string{"NAME"}, columns...)
	}
	if req.GetAllNamespaces() {
		columns = append([]string{"NAMESPACE"}, columns...)
	}
	return columns
}

// topPods asks the nodes of the Pods that are meant. One that does not answer is
// told of, and its Pods are left out.
func (c *inside) topPods(ctx context.Context, req *skeinv1.TopRequest, match func(map[string]string) bool) ([]used, []string, error) {
	byNode, err := c.topMeant(req, match)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, topPatience)
	defer cancel()
	var (
		mu      sync.Mutex
		rows    []used
		notices []string
		wait    sync.WaitGroup
	)
	for node, pods := range byNode {
		wait.Go(func() {
			usage, err := c.usageOf(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				notices = append(notices, fmt.Sprintf("node %s does not tell: %s", node, c.said(ctx, err)))
				return
			}
			rows = append(rows, usedBy(pods, usage, req)...)
		})
	}
	wait.Wait()
	slices.Sort(notices)
	return rows, notices, nil
}

// topMeant are the Pods that a request means, by node. A Pod's own document is
// read only where its labels matter: somebody may ask every second.
func (c *inside) topMeant(req *skeinv1.TopRequest, match func(map[string]string) bool) (map[string][]*state.Row, error) {
	store, ns := c.cfg.Consensus.Store(), namespaceOr(req.GetNamespace())
	if req.GetName() != "" {
		if _, _, err := c.row(&skeinv1.ObjectRef{Kind: "pod", Namespace: ns, Name: req.GetName()}); err != nil {
			return nil, err
		}
	} else if req.GetAllNamespaces() {
		ns = ""
	}
	out := map[string][]*state.Row{}
	for _, node := range store.List(object.KindNode, "", "") {
		for _, row := range store.List(object.KindPod, ns, object.NodeIndex(node.Key.Name)) {
			if req.GetName() != "" && row.Key.Name != req.GetName() {
				continue
			}
			if req.GetLabelSelector() != "" {
				pod, err := object.Decode[corev1.Pod](row)
				if err != nil {
					return nil, err
				}
				if !match(pod.Labels) {
					continue
				}
			}
			out[node.Key.Name] = append(out[node.Key.Name], row)
		}
	}
	return out, nil
}

func (c *inside) usageOf(ctx context.Context, node string) ([]*skeinv1.ContainerUsage, error) {
	if node == c.cfg.Name {
		return c.cfg.Inside.Usage(ctx)
	}
	answer, err := c.cfg.Peers.Inside(node).NodeUsage(ctx, &skeinv1.NodeUsageRequest{})
	if err != nil {
		return nil, c.unreachable(node, err)
	}
	return answer.GetContainers(), nil
}

// usedBy makes the rows of Pods of one node.
func usedBy(pods []*state.Row, usage []*skeinv1.ContainerUsage, req *skeinv1.TopRequest) []used {
	byPod := map[string][]*skeinv1.ContainerUsage{}
	for _, u := range usage {
		byPod[u.GetPodUid()] = append(byPod[u.GetPodUid()], u)
	}
	var rows []used
	for _, p := range pods {
		var front []string
		if req.GetAllNamespaces() {
			front = append(front, p.Key.Namespace)
		}
		front = append(front, p.Key.Name)
		whole := used{key: p.Key.Namespace + "/" + p.Key.Name, cells: front}
		for _, u := range byPod[p.UID] {
			whole.cpu += u.GetCpuMilli()
			whole.memory += u.GetMemoryBytes()
			if req.GetContainers() {
				rows = append(rows, used{
					key: whole.key + "/" + u.GetContainer(), cells: append(slices.Clone(front), u.GetContainer()),
					cpu: u.GetCpuMilli(), memory: u.GetMemoryBytes(),
				})
			}
		}
		if !req.GetContainers() && len(byPod[p.UID]) > 0 {
			rows = append(rows, whole)
		}
	}
	return rows
}

// NodeUsage tells what the containers of this machine use.
func (p *insidePeer) NodeUsage(ctx context.Context, _ *skeinv1.NodeUsageRequest) (*skeinv1.NodeUsageResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	list, err := p.cfg.Inside.Usage(ctx)
	if err != nil {
		return nil, refuse(connect.CodeUnavailable, exitFailed, "", "the use of containers cannot be read: %s", strings.TrimSpace(err.Error()))
	}
	return &skeinv1.NodeUsageResponse{Containers: list}, nil
}
