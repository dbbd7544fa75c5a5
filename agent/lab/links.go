package lab

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Partition cuts all links between groups of nodes, both ways and in silence.
// Nodes in no group go on reaching everybody. It replaces an earlier partition.
func (l *Lab) Partition(groups [][]string) error {
	if len(groups) < 2 {
		return misuse("for example \"skeind lab partition n1,n2 n3\"", "a partition has two groups or more")
	}
	var seen []string
	for _, g := range groups {
		for _, name := range g {
			if _, err := l.node(name); err != nil {
				return err
			}
			if slices.Contains(seen, name) {
				return misuse("", "node %s cannot be on two sides of a partition", name)
			}
			seen = append(seen, name)
		}
	}
	l.Cuts = groups
	return l.apply()
}

// Slow makes a node's link lose packets and take its time, each way. What is 0
// is as before the first Slow.
func (l *Lab) Slow(name string, loss float64, delay time.Duration) error {
	n, err := l.powered(name)
	if err != nil {
		return err
	}
	n.Loss, n.Delay = loss, delay
	if err := l.setDelay(n); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			return fault("use --loss, which needs no module, or a kernel with CONFIG_NET_SCH_NETEM", "this kernel cannot delay packets: it has no netem; nothing was changed")
		}
		return err
	}
	return l.apply()
}

func (l *Lab) apply() error {
	if err := l.setRules(); err != nil {
		return err
	}
	return l.save()
}

// Heal undoes partitions, slow links and kills. Killed nodes start with the data
// that they had, and answer when it returns.
func (l *Lab) Heal(ctx context.Context) error {
	var killed []*node
	l.Cuts = nil
	for _, n := range l.Nodes {
		slow := n.Delay > 0
		n.Loss, n.Delay = 0, 0
		if slow {
			if err := l.setDelay(n); err != nil {
				return err
			}
		}
		if n.Killed {
			killed = append(killed, n)
		}
	}
	if err := l.apply(); err != nil {
		return err
	}
	var g errgroup.Group
	for _, n := range killed {
		if err := l.plug(n); err != nil {
			return err
		}
		n.Killed = false
		if !n.Joined || l.removed(n) {
			continue // it has nothing to start with; `up` lets it join
		}
		w, err := l.start(n)
		if err != nil {
			return err
		}
		g.Go(func() error { return l.awaitAPI(ctx, w) })
	}
	return errors.Join(l.save(), g.Wait())
}

// link describes a node's link for people.
func (l *Lab) link(n *node) string {
	if !l.plugged(n) {
		return "down"
	}
	out := []string{"up"}
	mine := slices.IndexFunc(l.Cuts, func(g []string) bool { return slices.Contains(g, n.Name) })
	if mine >= 0 {
		var cut []string
		for i, g := range l.Cuts {
			if i != mine {
				cut = append(cut, g...)
			}
		}
		out = append(out, "cut off from "+strings.Join(cut, ","))
	}
	if n.Loss > 0 {
		out = append(out, "loses "+percent(n.Loss))
	}
	if n.Delay > 0 {
		out = append(out, "delays "+n.Delay.String())
	}
	return strings.Join(out, ", ")
}

// reach says with how many nodes a node can talk, itself included: those that
// reach most are the best to ask.
func (l *Lab) reach(n *node) int {
	if n.Killed || l.removed(n) {
		return 0
	}
	mine := slices.IndexFunc(l.Cuts, func(g []string) bool { return slices.Contains(g, n.Name) })
	count := 0
	for _, other := range l.Nodes {
		theirs := slices.IndexFunc(l.Cuts, func(g []string) bool { return slices.Contains(g, other.Name) })
		if !other.Killed && !l.removed(other) && (mine < 0 || theirs < 0 || mine == theirs) {
			count++
		}
	}
	return count
}
