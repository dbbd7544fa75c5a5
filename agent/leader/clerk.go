package leader

import (
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/reconcile"
)

// A clerk writes verdicts into the log, one after the other, the latest of each
// node. Losses that come together are written together.
type clerk struct {
	*reign
	bell reconcile.Bell

	mu      sync.Mutex
	pending map[string]writ
}

// A writ is what shall be the condition Ready of a node.
type writ struct {
	status corev1.ConditionStatus
	reason string
	text   string
}

var ready = writ{status: corev1.ConditionTrue, reason: reasonReady, text: "its agent is there"}

func newClerk(r *reign) *clerk {
	return &clerk{reign: r, bell: reconcile.NewBell(), pending: map[string]writ{}}
}

func (c *clerk) write(node string, w writ) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[node] = w
	c.bell.Ring()
}

func (c *clerk) run(ctx context.Context) {
	loop := reconcile.Loop{Name: "verdicts", Wake: c.bell.C, Do: c.do, Logger: c.log}
	_ = loop.Run(ctx) // is always nil
}

func (c *clerk) do(ctx context.Context) error {
	for {
		c.mu.Lock()
		taken := c.pending
		c.pending = map[string]writ{}
		c.mu.Unlock()
		if len(taken) == 0 {
			return nil
		}
		if err := c.file(ctx, taken); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			for name, w := range taken {
				if _, newer := c.pending[name]; !newer {
					c.pending[name] = w // what is written already changes nothing
				}
			}
			return err
		}
	}
}

// file writes what was taken. Losses come first: somebody waits for them.
func (c *clerk) file(ctx context.Context, taken map[string]writ) error {
	evidence := map[string]string{}
	for name, w := range taken {
		if w.reason == object.ReasonNodeLost {
			evidence[name] = w.text
		}
	}
	if len(evidence) > 0 {
		if err := c.lose(ctx, evidence); err != nil {
			return err
		}
	}
	names := sortedKeys(taken)
	names = slices.DeleteFunc(names, func(name string) bool { return taken[name].reason == object.ReasonNodeLost })
	for _, name := range names {
		w := taken[name]
		if err := c.setReady(ctx, name, w.status, w.reason, w.text); err != nil {
			return err
		}
	}
	return nil
}
