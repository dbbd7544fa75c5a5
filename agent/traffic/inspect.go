package traffic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A Report is what a node believes of the network, and what came of trying it.
type Report struct {
	Index     uint64   // up to where in the log all is in force
	Names     string   // a hash of Services and their ready endpoints, the same on all nodes
	Services  int      // how many there are
	MTU       int      // of Pods, in bytes
	Wrong     []string // what in the kernel is not as it was written
	Paths     map[string]string
	Unreached map[string]string
}

const (
	reachPatience = 2 * time.Second
	// reachPort is one at which hardly anybody listens: that it is refused shows that
	// packets go there and back.
	reachPort = 9
)

// Inspect tells what this node believes, and tries to reach Pods of others, by node.
func (t *Traffic) Inspect(ctx context.Context, pods map[string]netip.Addr) (Report, error) {
	r := Report{Paths: map[string]string{}, Unreached: map[string]string{}}
	t.mu.Lock()
	r.MTU, r.Services, r.Names, r.Index = t.MTU(), len(t.model.services), t.digest(), t.acks.last()
	begun := t.begun
	for name := range t.model.nodes {
		if name != t.cfg.Node {
			r.Paths[name], _ = t.cfg.Fabric.Path(name)
		}
	}
	t.mu.Unlock()
	if !begun {
		r.Wrong = append(r.Wrong, "the table of Services was not written yet")
		return r, nil
	}
	table, err := t.cfg.Table.Check(ctx)
	if err != nil {
		return r, fmt.Errorf("check the table of Services: %w", err)
	}
	ways, err := t.cfg.Fabric.Check(ctx)
	if err != nil {
		return r, fmt.Errorf("check the routes to other nodes: %w", err)
	}
	r.Wrong = append(append(r.Wrong, table...), ways...)
	var mu sync.Mutex
	var tries sync.WaitGroup
	for name, addr := range pods {
		tries.Go(func() {
			if err := t.reach(ctx, addr); err != nil {
				mu.Lock()
				defer mu.Unlock()
				r.Unreached[name] = err.Error()
			}
		})
	}
	tries.Wait()
	return r, nil
}

// reach sends a packet to a Pod that is answered, whoever listens there.
func (*Traffic) reach(ctx context.Context, addr netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(addr, reachPort).String())
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if ctx.Err() != nil {
		return errors.New("no answer")
	}
	return err
}

// digest is a hash of what Services lead to, but for what is this node's own affair.
// With mu held.
func (t *Traffic) digest() string {
	h := sha256.New()
	for _, key := range t.model.all() {
		s := t.model.services[key]
		fmt.Fprintln(h, key, s.Spec.ClusterIP, s.Spec.Type, s.Spec.ExternalName)
		for i := range s.Spec.Ports {
			fmt.Fprintln(h, s.Spec.Ports[i].Name, s.Spec.Ports[i].Port, s.Spec.Ports[i].NodePort)
		}
		e := entryOf(s)
		fmt.Fprintln(h, e.Addrs, e.Hosts, e.Alias)
		for _, slice := range s.slices {
			for i := range slice.Endpoints {
				end := &slice.Endpoints[i]
				fmt.Fprintln(h, end.Addresses, isTrue(end.Conditions.Ready), nodeName(end))
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// last is up to where all is in force.
func (a *acks) last() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}
