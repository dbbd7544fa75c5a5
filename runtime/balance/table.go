package balance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Table is the one in the kernel, and what of it this process has written.
type Table struct {
	mu     sync.Mutex
	conn   *nftables.Conn
	layout *layout
	cfg    Config
	ns     int  // of the network; 0: that of the thread
	whole  bool // what the kernel has is what was written last, as far as is known

	fronts map[Frontend]*front
	next   uint32
	free   []uint32
	elems  map[*nftables.Set]map[string][]byte // of the sets that are written whole: key to end of range
	class  map[string]uint32
}

// A front is a Frontend as it is in the kernel.
type front struct {
	id    uint32 // with the kind of mark
	count uint32
	slots []netip.AddrPort
	is    Service
}

// socketBuffer holds the answers to a batch of thousands of elements, in bytes.
const socketBuffer = 16 << 20

// Open talks to the kernel of the network that the calling thread is in, and writes
// nothing yet.
func Open() (*Table, error) { return open(0) }

// OpenAt is Open for a network namespace, by its descriptor.
func OpenAt(ns int) (*Table, error) { return open(ns) }

func open(ns int) (*Table, error) {
	opts := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	})}
	if ns > 0 {
		opts = append(opts, nftables.WithNetNSFd(ns))
	}
	conn, err := nftables.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("talk to nftables: %w", err)
	}
	return &Table{conn: conn, ns: ns, fronts: map[Frontend]*front{}, class: map[string]uint32{}}, nil
}

// Close lets go of the kernel. The table stays.
func (t *Table) Close() error { return t.conn.CloseLasting() }

// Remove takes the table away.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.whole = false
	t.conn.DelTable(&nftables.Table{Name: Name, Family: nftables.TableFamilyIPv4})
	if err := t.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the table %s: %w", Name, err)
	}
	return nil
}

// Set makes the table so. Where the kernel has what this process wrote last, only
// differences are written. Else the whole table is replaced, in one step: there is
// no moment without it, and established connections go on.
func (t *Table) Set(ctx context.Context, cfg Config) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := fitting(cfg.Frontends); err != nil {
		return err
	}
	if t.whole && t.fits(cfg) {
		change := whole(cfg)
		for f := range t.fronts {
			if _, still := cfg.Frontends[f]; !still {
				change.Delete = append(change.Delete, f)
			}
		}
		if err := t.write(cfg, change); err == nil {
			return nil
		}
	}
	return t.replace(cfg)
}

// fits tells whether the chains would be the same.
func (t *Table) fits(cfg Config) bool {
	return t.cfg.Pods == cfg.Pods && t.cfg.Services == cfg.Services && t.cfg.Tunnel == cfg.Tunnel && t.cfg.Resolver == cfg.Resolver
}

// Apply changes some frontends. It costs the same whatever others there are. Where
// somebody else has changed the table meanwhile, it is replaced.
func (t *Table) Apply(ctx context.Context, change Change) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.layout == nil {
		return errors.New("change a table that was never set")
	}
	if err := fitting(change.Put); err != nil {
		return err
	}
	if t.whole {
		if err := t.write(t.with(change), change); err == nil {
			return nil
		}
	}
	return t.replace(t.all(change))
}

// whole is the change from nothing.
func whole(cfg Config) Change {
	return Change{Put: cfg.Frontends, Nodes: &cfg.Nodes, Here: &cfg.Here, Policy: &cfg.Policy}
}

// with is what the table is to be after a change, Frontends aside.
func (t *Table) with(change Change) Config {
	cfg := t.cfg
	if change.Nodes != nil {
		cfg.Nodes = *change.Nodes
	}
	if change.Here != nil {
		cfg.Here = *change.Here
	}
	if change.Policy != nil {
		cfg.Policy = *change.Policy
	}
	return cfg
}

// all is what the table is to be after a change.
func (t *Table) all(change Change) Config {
	cfg := t.with(change)
	cfg.Frontends = map[Frontend]Service{}
	for f, have := range t.fronts {
		cfg.Frontends[f] = have.is
	}
	for _, f := range change.Delete {
		delete(cfg.Frontends, f)
	}
	maps.Copy(cfg.Frontends, change.Put)
	return cfg
}

// replace writes all of the table anew.
func (t *Table) replace(cfg Config) error {
	t.whole = false
	t.layout = newLayout()
	t.fronts, t.next, t.free = map[Frontend]*front{}, 0, nil
	t.elems, t.class = map[*nftables.Set]map[string][]byte{}, map[string]uint32{}
	t.conn.AddTable(t.layout.table) // so that there is one to delete
	t.conn.DelTable(t.layout.table)
	if err := t.layout.build(t.conn, cfg); err != nil {
		return fmt.Errorf("write the table %s: %w", Name, err)
	}
	t.cfg = cfg
	return t.write(cfg, whole(cfg))
}

