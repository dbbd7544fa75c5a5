package leader

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/leader/verdict"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/reconcile"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

const (
	// verifyWithin bounds a verification. One that takes it all has a helper
	// that does not answer.
	verifyWithin = 500 * time.Millisecond
	// maxHeard bounds the events that wait; of more, reports are dropped, as
	// they are repeated.
	maxHeard = 10_000
	// viewAge is how old the ring's view may be when a report is weighed.
	viewAge = 200 * time.Millisecond
)

// reasonReady is that of a Node whose agent is there.
const reasonReady = "AgentReady"

// A court runs the verdict machine: it brings it what is heard of nodes, carries
// out the probes that it asks for, and hands its verdicts to the clerk.
type court struct {
	*reign
	machine *verdict.Machine
	bell    reconcile.Bell // something is heard
	clerk   *clerk
	work    sync.WaitGroup
	viewed  time.Time // when the machine was last told of the nodes

	mu    sync.Mutex
	queue []verdict.Event
	alive map[string]bool // nodes that were heard in this term
}

func newCourt(r *reign) *court {
	rules := verdict.Defaults()
	rules.Grace = r.AgentGrace
	return &court{
		reign: r, machine: verdict.New(r.Name, rules), bell: reconcile.NewBell(),
		clerk: newClerk(r), alive: map[string]bool{r.Name: true},
	}
}

func (c *court) hear(ev verdict.Event) {
	c.mu.Lock()
	if _, report := ev.(verdict.Report); !report || len(c.queue) < maxHeard {
		c.queue = append(c.queue, ev)
	}
	c.mu.Unlock()
	c.bell.Ring()
}

func (c *court) suspect(reporter string, r *skeinv1.SuspectRequest) {
	c.hear(verdict.Report{Reporter: reporter, Node: r.GetNode(), Epoch: r.GetEpoch(), Cleared: r.GetCleared()})
}

func (c *court) streamOpened(node string) {
	c.seen(node, true)
	c.hear(verdict.StreamOpen{Node: node})
}

func (c *court) streamClosed(node string) {
	c.seen(node, false)
	c.hear(verdict.StreamClosed{Node: node})
}

func (c *court) heard(node string) {
	c.seen(node, true)
	if !c.model.isReady(node) {
		c.bell.Ring()
	}
}

func (c *court) seen(node string, alive bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.alive, node); alive {
		c.alive[node] = true
	}
}

// run judges until ctx ends.
func (c *court) run(ctx context.Context) error {
	c.work.Go(func() { c.clerk.run(ctx) })
	defer c.work.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	c.step(ctx, c.members())
	c.step(ctx, verdict.Term{})
	c.brakes.hold(Brake{
		Name: brakeTerm, Until: time.Now().Add(verdict.Defaults().Settle),
		Why: c.Name + " leads anew, and judges no node before it has heard the others",
	})
	for {
		c.mu.Lock()
		events := c.queue
		c.queue = nil
		c.mu.Unlock()
		for _, ev := range events {
			if _, report := ev.(verdict.Report); report && time.Since(c.viewed) > viewAge {
				c.step(ctx, c.members())
			}
			c.step(ctx, ev)
		}
		c.greet()
		var due <-chan time.Time
		if at := c.machine.Deadline(); !at.IsZero() {
			timer.Reset(max(time.Until(at), 0))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.bell.C():
		case <-c.model.bells.court.C():
			c.step(ctx, c.members())
		case <-due:
			c.step(ctx, verdict.Tick{})
		}
	}
}

// members tells the machine of the nodes as the log has them.
func (c *court) members() verdict.Members {
	c.viewed = time.Now()
	var ev verdict.Members
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	for _, name := range sortedKeys(c.model.nodes) {
		n := c.model.nodes[name]
		in := verdict.Node{Name: name}
		switch {
		case n.lost():
			in.State = verdict.Lost
		case n.gone():
			in.State = verdict.Gone
			in.Until = n.since.Add(c.AgentGrace)
		}
		ev.Nodes = append(ev.Nodes, in)
	}
	if c.Observers != nil {
		ev.Observers = c.Observers()
	} else {
		ev.Observers = everybodyElse(ev.Nodes)
	}
	return ev
}

// everybodyElse observes a node where there is no ring.
func everybodyElse(nodes []verdict.Node) func(string) []string {
	return func(node string) []string {
		var names []string
		for _, n := range nodes {
			if n.Name != node {
				names = append(names, n.Name)
			}
		}
		return names
	}
}

func (c *court) step(ctx context.Context, ev verdict.Event) {
	for _, a := range c.machine.Step(time.Now(), ev) {
		c.act(ctx, a)
	}
}

