package leader

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/consensus/state"
)

// apply takes in one step of the stream and wakes whom it concerns.
func (m *model) apply(b state.Batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gained := m.view.Gained()
	if b.Reset {
		m.clear()
	}
	slices.SortFunc(b.Puts, func(x, y *state.Row) int { return rankOf[x.Key.Kind] - rankOf[y.Key.Kind] })
	for _, key := range b.Deletes {
		m.remove(key)
	}
	for _, row := range b.Puts {
		if err := m.put(row); err != nil {
			// A row that this build cannot read must not hold up the others.
			m.log.Error("object cannot be read", "key", row.Key, "err", err)
		}
	}
	m.index = b.Index
	select {
	case <-m.begun:
	default:
		close(m.begun)
	}
	close(m.moved)
	m.moved = make(chan struct{})
	m.ring(gained)
}

func (m *model) ring(gained uint64) {
	if len(m.dirty) > 0 {
		m.bells.deployments.Ring()
	}
	if len(m.waiting) > 0 || m.view.Gained() != gained {
		m.bells.placement.Ring()
	}
	if len(m.web.stale) > 0 {
		m.bells.endpoints.Ring()
	}
	if len(m.web.lapsed) > 0 {
		m.bells.selections.Ring()
	}
	if len(m.orphans) > 0 || len(m.leaving) > 0 || len(m.ending) > 0 {
		m.bells.garbage.Ring()
	}
}

func (m *model) put(row *state.Row) error {
	switch row.Key.Kind {
	case object.KindNamespace:
		ns, err := object.Decode[corev1.Namespace](row)
		if err != nil {
			return err
		}
		m.web.nameSpace(row.Key.Name, ns.Labels)
		delete(m.ending, row.Key.Name)
		if ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
			m.ending[row.Key.Name] = true
		}
	case object.KindImage:
		img, err := imageFacts(row)
		if err != nil {
			return err
		}
		m.images[row.Key] = img.Name
		m.view.PutImage(img)
	case object.KindNode:
		n, err := nodeFacts(row)
		if err != nil {
			return err
		}
		m.ageNode(n)
		m.putNode(n)
	case object.KindDeployment:
		if old := m.uids[row.Key]; old != "" && old != row.UID {
			m.removeDeployment(old) // deleted and made again between two looks
		}
		m.uids[row.Key] = row.UID
		m.deployments[row.UID] = &deployment{key: row.Key, uid: row.UID}
		m.dirty[row.Key] = struct{}{}
	case object.KindRevision:
		r, err := revisionFacts(row)
		if err != nil {
			return err
		}
		m.putRevision(r)
	case object.KindPod:
		p, err := podFacts(row, m.shapeOf)
		if err != nil {
			return err
		}
		m.agePod(p)
		m.putPod(p)
	default:
		return m.putWeb(row)
	}
	return nil
}

// ago is when something was that a machine has put its time on, by the clock that
// durations are measured with. The clocks of machines differ and jump, so what is
// told while we follow happens now; of what was there before only its stamp
// tells, and what is from the future happens now, too.
func (m *model) ago(stamp time.Time) time.Time {
	select {
	case <-m.begun:
		return time.Now()
	default:
		return time.Now().Add(-max(0, m.wall().Sub(stamp)))
	}
}

func (m *model) agePod(p *pod) {
	if old := m.pods[p.key]; old != nil && old.uid == p.uid {
		p.born = old.born
		if p.since = old.since; p.ready == old.ready {
			return
		}
	} else {
		p.born = m.ago(p.created)
	}
	p.since = m.ago(p.since)
}

// ageNode trusts no stamp on a node that is away: what is due after some time
// away is due that long after this leader heard of it.
func (m *model) ageNode(n *node) {
	switch old := m.nodes[n.place.Name]; {
	case old != nil && old.uid == n.uid && old.ready == n.ready && old.reason == n.reason:
		n.since = old.since
	case n.ready == corev1.ConditionTrue:
		n.since = m.ago(n.since)
	default:
		n.since = time.Now()
	}
}

func (m *model) shapeOf(owner string) *place.Shape {
	if r := m.revisions[owner]; r != nil {
		return r.shape
	}
	return nil
}

func (m *model) remove(key state.Key) {
	switch key.Kind {
	case object.KindNamespace:
		delete(m.ending, key.Name)
		m.web.nameSpace(key.Name, nil)
		delete(m.web.namespaces, key.Name)
	case object.KindService:
		m.web.dropService(key)
	case object.KindNetworkPolicy:
		delete(m.web.policies, key)
		m.web.lapsed[key] = struct{}{}
	case object.KindImage:
		m.view.RemoveImage(m.images[key])
		delete(m.images, key)
	case object.KindNode:
		delete(m.nodes, key.Name)
		delete(m.doubted, key.Name)
		delete(m.distrusted, key.Name)
		m.view.RemoveNode(key.Name)
		m.ringNodes()
	case object.KindDeployment:
		m.removeDeployment(m.uids[key])
	case object.KindRevision:
		m.removeRevision(m.uids[key])
	case object.KindPod:
		m.removePod(key)
	}
}

func (m *model) putNode(n *node) {
	old := m.nodes[n.place.Name]
	m.nodes[n.place.Name] = n
	if old == nil || !old.offersAs(n) {
		m.showNode(n)
	}
	if old == nil || !old.standsAs(n) {
		m.ringNodes()
	}
	if n.blocks < blocksFor(n.capacity) {
		m.bells.blocks.Ring()
	}
}

