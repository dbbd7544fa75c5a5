package agenttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/container"
)

// decoded lists the objects of a kind in a copy.
func decoded[T any](store *state.Store, kind string) []*T {
	var out []*T
	for _, row := range store.List(kind, "", "") {
		if obj, err := object.Decode[T](row); err == nil {
			out = append(out, obj)
		}
	}
	return out
}

// readyNodes names the nodes that the cluster holds ready.
func (c *Cluster) readyNodes() []string {
	store := c.stores.best()
	if store == nil {
		return nil
	}
	var out []string
	for _, n := range decoded[corev1.Node](store, object.KindNode) {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				out = append(out, n.Name)
			}
		}
	}
	return out
}

// running lists what runs on a machine.
func (m *Machine) running() []container.Status {
	all, err := m.driver.List(m.cluster.t.Context())
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(s container.Status) bool { return s.State != container.Running })
}

// stopping checks that a running container is stopped only where its Pod is to
// go: neither the loss of a leader nor an old copy is a reason.
func (c *Cluster) stopping(m *Machine, id container.ID) {
	if !slices.ContainsFunc(m.running(), func(s container.Status) bool {
		return s.ID.Pod == id.Pod && (id.Name == "" || s.ID == id)
	}) {
		return
	}
	store := c.stores.best()
	for _, p := range decoded[corev1.Pod](store, object.KindPod) {
		givenUp := p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		// The lease of one that has such may have run out.
		if string(p.UID) == id.Pod && !givenUp && !object.Leased(p.Annotations) && p.Spec.NodeName == m.Name {
			c.fail("%s stops %s of pod %s, which nobody has asked to go", m.Name, id, p.Name)
		}
	}
}

// graceful checks that a container is given the time to end that its Pod was
// given, whatever the clocks of those say who have asked it to go. A second try
// may have less.
func (c *Cluster) graceful(l *life, id container.ID, grace time.Duration) {
	l.mu.Lock()
	again := l.stopped[id]
	if l.stopped == nil {
		l.stopped = map[container.ID]bool{}
	}
	l.stopped[id] = true
	l.mu.Unlock()
	store := c.stores.best()
	for _, p := range decoded[corev1.Pod](store, object.KindPod) {
		given := p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded // one that was given up has none
		if s := p.DeletionGracePeriodSeconds; given && !again && string(p.UID) == id.Pod && s != nil && grace < time.Duration(*s-1)*time.Second {
			c.fail("%s gives %s of pod %s %s to end, not %d s, as version %s of %d says", l.machine.Name, id, p.Name, grace, *s, p.ResourceVersion, store.Index())
		}
	}
}

// A check looks at the cluster while fate is at work, at any moment.
type check func(c *Cluster)

// checks are made after every step.
var checks = []check{onePlaceEach, neverTwice, inOrder, oneLeaderATerm, quorumOfTheLiving}

// onePlaceEach: a Pod is bound once, so its containers run on one machine.
func onePlaceEach(c *Cluster) {
	where := map[string]string{}
	for _, m := range c.machines {
		for _, s := range m.running() {
			if other, ok := where[s.ID.Pod]; ok && other != m.Name {
				c.fail("pod %s runs on %s and on %s", s.ID.Pod, other, m.Name)
			}
			where[s.ID.Pod] = m.Name
		}
	}
}

// neverTwice: of an exclusive Deployment at most one Pod acts at any time.
func neverTwice(c *Cluster) {
	var who []string
	for _, m := range c.machines {
		for _, s := range m.running() {
			spec, ok := m.driver.Spec(s.ID)
			if ok && strings.HasPrefix(spec.Sandbox.Name, exclusiveName) && !m.driver.Frozen(s.ID.Pod) {
				who = append(who, spec.Sandbox.Name+" on "+m.Name)
			}
		}
	}
	if len(who) > 1 {
		c.fail("an exclusive Pod acts twice: %v", who)
	}
}

