package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Drain keeps new Pods off a node and moves those that run there: each is
// deleted with its grace period and replaced by whoever owns it. It ends when
// the node is empty and everything that left it is ready elsewhere.
func (c *cluster) Drain(ctx context.Context, req *skeinv1.DrainRequest, stream skeinv1connect.ClusterServiceDrainServerStream) error {
	if err := need(ctx, RoleAdmin); err != nil {
		return err
	}
	ref := &skeinv1.ObjectRef{Kind: "node", Name: req.GetNode()}
	if _, ok := c.node(req.GetNode()); !ok {
		return notFound(ref)
	}
	if err := c.change(ctx, ref, func(obj object.Object) error {
		obj.(*corev1.Node).Spec.Unschedulable = true //nolint:forcetypeassert // decoded as its kind
		return nil
	}); err != nil {
		return err
	}
	if err := stream.Send(&skeinv1.AwaitResponse{Line: "node/" + req.GetNode() + " is cordoned"}); err != nil {
		return err
	}
	timeout := time.Duration(req.GetTimeoutMs()) * time.Millisecond
	if timeout <= 0 {
		timeout = awaitDefault
	}
	moved, err := c.evict(ctx, req.GetNode())
	if err != nil {
		return err
	}
	return c.awaitEmpty(ctx, req.GetNode(), moved, timeout, &teller{send: stream.Send, seen: map[string]bool{}})
}

// evict asks every Pod of a node to go. A Pod that nobody would make again is
// not taken away: the drain is refused, and nothing has moved.
func (c *cluster) evict(ctx context.Context, node string) ([]*corev1.Pod, error) {
	pods, err := c.pods("", object.NodeIndex(node), nil)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if len(p.OwnerReferences) == 0 && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return nil, refuse(connect.CodeFailedPrecondition, exitUnsafe, fmt.Sprintf("delete it first with \"skein delete pod %s -n %s\"", p.Name, p.Namespace),
				"pod %s/%s belongs to no Deployment, so nothing would run it elsewhere; the node is cordoned and nothing was moved", p.Namespace, p.Name)
		}
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		if err := c.deletePod(ctx, state.Key{Kind: object.KindPod, Namespace: p.Namespace, Name: p.Name}, -1); err != nil {
			return nil, err
		}
	}
	return pods, nil
}

func (c *cluster) awaitEmpty(ctx context.Context, node string, moved []*corev1.Pod, timeout time.Duration, told *teller) error {
	watch := c.cfg.Consensus.Store().Changed(state.Selector{Kind: object.KindPod}, state.Selector{Kind: object.KindDeployment})
	defer watch.Close()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		left, err := c.pods("", object.NodeIndex(node), nil)
		if err != nil {
			return err
		}
		short, err := c.shortOf(moved)
		if err != nil {
			return err
		}
		s := sight{summary: fmt.Sprintf("%d of %s still on %s", len(left), plural(len(moved), "Pod"), node)}
		switch {
		case len(left) == 0 && len(short) == 0:
			s.summary, s.done = "node/"+node+" is empty", true
		case len(left) == 0:
			s.summary = "node/" + node + " is empty; waiting for " + strings.Join(short, ", ")
		}
		here := map[string]bool{}
		for _, p := range left {
			here[string(p.UID)] = true
		}
		for _, p := range moved {
			if !here[string(p.UID)] {
				s.lines = append(s.lines, "pod/"+p.Name+" has left")
			}
		}
		if err := told.tell(s); err != nil || s.done {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watch.C():
		case <-timer.C:
			return told.send(&skeinv1.AwaitResponse{
				Done: true, ExitCode: exitPending, Error: s.summary + " after " + spell(timeout),
				Hint: "see them with \"skein get pods -A --field-selector spec.nodeName=" + node + "\"",
			})
		}
	}
}