func (m *model) ringNodes() {
	m.bells.nodes.Ring()
	m.bells.voters.Ring()
	m.bells.court.Ring()
	m.bells.blocks.Ring()
}

// showNode tells the view of a node as it is to be used.
func (m *model) showNode(n *node) {
	shown := n.place
	shown.Ready = shown.Ready && !m.doubted[shown.Name]
	shown.Flapping = m.distrusted[shown.Name]
	m.view.PutNode(shown)
}

// doubt keeps new Pods away from a node while its verdict is pending.
func (m *model) doubt(name string, doubted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setDoubt(name, doubted)
	if !doubted {
		m.bells.placement.Ring()
	}
}

// distrust keeps new Pods away from a node that is there.
func (m *model) distrust(name string, distrusted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if delete(m.distrusted, name); distrusted {
		m.distrusted[name] = true
	}
	if n := m.nodes[name]; n != nil {
		m.showNode(n)
	}
	if !distrusted {
		m.bells.placement.Ring()
	}
}

func (m *model) setDoubt(name string, doubted bool) {
	if m.doubted[name] == doubted {
		return
	}
	if delete(m.doubted, name); doubted {
		m.doubted[name] = true
	}
	if n := m.nodes[name]; n != nil {
		m.showNode(n)
	}
}

func (m *model) putRevision(r *revision) {
	if old := m.uids[r.key]; old != "" && old != r.uid {
		m.removeRevision(old)
	}
	m.uids[r.key] = r.uid
	m.revisions[r.uid] = r
	under := m.byParent[r.deployment]
	if under == nil {
		under = map[string]*revision{}
		m.byParent[r.deployment] = under
	}
	under[r.uid] = r
	if d := m.deployments[r.deployment]; d != nil {
		m.dirty[d.key] = struct{}{}
	} else {
		m.orphans[r.key] = struct{}{}
	}
}

func (m *model) removeDeployment(uid string) {
	d := m.deployments[uid]
	if d == nil {
		return
	}
	delete(m.dirty, d.key)
	delete(m.uids, d.key)
	delete(m.deployments, uid)
	for _, r := range m.byParent[uid] {
		m.orphans[r.key] = struct{}{}
	}
}

func (m *model) removeRevision(uid string) {
	r := m.revisions[uid]
	if r == nil {
		return
	}
	delete(m.revisions, uid)
	delete(m.uids, r.key)
	delete(m.orphans, r.key)
	if under := m.byParent[r.deployment]; under != nil {
		if delete(under, r.uid); len(under) == 0 {
			delete(m.byParent, r.deployment)
		}
	}
	for key := range m.byOwner[r.uid] {
		m.orphans[key] = struct{}{}
	}
	if d := m.deployments[r.deployment]; d != nil {
		m.dirty[d.key] = struct{}{}
	}
}

func (m *model) putPod(p *pod) {
	old := m.pods[p.key]
	m.forgetPod(old)
	m.pods[p.key] = p
	enter(m.web.byName, p.key.Namespace, p)
	m.web.moved(old, p)
	if p.node != "" {
		enter(m.byNode, p.node, p)
	}
	if p.owner != "" {
		enter(m.byOwner, p.owner, p)
		m.ownerOf(p)
	}
	if p.slot != "" {
		enter(m.slots, p.slot, p)
	}
	if p.waiting() {
		m.waiting[p.key] = p
	}
	if p.deleting {
		m.leaving[p.key] = struct{}{}
	}
	switch {
	case old != nil && old.holds() == p.holds() && old.placed() == p.placed(): // only its status changed
	case p.holds():
		m.view.PutPod(p.placed())
	case old != nil:
		m.view.RemovePod(p.placed().Key)
	}
	if p.node != "" && m.nodes[p.node] == nil {
		m.bells.nodes.Ring() // it is bound to a machine that is not there
	}
}

// ownerOf wakes those who look after a Pod's owner.
func (m *model) ownerOf(p *pod) {
	if !p.revision {
		return
	}
	r := m.revisions[p.owner]
	if r == nil {
		m.orphans[p.key] = struct{}{}
	} else if d := m.deployments[r.deployment]; d != nil {
		m.dirty[d.key] = struct{}{}
	}
}

func (m *model) removePod(key state.Key) {
	p := m.pods[key]
	if p == nil {
		return
	}
	m.forgetPod(p)
	delete(m.pods, key)
	m.web.moved(p, nil)
	if p.leased {
		m.over = append(m.over, p.uid)
	}
	if p.exclusive {
		if ns, name, ok := strings.Cut(p.slot, "/"); ok { // whose Deployment may be another by now
			m.dirty[state.Key{Kind: object.KindDeployment, Namespace: ns, Name: name}] = struct{}{}
		}
	}
	m.view.RemovePod(p.placed().Key)
	if r := m.revisions[p.owner]; r != nil {
		if d := m.deployments[r.deployment]; d != nil {
			m.dirty[d.key] = struct{}{}
		}
	}
}

// forgetPod takes a Pod off the lists.
func (m *model) forgetPod(p *pod) {
	if p == nil {
		return
	}
	delete(m.waiting, p.key)
	delete(m.orphans, p.key)
	delete(m.leaving, p.key)
	exit(m.slots, p.slot, p.key)
	exit(m.web.byName, p.key.Namespace, p.key)
	exit(m.byNode, p.node, p.key)
	exit(m.byOwner, p.owner, p.key)
}
