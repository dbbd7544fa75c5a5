package node

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	"github.com/skein-dev/skein/runtime/container"
)

// restAddress is how long an address that a Pod has given back is had by nobody, so
// that nobody who still speaks to that Pod reaches another.
const restAddress = time.Minute

// An addresses hands out the addresses of this machine's blocks. No other machine
// has these blocks, so nobody need be asked. What is in use is read from the
// sandboxes that are here.
type addresses struct {
	now func() time.Time

	mu     sync.Mutex
	blocks []netip.Prefix
	known  bool // what is in use was read
	held   map[string]netip.Addr
	taken  map[netip.Addr]string
	rests  map[netip.Addr]time.Time // until when
	last   netip.Addr               // handed out last: the search goes on from there
}

func newAddresses() *addresses {
	return &addresses{now: time.Now, held: map[string]netip.Addr{}, taken: map[netip.Addr]string{}, rests: map[netip.Addr]time.Time{}}
}

var errNoBlock = errors.New("the leader has given this node no addresses for Pods yet")

// learn takes in the sandboxes that an earlier agent has left, once.
func (a *addresses) learn(list []container.Sandbox) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known {
		return
	}
	a.known = true
	for _, s := range list {
		if s.Address.IsValid() {
			a.held[s.Pod], a.taken[s.Address] = s.Address, s.Pod
			if a.last.Less(s.Address) {
				a.last = s.Address
			}
		}
	}
}

// use says which blocks are this machine's. A Pod keeps an address of a block that
// is so no more.
func (a *addresses) use(blocks []netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blocks = blocks
}

// take gives a Pod its address: always the same until it is given back.
func (a *addresses) take(pod string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if addr, ok := a.held[pod]; ok {
		return addr, nil
	}
	if !a.known || len(a.blocks) == 0 {
		return netip.Addr{}, errNoBlock
	}
	now := a.now()
	for addr, until := range a.rests {
		if !now.Before(until) {
			delete(a.rests, addr)
		}
	}
	addr, ok := a.free()
	if !ok {
		return netip.Addr{}, fmt.Errorf("no free address in %s: %d are in use, and %d rest for a minute", names(a.blocks), len(a.taken), len(a.rests))
	}
	a.held[pod], a.taken[addr], a.last = addr, pod, addr
	return addr, nil
}

// free finds the next address that nobody has. With mu held.
func (a *addresses) free() (netip.Addr, bool) {
	start := 0
	for i, b := range a.blocks {
		if b.Contains(a.last) {
			start = i
		}
	}
	for i := range len(a.blocks) + 1 { // the first one twice: after the last, and before it
		b := a.blocks[(start+i)%len(a.blocks)]
		addr := b.Addr().Next() // its first one is the machine's own, to be reached by
		if i == 0 && b.Contains(a.last) {
			addr = a.last.Next()
		}
		for ; b.Contains(addr) && b.Contains(addr.Next()); addr = addr.Next() { // nor its last, a broadcast of old
			if _, used := a.taken[addr]; used {
				continue
			}
			if _, rests := a.rests[addr]; !rests {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// of is the address that a Pod has; the zero one, if it has none.
func (a *addresses) of(pod string) netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held[pod]
}

// give takes a Pod's address back, once nothing is left of it here.
func (a *addresses) give(pod string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if addr, ok := a.held[pod]; ok {
		delete(a.held, pod)
		delete(a.taken, addr)
		a.rests[addr] = a.now().Add(restAddress)
	}
}

func names(blocks []netip.Prefix) string {
	var out []string
	for _, b := range blocks {
		out = append(out, b.String())
	}
	return strings.Join(out, ", ")
}

// address gives a Pod its address, if it is to have one of its own.
func (n *Node) address(pod *corev1.Pod) (netip.Addr, error) {
	if n.cfg.Network == nil || pod.Spec.HostNetwork {
		return netip.Addr{}, nil
	}
	if addr := n.addresses.of(string(pod.UID)); addr.IsValid() {
		return addr, nil
	}
	row, ok := n.cfg.Replica.Store().Get(state.Key{Kind: object.KindNode, Name: n.cfg.Name})
	if !ok {
		return netip.Addr{}, errNoBlock
	}
	self, err := object.Decode[corev1.Node](row)
	if err != nil {
		return netip.Addr{}, err
	}
	n.addresses.use(object.PodBlocks(self))
	return n.addresses.take(string(pod.UID))
}