// inOrder: what begins in stages has been prepared where it runs, since that
// machine was last started.
func inOrder(c *Cluster) {
	for _, m := range c.machines {
		prepared := map[string]bool{}
		all, _ := m.driver.List(c.t.Context())
		for _, s := range all {
			if s.ID.Name == "prepare" && s.State == container.Exited && s.ExitCode == 0 && !s.Stale {
				prepared[s.ID.Pod] = true
			}
		}
		for _, s := range all {
			spec, _ := m.driver.Spec(s.ID)
			if s.State == container.Running && s.ID.Name == "main" && strings.HasPrefix(spec.Sandbox.Name, staged+"-") && !prepared[s.ID.Pod] {
				c.fail("%s runs on %s, and nothing has prepared it", spec.Sandbox.Name, m.Name)
			}
		}
	}
}

// nobodyLost: no node is held lost. It is for times when all are well.
func nobodyLost(c *Cluster) {
	for _, n := range decoded[corev1.Node](c.stores.best(), object.KindNode) {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Reason == object.ReasonNodeLost {
				c.fail("node %s is lost, and nothing is wrong with it", n.Name)
			}
		}
	}
}

// nobodySuspect: nor does anybody become suspect from now on. A suspicion may be
// over at once, so it is what leaders log that counts.
func (c *Cluster) nobodySuspect() check {
	before := c.trace.suspicions()
	return func(c *Cluster) {
		if c.trace.suspicions() > before {
			c.fail("a node is suspect, and nothing is wrong with it")
		}
	}
}

// oneLeaderATerm: no two agents hold themselves elected in one term.
func oneLeaderATerm(c *Cluster) {
	if term, who := c.trace.rivals(); len(who) > 0 {
		c.fail("%s lead term %d", strings.Join(who, " and "), term)
	}
}

// quorumOfTheLiving: whoever changes the voters leaves a majority of them among
// the machines that are well, if there was one before.
func quorumOfTheLiving(c *Cluster) {
	m := c.leader()
	if m == nil {
		return
	}
	members, index, err := m.run.current().Consensus().Members()
	if err != nil || index <= c.membersAt {
		return
	}
	voters, well := c.voters(members)
	if c.hadQuorum && 2*well <= voters && c.wellBefore == c.wellNow() {
		c.fail("a change of voters at index %d leaves %d of %d that are well", index, well, voters)
	}
	c.membersAt, c.hadQuorum, c.wellBefore = index, 2*well > voters, c.wellNow()
}

func (c *Cluster) voters(members []consensus.Member) (voters, well int) {
	for _, member := range members {
		if !member.Voter {
			continue
		}
		voters++
		for _, m := range c.machines {
			if m.Name == member.Name && m.run != nil && !m.paused {
				well++
			}
		}
	}
	return voters, well
}

// wellNow names the machines whose agents run.
func (c *Cluster) wellNow() string {
	var names []string
	for _, m := range c.machines {
		if m.run != nil && !m.paused {
			names = append(names, m.Name)
		}
	}
	return strings.Join(names, " ")
}

// settled says what is not yet as it has to be once all faults are over, "" if
// all is.
func (c *Cluster) settled() string {
	m := c.leader()
	if m == nil {
		return "nobody leads"
	}
	if n := len(c.readyNodes()); n != len(c.machines) {
		return fmt.Sprintf("%d nodes of %d are ready: %v", n, len(c.machines), c.readyNodes())
	}
	members, _, err := m.run.current().Consensus().Members()
	if err != nil {
		return err.Error()
	}
	voters, _ := c.voters(members)
	if want := wantedVoters(len(c.machines)); voters != want {
		return fmt.Sprintf("%d vote, %d should", voters, want)
	}
	for _, m := range c.machines {
		if why := c.hears(m); why != "" {
			return m.Name + ": " + why
		}
	}
	return c.podsSettled(m.run.current().Consensus().Store())
}

func wantedVoters(machines int) int {
	switch {
	case machines < 3:
		return 1
	case machines < 7:
		return 3
	}
	return 5
}

