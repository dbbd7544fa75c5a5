// Package traffictest has a kernel's part of the network in memory, for machines
// that are simulated and for tests of what is told to it.
package traffictest

import (
	"context"
	"maps"
	"net/netip"
	"sync"

	"github.com/skein-dev/skein/runtime/balance"
	"github.com/skein-dev/skein/runtime/dns"
	"github.com/skein-dev/skein/runtime/fabric"
)

// A Table is a table of Services in memory.
type Table struct {
	mu     sync.Mutex
	cfg    balance.Config
	buried []netip.Addr
}

// Set takes in the whole.
func (t *Table) Set(ctx context.Context, cfg balance.Config) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cfg = cfg
	t.cfg.Frontends = maps.Clone(cfg.Frontends)
	return ctx.Err()
}

// Apply takes in a change.
func (t *Table) Apply(ctx context.Context, change balance.Change) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.Frontends == nil {
		t.cfg.Frontends = map[balance.Frontend]balance.Service{}
	}
	for _, f := range change.Delete {
		delete(t.cfg.Frontends, f)
	}
	maps.Copy(t.cfg.Frontends, change.Put)
	if change.Nodes != nil {
		t.cfg.Nodes = *change.Nodes
	}
	if change.Here != nil {
		t.cfg.Here = *change.Here
	}
	if change.Policy != nil {
		t.cfg.Policy = *change.Policy
	}
	return ctx.Err()
}

// Config is what it is by now.
func (t *Table) Config() balance.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.cfg
	out.Frontends = maps.Clone(t.cfg.Frontends)
	return out
}

// Repair finds nothing wrong.
func (*Table) Repair(ctx context.Context) (bool, error) { return false, ctx.Err() }

// Watch sees nobody else.
func (*Table) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// Check finds nothing wrong.
func (*Table) Check(ctx context.Context) ([]string, error) { return nil, ctx.Err() }

// Forget notes who is gone.
func (t *Table) Forget(gone []netip.Addr, _ ...balance.Protocol) (uint, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buried = append(t.buried, gone...)
	return 0, nil
}

// Buried are the endpoints that were forgotten.
func (t *Table) Buried() []netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]netip.Addr(nil), t.buried...)
}

// Remove forgets all.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cfg = balance.Config{}
	return nil
}

// Remove forgets all.
func (f *Fabric) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cfg = fabric.Config{}
	return nil
}

// A Fabric is the ways to other machines in memory.
type Fabric struct {
	mu  sync.Mutex
	cfg fabric.Config
}

// Set takes them in.
func (f *Fabric) Set(ctx context.Context, cfg fabric.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cfg = cfg
	return ctx.Err()
}

// Config is what they are by now.
func (f *Fabric) Config() fabric.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cfg
}

// Watch sees no change.
func (*Fabric) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// Check finds nothing wrong.
func (*Fabric) Check(ctx context.Context) ([]string, error) { return nil, ctx.Err() }

// Path is direct to everybody.
func (*Fabric) Path(string) (kind, via string) { return "direct", "" }

// MTU is Ethernet's.
func (*Fabric) MTU() int { return 1500 }

// A Names is names in memory, that nobody can ask for.
type Names struct {
	mu  sync.Mutex
	all map[string]dns.Entry
}

// Set takes in the whole.
func (n *Names) Set(all map[string]dns.Entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = maps.Clone(all)
}

// Apply takes in a change.
func (n *Names) Apply(put map[string]dns.Entry, gone []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range gone {
		delete(n.all, key)
	}
	maps.Copy(n.all, put)
}

// Entries are what they are by now.
func (n *Names) Entries() map[string]dns.Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.all)
}

// Run waits.
func (*Names) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
