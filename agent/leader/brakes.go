package leader

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/leader/verdict"
)

// The brakes that a leader may hold.
const (
	brakeTerm     = "new-leader"
	brakeVerdicts = "verdicts"
	brakeMoves    = "moves"
	brakeNode     = "node"
)

// movesPause is how much of the budget gathers before more Pods are moved.
const movesPause = time.Second

// A Brake is something that the leader holds back so that one trouble does not
// become another.
type Brake struct {
	Name  string    // verdicts, moves, node or new-leader
	Node  string    // of which it is held, empty: of the cluster
	Since time.Time // when it began
	Until time.Time // when it ends, or what waits is looked at next if Open
	Open  bool      // it may be held for longer than that
	Why   string    // a line for a person
}

// brakes are those of one term.
type brakes struct {
	mu   sync.Mutex
	held map[Brake]Brake // by name and node alone
}

func brakeKey(name, node string) Brake { return Brake{Name: name, Node: node} }

// hold notes a brake and tells whether it is a new one. One that is held
// already keeps when it began.
func (b *brakes) hold(one Brake) (fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	one.Since = now
	old, there := b.held[brakeKey(one.Name, one.Node)]
	if there = there && (old.Open || now.Before(old.Until)); there {
		one.Since = old.Since
	}
	b.held[brakeKey(one.Name, one.Node)] = one
	return !there
}

func (b *brakes) release(name, node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, brakeKey(name, node))
}

// holds tells whether a brake of the cluster is held.
func (b *brakes) holds(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, held := b.held[brakeKey(name, "")]
	return held
}

// list returns what is held now, in a steady order.
func (b *brakes) list(now time.Time) []Brake {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Brake
	for key, one := range b.held {
		if !one.Open && !now.Before(one.Until) {
			delete(b.held, key)
			continue
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(x, y Brake) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Node, y.Node)) })
	return out
}

// Brakes lists what this node holds back as the leader. It is empty where
// another leads.
func (l *Leader) Brakes() []Brake {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return nil
	}
	return l.now.brakes.list(time.Now())
}

// budgeted returns how many Pods may be moved now. The model is locked.
func (l *loss) budgeted() int {
	var perNode []int
	for name := range l.model.byNode {
		perNode = append(perNode, len(l.model.byNode[name]))
	}
	return l.budget.Left(l.now, verdict.Allowance(perNode))
}

// brake says that Pods wait for the budget, or that none do any more. There may
// be more that were not counted.
func (l *loss) brake(more bool) {
	if l.waiting == 0 {
		if !more {
			l.brakes.release(brakeMoves, "")
		}
		return
	}
	// All of them are moved once so much of the budget has come back.
	until := l.now.Add(time.Duration(float64(l.waiting) / float64(l.budget.Allowance()) * float64(time.Minute)))
	why := fmt.Sprintf("%d Pods of lost nodes wait to be moved, in the order of their nodes' names: no more than %d are in a minute, "+
		"what the two fullest nodes run, or 64", l.waiting, l.budget.Allowance())
	if l.brakes.hold(Brake{Name: brakeMoves, Until: until, Open: true, Why: why}) {
		l.log.Warn("too many Pods to move at once, the rest waits", "count", l.waiting, "allowance", l.budget.Allowance())
		l.events.eventf(aboutNode(l.Name, l.model.uidOf(l.Name)), corev1.EventTypeWarning, "MovesSlowed", "%s", why)
		l.model.bells.nodes.Ring() // sweep goes on with it
	}
}