// podsSettled compares what runs with what is wanted.
func (c *Cluster) podsSettled(store *state.Store) string {
	runs := map[string]string{} // pod uid to machine
	for _, m := range c.machines {
		for _, s := range m.running() {
			runs[s.ID.Pod] = m.Name
		}
	}
	have := map[string]int{}
	for _, p := range decoded[corev1.Pod](store, object.KindPod) {
		at, there := runs[string(p.UID)]
		switch {
		case p.DeletionTimestamp != nil:
			return fmt.Sprintf("pod %s has not gone from %s; it runs there: %t; it was to go at %s", p.Name, p.Spec.NodeName, there, p.DeletionTimestamp)
		case !there:
			return fmt.Sprintf("pod %s, %s on %s, runs nowhere", p.Name, p.Status.Phase, p.Spec.NodeName)
		case at != p.Spec.NodeName:
			return fmt.Sprintf("pod %s runs on %s, not on %s", p.Name, at, p.Spec.NodeName)
		case p.Status.Phase != corev1.PodRunning:
			return fmt.Sprintf("pod %s runs, and is %s", p.Name, p.Status.Phase)
		}
		delete(runs, string(p.UID))
		have[p.Labels["app"]]++
	}
	for uid := range maps.Keys(runs) {
		return fmt.Sprintf("pod %s runs on %s, and nobody knows it", uid, runs[uid])
	}
	for _, d := range decoded[appsv1.Deployment](store, object.KindDeployment) {
		if have[d.Name] != int(*d.Spec.Replicas) {
			return fmt.Sprintf("deployment %s has %d of %d", d.Name, have[d.Name], *d.Spec.Replicas)
		}
		if d.Status.ReadyReplicas != *d.Spec.Replicas {
			return fmt.Sprintf("deployment %s tells of %d ready of %d", d.Name, d.Status.ReadyReplicas, *d.Spec.Replicas)
		}
	}
	return ""
}

// watchSettled compares what the stream has told with what is there.
func (c *Cluster) watchSettled(w *watched) string {
	m := c.leader()
	if m == nil {
		return "nobody leads"
	}
	belief, synced := w.belief()
	if !synced {
		return "the stream is still bringing what is there"
	}
	truth := map[string]uint64{}
	for _, row := range m.run.current().Consensus().Store().List(object.KindDeployment, "", "") {
		truth[row.Key.Namespace+"/"+row.Key.Name] = row.Version
	}
	if !maps.Equal(truth, belief) {
		return fmt.Sprintf("who watches believes %v, the truth is %v", belief, truth)
	}
	return ""
}

// copiesAgree compares the stores of all voters that have come as far.
func (c *Cluster) copiesAgree() string {
	lead := c.leader()
	if lead == nil {
		return "nobody leads"
	}
	members, _, err := lead.run.current().Consensus().Members()
	if err != nil {
		return err.Error()
	}
	var first *state.Store
	from := ""
	for _, m := range c.machines {
		if m.run == nil || m.run.current() == nil || !slices.Contains(members, consensus.Member{Name: m.Name, Voter: true}) {
			continue
		}
		s := m.run.current().Consensus().Store()
		if first == nil {
			first, from = s, m.Name
			continue
		}
		if s.Index() != first.Index() {
			return fmt.Sprintf("%s is at %d, %s at %d", from, first.Index(), m.Name, s.Index())
		}
		for _, kind := range []string{object.KindPod, object.KindDeployment, object.KindNode, object.KindToken} {
			a, b := first.List(kind, "", ""), s.List(kind, "", "")
			same := slices.EqualFunc(a, b, func(x, y *state.Row) bool { return x.Key == y.Key && x.Version == y.Version && x.UID == y.UID })
			if !same {
				c.fail("the copies of %s and %s at index %d differ in their %s", from, m.Name, s.Index(), kind)
			}
		}
	}
	return ""
}