// shortOf lists the Deployments of Pods that are not all available yet.
func (c *cluster) shortOf(pods []*corev1.Pod) ([]string, error) {
	var out []string
	seen := map[state.Key]bool{}
	for _, p := range pods {
		for _, o := range p.OwnerReferences {
			name, _, ok := cutLast(o.Name, "-")
			key := state.Key{Kind: object.KindDeployment, Namespace: p.Namespace, Name: name}
			row, there := c.cfg.Consensus.Store().Get(key)
			if o.Kind != object.KindRevision || !ok || !there || seen[key] {
				continue
			}
			seen[key] = true
			d, err := object.Decode[appsv1.Deployment](row)
			if err != nil {
				return nil, err
			}
			if d.Spec.Replicas != nil && d.Status.AvailableReplicas < *d.Spec.Replicas {
				out = append(out, fmt.Sprintf("deployment/%s (%d of %d ready)", name, d.Status.AvailableReplicas, *d.Spec.Replicas))
			}
		}
	}
	return out, nil
}

// RemoveNode forgets a machine: its key opens nothing any more. It is refused
// while the machine works, or where the voters could not do without it.
func (c *cluster) RemoveNode(ctx context.Context, req *skeinv1.RemoveNodeRequest) (*skeinv1.RemoveNodeResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	name := req.GetNode()
	node, ok := c.node(name)
	if !ok {
		return nil, notFound(&skeinv1.ObjectRef{Kind: "node", Name: name})
	}
	if err := c.removable(node, req.GetForce()); err != nil {
		return nil, err
	}
	members, version, err := c.cfg.Consensus.Members()
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.Name == name {
			if err := c.cfg.Consensus.Remove(ctx, name, version); err != nil {
				return nil, err
			}
		}
	}
	txn := &logv1.Txn{Ops: []*logv1.Op{object.Delete(state.Key{Kind: object.KindNode, Name: name}, object.Version(node))}}
	for _, row := range c.cfg.Consensus.Store().List(object.KindPod, "", object.NodeIndex(name)) {
		if pod, err := object.Decode[corev1.Pod](row); err == nil && object.Exclusive(pod.Annotations) {
			continue // the leader waits for its lease to run out
		}
		txn.Ops = append(txn.Ops, object.Delete(row.Key, row.Version))
	}
	if _, err := c.cfg.Consensus.Commit(ctx, txn); err != nil {
		return nil, err
	}
	return &skeinv1.RemoveNodeResponse{Message: "its certificate opens nothing any more; \"skeind cleanup --yes\" on it makes it new, to join again"}, nil
}

func (c *cluster) removable(node *corev1.Node, force bool) error {
	name := node.Name
	if name == c.cfg.Name {
		return refuse(connect.CodeFailedPrecondition, exitUnsafe, "stop its agent first; another node leads then",
			"node %s leads the cluster; nothing was changed", name)
	}
	members, _, err := c.cfg.Consensus.Members()
	if err != nil {
		return err
	}
	health := c.cfg.Peers.Health()
	voters, alive := 0, 0
	for _, m := range members {
		if !m.Voter || m.Name == name {
			continue
		}
		voters++
		if m.Name == c.cfg.Name || health[m.Name].State == "alive" {
			alive++
		}
	}
	if c.votes(name) && alive <= voters/2 {
		return refuse(connect.CodeFailedPrecondition, exitUnsafe, "bring other voters back first; see \"skein status\"",
			"without node %s only %d of %d voters would answer, which is no majority; nothing was changed", name, alive, voters)
	}
	running := c.cfg.Consensus.Store().List(object.KindPod, "", object.NodeIndex(name))
	if !force && len(running) > 0 && object.NodeStatus(node) != "Lost" {
		return refuse(connect.CodeFailedPrecondition, exitUnsafe, "move them first with \"skein node drain "+name+"\", or use --force",
			"node %s still has %s; nothing was changed", name, plural(len(running), "Pod"))
	}
	return nil
}

// change reads an object, changes it and writes it, again when it changed
// meanwhile.
func (s *Server) change(ctx context.Context, ref *skeinv1.ObjectRef, f func(object.Object) error) error {
	for range conflictTries {
		row, _, err := s.row(ref)
		if err != nil {
			return err
		}
		obj, err := object.DecodeAny(row)
		if err != nil {
			return err
		}
		if err := f(obj); err != nil {
			return err
		}
		op, err := putIfChanged(obj, row)
		if err != nil || op == nil {
			return err
		}
		_, err = s.cfg.Consensus.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{op}})
		var conflict *state.ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
	}
	return refuse(connect.CodeAborted, exitFailed, "try again", "%s %q keeps changing", ref.GetKind(), ref.GetName())
}