func (c *court) act(ctx context.Context, a verdict.Action) {
	switch a := a.(type) {
	case verdict.Verify:
		c.work.Go(func() { c.hear(c.verify(ctx, a)) })
	case verdict.Suspect:
		c.log.Info("node suspect", "node", a.Node)
		c.model.doubt(a.Node, true)
	case verdict.Clear:
		c.log.Info("node not suspect any more", "node", a.Node)
		c.model.doubt(a.Node, false)
	case verdict.GoneUntil:
		c.log.Warn("agent gone, its machine lives", "node", a.Node, "until", a.Until)
		c.clerk.write(a.Node, writ{
			status: corev1.ConditionUnknown, reason: object.ReasonAgentGone,
			text: "its agent does not run, its machine does: its Pods go on, and are replaced if it is not back by " + a.Until.UTC().Format(time.RFC3339),
		})
		c.model.doubt(a.Node, false) // not ready is reason enough
	case verdict.Declare:
		text := tell(a.Evidence)
		c.log.Warn("node lost", "node", a.Node, "why", text)
		c.model.doubt(a.Node, true)
		c.clerk.write(a.Node, writ{status: corev1.ConditionUnknown, reason: object.ReasonNodeLost, text: text})
	case verdict.Return:
		c.log.Info("node back", "node", a.Node)
		c.model.doubt(a.Node, false)
		c.clerk.write(a.Node, ready)
	case verdict.Slow:
		c.log.Warn("many nodes suspect at once, verdicts slow down", "count", a.Suspects, "batch", a.Batch, "until", a.Until)
		c.events.eventf(aboutNode(c.Name, c.model.uidOf(c.Name)), corev1.EventTypeWarning, "VerdictsSlowed",
			"%d nodes became suspect at once, which may be this node's own link: verdicts wait and come %d at a time", a.Suspects, a.Batch)
		c.brakes.hold(Brake{
			Name: brakeVerdicts, Until: a.Until, Open: true,
			Why: fmt.Sprintf("%d nodes became suspect at once, which may be the link of %s: verdicts wait, and then come %d at a time", a.Suspects, c.Name, a.Batch),
		})
	default:
		c.trust(a)
	}
}

// trust keeps new Pods away from a node that comes and goes.
func (c *court) trust(a verdict.Action) {
	switch a := a.(type) {
	case verdict.SlowOver:
		c.log.Info("verdicts come as usual again")
		c.brakes.release(brakeVerdicts, "")
	case verdict.Distrust:
		why := "node " + a.Node + " came and went too often: nothing new is placed on it, and its loss is declared later"
		c.log.Warn("node comes and goes, nothing new is placed on it", "node", a.Node, "until", a.Until)
		if c.brakes.hold(Brake{Name: brakeNode, Node: a.Node, Until: a.Until, Why: why}) {
			c.events.eventf(aboutNode(a.Node, c.model.uidOf(a.Node)), corev1.EventTypeWarning, "ComesAndGoes", "%s", why)
		}
		c.model.distrust(a.Node, true)
	case verdict.Trust:
		c.log.Info("node trusted again", "node", a.Node)
		c.brakes.release(brakeNode, a.Node)
		c.model.distrust(a.Node, false)
	}
}

// tell says in a line why a node was declared lost.
func tell(e verdict.Evidence) string {
	parts := []string{e.Why}
	if len(e.Reporters) > 0 {
		parts = append(parts, strings.Join(e.Reporters, ", ")+" missed its beats")
	}
	if e.StreamClosed {
		parts = append(parts, "its stream was closed")
	}
	if !e.Since.IsZero() {
		parts = append(parts, "suspect since "+e.Since.UTC().Format("15:04:05.000"))
	}
	if e.Rounds > 0 {
		parts = append(parts, fmt.Sprintf("verified %d times", e.Rounds))
	}
	return strings.Join(parts, "; ")
}

// verify probes a node from here and from its helpers, all at once, and
// confirms that a quorum follows us meanwhile. One sign of life is enough.
func (c *court) verify(ctx context.Context, v verdict.Verify) verdict.Probed {
	confirming, enough := context.WithTimeout(ctx, 2*verifyWithin)
	defer enough()
	ctx, cancel := context.WithTimeout(ctx, verifyWithin)
	defer cancel()
	type answer struct {
		helper  string // empty: ourselves
		outcome verdict.Outcome
	}
	answers := make(chan answer, len(v.Helpers)+1)
	go func() { answers <- answer{"", outcomeOf(c.Prober.ProbeSelf(ctx, v.Node, 0))} }()
	for _, helper := range v.Helpers {
		go func() {
			result, err := c.Prober.Probe(ctx, helper, v.Node, 0)
			if err != nil {
				result = skeinv1.ProbeResult_PROBE_RESULT_UNSPECIFIED
			}
			answers <- answer{helper, outcomeOf(result)}
		}()
	}
	confirmed := make(chan bool, 1)
	go func() { confirmed <- c.Consensus.Confirm(confirming) == nil }()

	out := verdict.Probed{ID: v.ID, Helpers: map[string]verdict.Outcome{}}
	for left := len(v.Helpers) + 1; left > 0; left-- {
		var a answer
		select {
		case a = <-answers:
		case <-ctx.Done():
			left = 1 // who has not answered by now counts as unknown
			continue
		}
		if a.helper == "" {
			out.Self = a.outcome
		} else {
			out.Helpers[a.helper] = a.outcome
		}
		if a.outcome == verdict.Alive {
			break
		}
	}
	cancel()
	out.Confirmed = <-confirmed
	return out
}

func outcomeOf(r skeinv1.ProbeResult) verdict.Outcome {
	switch r {
	case skeinv1.ProbeResult_PROBE_RESULT_ALIVE:
		return verdict.Alive
	case skeinv1.ProbeResult_PROBE_RESULT_AGENT_GONE:
		return verdict.AgentGone
	case skeinv1.ProbeResult_PROBE_RESULT_SILENT:
		return verdict.Silent
	default:
		return verdict.Unknown
	}
}

// greet makes ready what has been heard: newcomers, and this node itself, which
// the machine does not judge.
func (c *court) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	for name := range c.alive {
		n := c.model.nodes[name]
		if n == nil || !n.known || n.ready == corev1.ConditionTrue {
			continue
		}
		if name == c.Name || !n.lost() && !n.gone() {
			c.clerk.write(name, ready)
		}
	}
}

func (m *model) isReady(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[node]
	return n != nil && n.ready == corev1.ConditionTrue
}

func (m *model) uidOf(node string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.nodes[node]; n != nil {
		return n.uid
	}
	return ""
}
