package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
)

// What a lab is where nobody says.
const (
	defaultName  = "default"
	defaultNodes = 3
	defaultPort  = 7380
)

// An Order is what `up` is asked for. What is 0 is as it was, or the default.
type Order struct {
	Name  string
	Nodes int
	Port  int
	Disk  int64     // bytes of a disk of its own for each node; 0: none, or as it is
	Out   io.Writer // progress
}

// Up raises a lab, or makes one that is there whole: what runs is adopted, what
// does not is started with the data that it has, links are healed. When it
// returns, every node is ready.
func Up(ctx context.Context, o Order) error {
	if o.Nodes < 0 || o.Nodes > maxNodes {
		return misuse("", "--nodes %d: it is 1 to %d", o.Nodes, maxNodes)
	}
	if o.Port < 0 || o.Port > 65535 {
		return misuse("", "--port %d: it is 1 to 65535", o.Port)
	}
	l, err := create(ctx, o.Name, o.Out)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if err := l.shape(o); err != nil {
		if len(l.Nodes) == 0 {
			_ = os.Remove(l.dir) // made above, and empty
		}
		return err
	}
	if err := l.wire(); err != nil {
		return err
	}
	if err := l.Heal(ctx); err != nil {
		return err
	}
	if err := l.launch(ctx); err != nil {
		return err
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	if err := l.access(ctx); err != nil {
		return err
	}
	return l.ensureForward(ctx)
}

// shape takes over what is asked for, and refuses what cannot be.
func (l *Lab) shape(o Order) error {
	nodes, port := o.Nodes, o.Port
	if nodes == 0 {
		nodes = max(len(l.Nodes), defaultNodes)
		if len(l.Nodes) > 0 {
			nodes = len(l.Nodes)
		}
	}
	if port == 0 {
		if port = l.Port; port == 0 {
			port = defaultPort
		}
	}
	if nodes < len(l.Nodes) {
		return misuse("take it down first: \"skeind lab down"+l.flag()+"\"", "lab %q has %d nodes, and a lab does not shrink", l.Name, len(l.Nodes))
	}
	if err := l.claimPort(port); err != nil {
		return err
	}
	if o.Disk > 0 && o.Disk != l.Disk && len(l.Nodes) > 0 {
		return misuse("take it down first: \"skeind lab down"+l.flag()+"\"", "lab %q is there, and its disks do not change", l.Name)
	}
	l.Disk = max(l.Disk, o.Disk)
	for i := len(l.Nodes); i < nodes; i++ {
		l.Nodes = append(l.Nodes, newNode(i+1))
	}
	l.Port = port
	return l.save()
}

// launch starts the agents that do not run. A cluster begins with its first node,
// all others join at once.
func (l *Lab) launch(ctx context.Context) error {
	old, fresh := l.split()
	if err := l.resume(ctx, old); err != nil {
		return err
	}
	if len(fresh) == 0 {
		return nil
	}
	var first []*launch
	if len(old) == 0 {
		l.say("%s starts a cluster", fresh[0].Name)
		w, err := l.start(fresh[0], "--init")
		if err != nil {
			return err
		}
		first, fresh = []*launch{w}, fresh[1:]
	}
	token, err := l.createToken(ctx, "", first...)
	if err != nil {
		return err
	}
	for _, w := range first {
		w.node.Joined = true
	}
	if err := l.save(); err != nil {
		return err
	}
	return l.join(ctx, fresh, token.GetToken())
}

// split tells nodes that have been a part of the cluster from new ones. Those
// that were removed are neither.
func (l *Lab) split() (old, fresh []*node) {
	for _, n := range l.Nodes {
		switch {
		case l.removed(n):
		case n.Joined:
			old = append(old, n)
		default:
			fresh = append(fresh, n)
		}
	}
	return old, fresh
}

// resume starts what does not run, all at once: they may need each other for a
// quorum.
func (l *Lab) resume(ctx context.Context, nodes []*node) error {
	var g errgroup.Group
	for _, n := range nodes {
		_, running := l.agent(n)
		_, kept := l.keeper(n)
		switch {
		case running && !l.held(n):
			l.say("%s runs already", n.Name)
		case kept:
			l.say("%s starts again", n.Name)
			g.Go(func() error { return l.Start(ctx, n.Name) })
		default:
			l.say("%s starts again", n.Name)
			w, err := l.start(n)
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			g.Go(func() error { return l.awaitAPI(ctx, w) })
		}
	}
	return g.Wait()
}

// join brings new nodes into the cluster.
func (l *Lab) join(ctx context.Context, nodes []*node, token string) error {
	if len(nodes) == 0 {
		return nil
	}
	file := filepath.Join(l.dir, "join.token")
	if err := writeAside(file, []byte(token+"\n")); err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }() // of no use any more, and a secret
	how := []string{"--token-file", file}
	old, _ := l.split()
	for _, n := range old[:min(len(old), 3)] {
		how = append(how, "--join", n.advertise())
	}
	errs := make([]error, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		l.say("%s joins", n.Name)
		w := &launch{node: n, done: make(chan struct{})} // one that was broken off, and runs
		if _, ok := l.keeper(n); !ok {
			var err error
			if w, err = l.start(n, how...); err != nil {
				return errors.Join(err, g.Wait())
			}
		}
		g.Go(func() error {
			errs[i] = l.awaitAPI(ctx, w)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	for i, n := range nodes {
		n.Joined = errs[i] == nil
	}
	first := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if first >= 0 {
		return errors.Join(l.save(), errs[first])
	}
	return l.save()
}

// Summary says what a newcomer may want to know of a lab that is up.
func (l *Lab) Summary() string {
	return fmt.Sprintf("lab %q is up: %d nodes, its API on 127.0.0.1:%d, context %q", l.Name, len(l.Nodes), l.Port, l.Context)
}
