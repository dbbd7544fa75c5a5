package balance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Check reads the table back and says in words what in it is not as it was written.
func (t *Table) Check(ctx context.Context) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return t.check()
}

// Repair replaces the table if somebody else has changed it, and tells whether.
func (t *Table) Repair(ctx context.Context) (repaired bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if t.layout == nil {
		return false, nil
	}
	wrong, err := t.check()
	if err == nil && len(wrong) == 0 && t.whole {
		return false, nil
	}
	return true, t.replace(t.all(Change{}))
}

func (t *Table) check() ([]string, error) {
	if t.layout == nil {
		return []string{"the table " + Name + " was not written yet"}, nil
	}
	var wrong []string
	for chain, want := range t.layout.count {
		rules, err := t.conn.GetRules(t.layout.table, chain)
		if missing(err) {
			return []string{"the table " + Name + " is not there, or not whole"}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the chain %s: %w", chain.Name, err)
		}
		if len(rules) != want {
			wrong = append(wrong, fmt.Sprintf("the chain %s has %d rules, and should have %d", chain.Name, len(rules), want))
		}
	}
	for set, want := range t.expected() {
		elements, err := t.conn.GetSetElements(set)
		if missing(err) {
			return append(wrong, "the set "+set.Name+" is not there"), nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the set %s: %w", set.Name, err)
		}
		more, other := 0, 0
		for _, e := range elements {
			val, there := want[string(e.Key)]
			switch {
			case !there:
				more++
			case set.Interval && !bytes.Equal(e.KeyEnd, val), set.IsMap && !bytes.Equal(worth(e, set), val):
				other++
			}
			delete(want, string(e.Key))
		}
		if more+other+len(want) > 0 {
			wrong = append(wrong, fmt.Sprintf("in the set %s %d elements are missing, %d are too many and %d are others", set.Name, len(want), more, other))
		}
	}
	return wrong, nil
}

// worth is what an element of a map leads to: of a verdict, the chain's name.
func worth(e nftables.SetElement, of *nftables.Set) []byte {
	if of.DataType != nftables.TypeVerdict {
		return e.Val
	}
	attrs, err := netlink.UnmarshalAttributes(e.Val) // the library leaves verdicts as they come
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Type == unix.NFTA_VERDICT_CHAIN {
			return bytes.TrimRight(a.Data, "\x00")
		}
	}
	return nil
}

func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, fs.ErrNotExist) }

// expected is what was written to each set.
func (t *Table) expected() map[*nftables.Set]map[string][]byte {
	l := t.layout
	out := map[*nftables.Set]map[string][]byte{l.svc: {}, l.nodeport: {}, l.counts: {}, l.eps: {}, l.dispatch: {}}
	for count, chain := range l.special() {
		out[l.dispatch][string(number(count))] = []byte(chain.Name)
	}
	for count, chain := range l.chains {
		out[l.dispatch][string(number(count))] = []byte(chain.Name)
	}
	for f, have := range t.fronts {
		set, key := t.keyOf(f)
		out[set][string(key)] = number(have.id)
		out[l.counts][string(number(have.id))] = number(have.count)
		for i, e := range have.slots {
			out[l.eps][string(slotKey(have.id, i))] = endpoint(e)
		}
	}
	for set, elems := range t.elems {
		out[set] = map[string][]byte{}
		for key, val := range elems {
			out[set][key] = val
		}
	}
	return out
}
