package leader

import (
	"context"
	"errors"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A node is given so many addresses for each Pod that it takes: those of Pods that
// are gone rest for a while.
const blockShare = 5.0 / 4

var errNoBlocks = errors.New("the cluster has no block of addresses left for a node's Pods")

// giveBlocks gives each node the addresses of its Pods. A block is one node's, from
// the entry in the log that says so until the node is removed.
func (r *reign) giveBlocks(ctx context.Context) error {
	for {
		err := r.giveOnce(ctx)
		if !conflict(err) {
			return err
		}
		r.model.stir(ctx)
	}
}

func (r *reign) giveOnce(ctx context.Context) error {
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !r.lacksBlocks() {
		return nil
	}
	used := map[netip.Prefix]bool{}
	type lack struct {
		node *corev1.Node
		at   uint64
		n    int
	}
	var lacks []lack
	for _, row := range r.store.List(object.KindNode, "", "") {
		n, err := object.Decode[corev1.Node](row)
		if err != nil {
			return err
		}
		have := object.PodBlocks(n)
		for _, b := range have {
			used[b] = true
		}
		if missing := blocksFor(n.Status.Capacity.Pods().Value()) - len(have); missing > 0 {
			lacks = append(lacks, lack{n, row.Version, missing})
		}
	}
	var ops []*logv1.Op
	next := netip.PrefixFrom(object.PodRange.Addr(), object.BlockBits)
	for _, l := range lacks {
		blocks := object.PodBlocks(l.node)
		for range l.n {
			for used[next] {
				next = after(next)
			}
			if !object.PodRange.Contains(next.Addr()) {
				return errNoBlocks
			}
			used[next] = true
			blocks = append(blocks, next)
		}
		object.SetPodBlocks(l.node, blocks)
		op, err := object.Put(l.node, l.at)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	_, err = r.commit(ctx, ops)
	return err
}

// lacksBlocks tells whether some node has too few, without reading any.
func (r *reign) lacksBlocks() bool {
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	for _, n := range r.model.nodes {
		if n.blocks < blocksFor(n.capacity) {
			return true
		}
	}
	return false
}

// blocksFor is how many blocks a node has that takes so many Pods.
func blocksFor(pods int64) int {
	const each = 1<<(32-object.BlockBits) - 2
	return max(1, int((float64(pods)*blockShare+each-1)/each))
}

func after(p netip.Prefix) netip.Prefix {
	b := p.Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += 1 << (32 - p.Bits())
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), p.Bits())
}
