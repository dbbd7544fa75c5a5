package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// pods are those that a machine was given.
type pods struct {
	all     map[state.Key]bool
	waiting map[state.Key]*skeinv1.PodStatus // to be told to the leader
	woken   chan struct{}
}

func newPods() pods {
	return pods{all: map[state.Key]bool{}, waiting: map[state.Key]*skeinv1.PodStatus{}, woken: make(chan struct{}, 1)}
}

// find asks whoever votes who leads.
func (m *machine) find(ctx context.Context) string {
	m.mu.Lock()
	var voters []string
	for name, addr := range m.known {
		for _, seed := range m.seeds {
			if addr.String() == seed {
				voters = append(voters, name)
			}
		}
	}
	m.mu.Unlock()
	for _, name := range voters {
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		res, err := m.client(name).Leader(ask, &skeinv1.LeaderRequest{})
		cancel()
		if err != nil || res.GetLeader() == "" {
			continue
		}
		for _, p := range res.GetVoters() {
			if addr, err := netip.ParseAddrPort(p.GetAddr()); err == nil {
				m.meet(p.GetName(), addr)
			}
		}
		return res.GetLeader()
	}
	return ""
}

// follow follows the leader, with the selectors of an agent, and keeps nothing
// but its own Pods and where everybody is.
func (m *machine) follow(ctx context.Context) error {
	began := false
	for retry := 100 * time.Millisecond; ctx.Err() == nil; retry = min(2*retry, 5*time.Second) {
		leader := m.find(ctx)
		if leader != "" {
			m.mu.Lock()
			m.leader = leader
			m.mu.Unlock()
			m.listen(ctx, leader, func() {
				if !began {
					began = true
					m.add(func(c *counts) { c.Following++ })
				}
				retry = 100 * time.Millisecond
			})
		}
		if !sleep(ctx, retry) {
			break
		}
	}
	return nil
}

func (m *machine) listen(ctx context.Context, leader string, told func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &skeinv1.FollowRequest{Since: m.index, Epoch: m.lineage, Selectors: []*skeinv1.Selector{
		{Kind: object.KindNode},
		{Kind: object.KindImage},
		{Kind: object.KindKeyring},
		{Kind: object.KindPod, Index: object.NodeIndex(m.name)},
	}}
	stream, err := m.client(leader).Follow(ctx, req)
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	for {
		msg, err := stream.Receive()
		if err != nil {
			return
		}
		for _, o := range msg.GetPuts() {
			m.learn(state.RowOf(o))
		}
		for _, k := range msg.GetDeletes() {
			m.gone(state.KeyOf(k))
		}
		if !msg.GetMore() {
			m.index, m.lineage = msg.GetIndex(), msg.GetEpoch()
			told()
		}
	}
}

// learn takes what a row says. The cluster's nodes are the same for all: the
// first to hear of one remembers it.
func (m *machine) learn(row *state.Row) {
	switch row.Key.Kind {
	case object.KindNode:
		if m.knows(row.Key.Name) {
			return
		}
		n, err := object.Decode[corev1.Node](row)
		if err != nil {
			return
		}
		if addr, err := netip.ParseAddrPort(n.Annotations[object.AnnotationAdvertise]); err == nil {
			m.meet(n.Name, addr)
		}
	case object.KindPod:
		p, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return
		}
		m.take(row.Key, p)
	}
}

// take claims to run a Pod, or to have ended it.
func (m *machine) take(key state.Key, p *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.DeletionTimestamp != nil {
		m.mine.waiting[key] = &skeinv1.PodStatus{Namespace: p.Namespace, Name: p.Name, Uid: string(p.UID), Gone: true}
		m.wake()
		return
	}
	if m.mine.all[key] {
		return
	}
	m.mine.all[key] = true
	m.count.Pods++
	body, err := json.Marshal(running(p, m.addr.Addr(), time.Now()))
	if err != nil {
		return
	}
	m.mine.waiting[key] = &skeinv1.PodStatus{Namespace: p.Namespace, Name: p.Name, Uid: string(p.UID), Status: body}
	m.wake()
}

func (m *machine) gone(key state.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mine.all[key] {
		delete(m.mine.all, key)
		m.count.Pods--
		m.count.Running--
	}
}

func (m *machine) wake() {
	select {
	case m.mine.woken <- struct{}{}:
	default: // one is waiting
	}
}

// running is the status of a Pod that runs and is ready.
func running(p *corev1.Pod, host netip.Addr, now time.Time) corev1.PodStatus {
	at := metav1.Time{Time: now.Truncate(time.Second)}
	s := corev1.PodStatus{Phase: corev1.PodRunning, HostIP: host.String(), StartTime: &at}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: at})
	}
	for _, c := range p.Spec.Containers {
		yes := true
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &yes, ContainerID: "skein://" + p.Name,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}},
		})
	}
	return s
}

// reportEvery is the pace of an agent's reports.
const reportEvery = 50 * time.Millisecond

// report says what this machine is, and then whatever changes.
func (m *machine) report(ctx context.Context) error {
	self, labels, err := m.self()
	if err != nil {
		return err
	}
	first := true
	for ctx.Err() == nil {
		m.mu.Lock()
		leader, waiting := m.leader, m.mine.waiting
		m.mine.waiting = map[state.Key]*skeinv1.PodStatus{}
		m.mu.Unlock()
		req := &skeinv1.ReportRequest{NodeStatus: self, NodeLabels: labels}
		for _, p := range waiting {
			req.Pods = append(req.Pods, p)
		}
		if leader != "" && (first || len(req.Pods) > 0) {
			call, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, err := m.client(leader).Report(call, req)
			cancel()
			m.heard(waiting, err == nil, first)
			if err == nil {
				first, self, labels = false, nil, nil
			}
		}
		if !sleep(ctx, reportEvery) {
			break
		}
		if first {
			continue
		}
		select {
		case <-ctx.Done():
		case <-m.mine.woken:
		}
	}
	return nil
}

// heard counts what the leader took, or keeps it for the next try.
func (m *machine) heard(told map[state.Key]*skeinv1.PodStatus, well, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if well && first {
		m.count.Reported++
	}
	for key, status := range told {
		switch {
		case well && !status.GetGone():
			m.count.Running++
		case !well && m.mine.waiting[key] == nil:
			m.mine.waiting[key] = status
			m.wake()
		}
	}
}

// self is what this machine says of itself: a large one that is not to vote.
func (m *machine) self() (status, labels []byte, err error) {
	have := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("32"),
		corev1.ResourceMemory: resource.MustParse("128Gi"),
		corev1.ResourcePods:   resource.MustParse("250"),
	}
	status, err = json.Marshal(&corev1.NodeStatus{
		Capacity: have, Allocatable: have,
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: m.addr.Addr().String()}},
		NodeInfo:  corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64", OSImage: "simulated"},
	})
	if err != nil {
		return nil, nil, err
	}
	labels, err = json.Marshal(map[string]string{object.LabelVoter: "never"})
	return status, labels, err
}
