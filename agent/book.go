package agent

import (
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
)

// A book keeps what gossip and handshakes ask of every Node, decoded once for
// each version: they ask whenever anything happens to anybody.
type book struct {
	mu    sync.Mutex
	pages map[string]page
}

type page struct {
	uid     string
	version uint64

	key  string         // fingerprint of the node's own
	zone string         // "" where nobody has said
	addr netip.AddrPort // where it was last, zero if that is not known
}

// maxPages bounds the book: rows of nodes that are no more are dropped with it.
const maxPages = 20_000

// open reads a Node's row. It reports whether it could.
func (b *book) open(row *state.Row) (page, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pages[row.Key.Name]
	if ok && p.uid == row.UID && p.version == row.Version {
		return p, true
	}
	n, err := object.Decode[corev1.Node](row)
	if err != nil {
		return page{}, false
	}
	p = page{
		uid: row.UID, version: row.Version,
		key: n.Annotations[object.AnnotationKey], zone: n.Labels[object.LabelZone],
	}
	p.addr, _ = netip.ParseAddrPort(n.Annotations[object.AnnotationAdvertise]) // zero says so
	if b.pages == nil || len(b.pages) >= maxPages {
		b.pages = map[string]page{}
	}
	b.pages[row.Key.Name] = p
	return p, true
}

// page reads what is known of a node: from the log where this agent holds it,
// else from its copy of what concerns it.
func (a *Agent) page(name string) (page, bool) {
	key := state.Key{Kind: object.KindNode, Name: name}
	row, ok := a.raft.Store().Get(key)
	if !ok {
		row, ok = a.replica.Store().Get(key)
	}
	if !ok {
		return page{}, false
	}
	return a.book.open(row)
}
