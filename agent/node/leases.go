package node

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/lease"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/container"
)

// Lessor asks the leader for the leases of Pods, by uid, and returns those that
// it granted.
type Lessor interface {
	Lease(ctx context.Context, pods []string) (granted []string, err error)
}

const (
	leaseRetry    = 250 * time.Millisecond // after a request that failed
	leasePatience = time.Second            // for an answer
)

// leases keeps the leases of this node's exclusive Pods, and of those that are to
// stop where they are isolated, for which nobody waits. The driver enforces
// them, so this may stop at any line; where the driver's keeper is dead it kills
// by itself.
type leases struct {
	node *Node
	log  *slog.Logger
	bell reconcile.Bell // a Pod waits for its lease

	mu     sync.Mutex
	holder *lease.Holder
	told   map[string]bool // that their lease has run out
}

func newLeases(n *Node, log *slog.Logger) *leases {
	return &leases{node: n, log: log, bell: reconcile.NewBell(), holder: lease.NewHolder(), told: map[string]bool{}}
}

// mayStart tells whether a container of the Pod may be started now. If not, the
// Pod's worker is woken once it may.
func (l *leases) mayStart(pod *corev1.Pod) bool {
	if !object.Leased(pod.Annotations) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder.MayStart(l.node.cfg.Driver.SinceBoot(), string(pod.UID)) {
		return true
	}
	l.bell.Ring()
	return false
}

// run renews until ctx ends. The Pods run on then for as long as their leases
// last.
func (l *leases) run(ctx context.Context) error {
	mine := l.node.cfg.Replica.Store().Changed(state.Selector{Kind: object.KindPod, Index: object.NodeIndex(l.node.cfg.Name)})
	defer mine.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var failing sync.WaitGroup
	defer failing.Wait()
	for {
		pods := l.leased()
		next := time.Hour
		if len(pods) > 0 {
			next = lease.Renew
			if err := l.renew(ctx, pods); err != nil {
				l.log.Debug("no lease", "err", err)
				next = leaseRetry
			}
		}
		l.enforce(ctx, &failing, pods)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-mine.C():
		case <-l.bell.C():
		}
	}
}

// leased lists the Pods that are bound to this node and run under a lease.
func (l *leases) leased() []string {
	var out []string
	for _, row := range l.node.cfg.Replica.Store().List(object.KindPod, "", object.NodeIndex(l.node.cfg.Name)) {
		if !bytes.Contains(row.Body, []byte(object.AnnotationExclusive)) && !bytes.Contains(row.Body, []byte(object.AnnotationWhenIsolated)) {
			continue // nearly all, at the cost of a glance
		}
		if pod, err := object.Decode[corev1.Pod](row); err == nil && object.Leased(pod.Annotations) {
			out = append(out, row.UID)
		}
	}
	return out
}

func (l *leases) renew(ctx context.Context, pods []string) error {
	driver := l.node.cfg.Driver
	sent := driver.SinceBoot()
	ctx, cancel := context.WithTimeout(ctx, leasePatience)
	defer cancel()
	granted, err := l.node.cfg.Lessor.Lease(ctx, pods)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, limit := range l.holder.Granted(driver.SinceBoot(), sent, granted) {
		if err := driver.Lease(ctx, limit.Pod, limit.Freeze, limit.Kill); err != nil {
			l.log.Warn("a lease cannot be kept", "uid", limit.Pod, "err", err)
			l.holder.Drop(limit.Pod)
			continue
		}
		delete(l.told, limit.Pod)
		l.node.wake(types.UID(limit.Pod))
	}
	return nil
}

// enforce kills what has outlived its lease, should nobody else have done so.
func (l *leases) enforce(ctx context.Context, work *sync.WaitGroup, pods []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder.Keep(pods)
	over, _ := l.holder.Expired(l.node.cfg.Driver.SinceBoot())
	for _, uid := range over {
		if l.told[uid] {
			continue
		}
		l.told[uid] = true
		l.log.Warn("the lease of a Pod has run out", "uid", uid)
		if pod, err := l.node.pod(types.UID(uid)); err == nil && pod != nil {
			then := "it stops where it is isolated"
			if object.Exclusive(pod.Annotations) {
				then = "it may run elsewhere now"
			}
			l.node.reports.event(pod, l.node.cfg.Name, corev1.EventTypeWarning, reasonLeaseLost,
				"no leader with a quorum could be asked for "+lease.Kill.String()+", so it was killed: "+then)
		}
		for _, s := range l.node.statuses(types.UID(uid)) {
			if s.State != container.Running {
				continue
			}
			work.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				if err := l.node.cfg.Driver.Stop(ctx, s.ID, 0); err != nil && ctx.Err() == nil {
					l.log.Warn("cannot kill what has outlived its lease", "container", s.ID.String(), "err", err)
				}
			})
		}
	}
}

// wake makes a Pod's worker look again.
func (n *Node) wake(uid types.UID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.workers[uid]; w != nil {
		w.wake()
	}
}

// reasonLeaseLost is that of a container that was killed with its lease.
const reasonLeaseLost = "LeaseLost"