// write adds what is different to the batch and sends it. What the kernel then has is
// not known if that fails.
func (t *Table) write(cfg Config, change Change) error {
	t.whole = false
	b := &batch{conn: t.conn, add: map[*nftables.Set][]nftables.SetElement{}, del: map[*nftables.Set][]nftables.SetElement{}}
	for _, f := range change.Delete {
		t.remove(b, f)
	}
	for f, s := range change.Put {
		if err := t.put(b, f, s); err != nil {
			return err
		}
	}
	t.plain(b, cfg, change)
	if err := b.flush(); err != nil {
		return fmt.Errorf("write to the table %s: %w", Name, err)
	}
	t.cfg, t.whole = cfg, true
	t.cfg.Frontends = nil // they are in fronts
	return nil
}

func (t *Table) put(b *batch, f Frontend, s Service) error {
	have := t.fronts[f]
	kept := f.Addr.IsValid() || s.Keep
	if have != nil && (have.id&markKind == markKept) != kept {
		t.remove(b, f)
		have = nil
	}
	if have == nil {
		have = &front{id: t.number(kept), count: countRefuse - 1}
		t.fronts[f] = have
		set, key := t.keyOf(f)
		b.put(set, key, number(have.id))
	} else if sameService(have.is, s) {
		return nil
	}
	slots := slotsOf(s, have.slots)
	for i, old := range have.slots {
		if i >= len(slots) || slots[i] != old {
			b.delete(t.layout.eps, slotKey(have.id, i), endpoint(old))
		}
	}
	for i, e := range slots {
		if i >= len(have.slots) || have.slots[i] != e {
			b.put(t.layout.eps, slotKey(have.id, i), endpoint(e))
		}
	}
	count := uint32(len(slots)) //nolint:gosec // bounded
	switch {
	case count == 0 && s.Silent:
		count = countSilent
	case count == 0:
		count = countRefuse
	case s.Affinity:
		count = countSticky
	default:
		if err := t.layout.chainFor(t.conn, count); err != nil {
			return err
		}
	}
	if count != have.count {
		if have.count != countRefuse-1 {
			b.delete(t.layout.counts, number(have.id), number(have.count))
		}
		b.put(t.layout.counts, number(have.id), number(count))
	}
	have.slots, have.count, have.is = slots, count, s
	return nil
}

func sameService(a, b Service) bool {
	return a.Affinity == b.Affinity && a.Keep == b.Keep && a.Silent == b.Silent && slices.Equal(a.Endpoints, b.Endpoints)
}

func (t *Table) remove(b *batch, f Frontend) {
	have := t.fronts[f]
	if have == nil {
		return
	}
	set, key := t.keyOf(f)
	b.delete(set, key, number(have.id))
	b.delete(t.layout.counts, number(have.id), number(have.count))
	for i, e := range have.slots {
		b.delete(t.layout.eps, slotKey(have.id, i), endpoint(e))
	}
	t.free = append(t.free, have.id&^uint32(markKind))
	delete(t.fronts, f)
}

// number gives a frontend its mark.
func (t *Table) number(kept bool) uint32 {
	n := t.next
	if last := len(t.free) - 1; last >= 0 {
		n, t.free = t.free[last], t.free[:last]
	} else {
		t.next++
	}
	if kept {
		return markKept | n
	}
	return markMasked | n
}

func (t *Table) keyOf(f Frontend) (*nftables.Set, []byte) {
	if f.Addr.IsValid() {
		return t.layout.svc, join(addrKey(f.Addr), protoKey(f.Protocol), portKey(f.Port))
	}
	return t.layout.nodeport, join(protoKey(f.Protocol), portKey(f.Port))
}

func slotKey(id uint32, slot int) []byte { return join(number(id), number(uint32(slot))) } //nolint:gosec // bounded

func endpoint(e netip.AddrPort) []byte { return join(addrKey(e.Addr()), portKey(e.Port())) }

// fitting refuses what is too much before anything is written.
func fitting(fronts map[Frontend]Service) error {
	for f, s := range fronts {
		if len(s.Endpoints) > MaxEndpoints {
			return fmt.Errorf("%d endpoints behind port %d of %s: at most %d", len(s.Endpoints), f.Port, f.Addr, MaxEndpoints)
		}
	}
	return nil
}

// A batch gathers elements, so that there is one message for many.
type batch struct {
	conn     *nftables.Conn
	add, del map[*nftables.Set][]nftables.SetElement
}

func (b *batch) put(s *nftables.Set, key, val []byte) {
	b.add[s] = append(b.add[s], nftables.SetElement{Key: key, Val: val})
}

func (b *batch) delete(s *nftables.Set, key, val []byte) {
	b.del[s] = append(b.del[s], nftables.SetElement{Key: key, Val: val})
}

// perMessage bounds the elements of one message, whose length has 16 bits.
const perMessage = 256

// flush sends deletions before additions: a key may be in both.
func (b *batch) flush() error {
	for s, list := range b.del {
		for part := range slices.Chunk(list, perMessage) {
			if err := b.conn.SetDeleteElements(s, part); err != nil {
				return err
			}
		}
	}
	for s, list := range b.add {
		for part := range slices.Chunk(list, perMessage) {
			if err := b.conn.SetAddElements(s, part); err != nil {
				return err
			}
		}
	}
	return b.conn.Flush()
}
