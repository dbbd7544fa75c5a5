package leader

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// The rounds in which a gossip key is replaced. Between two of them every agent
// must have heard of the last one; who was away for longer hears it from the
// leader's stream, which needs no gossip.
const (
	keyLife  = 24 * time.Hour
	keyRound = 10 * time.Minute
	keyBytes = 32
)

// turnKeys makes the keyring if there is none, and brings the replacement of its
// key one round further when that is due.
func (r *reign) turnKeys(ctx context.Context) error {
	for range 5 {
		again, err := r.turnKey(ctx)
		if conflict(err) {
			continue
		}
		if err != nil {
			return err
		}
		return reconcile.After(again)
	}
	return errors.New("the keyring keeps changing")
}

func (r *reign) turnKey(ctx context.Context) (again time.Duration, err error) {
	key := state.Key{Kind: object.KindKeyring, Name: object.KeyringName}
	ring := &object.Keyring{ObjectMeta: metav1.ObjectMeta{
		Name: key.Name, UID: types.UID(r.UID()), CreationTimestamp: stamp(r.Now()),
	}}
	version := uint64(0)
	if row, ok := r.store.Get(key); ok {
		if ring, err = object.Decode[object.Keyring](row); err != nil {
			return 0, err
		}
		version = row.Version
	} else if !r.model.enrolled() {
		// A new cluster is still being written: its first key is the one that
		// its first node already seals with.
		return time.Second, nil
	}
	now := r.Now()
	keys, again := nextKeys(ring.Spec.Keys, now, freshKey)
	if keys == nil {
		return again, nil
	}
	ring.Spec.Keys = keys
	op, err := object.Put(ring, version)
	if err != nil {
		return 0, err
	}
	if _, err := r.Consensus.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{op}}); err != nil {
		return 0, fmt.Errorf("write keyring: %w", err)
	}
	r.log.Info("gossip keys turned", "count", len(keys))
	_, again = nextKeys(keys, now, freshKey)
	return again, nil
}

// nextKeys plans the next round: a new key that only opens, then the new key
// seals, then the old one goes. The answer is nil while nothing is due, and in
// any case says when to ask again. The first key seals, all of them open; how
// far the replacement is can be read from their order and age.
func nextKeys(have []object.SealKey, now time.Time, fresh func(time.Time) object.SealKey) (keys []object.SealKey, again time.Duration) {
	if len(have) == 0 {
		return []object.SealKey{fresh(now)}, keyLife
	}
	if len(have) == 1 {
		if left := keyLife - now.Sub(have[0].Created.Time); left > 0 {
			return nil, left
		}
		return []object.SealKey{have[0], fresh(now)}, keyRound
	}
	first, last := have[0], have[len(have)-1]
	if last.Created.After(first.Created.Time) { // the newest does not seal yet
		if left := keyRound - now.Sub(last.Created.Time); left > 0 {
			return nil, left
		}
		return append([]object.SealKey{last}, have[:len(have)-1]...), keyRound
	}
	if left := 2*keyRound - now.Sub(first.Created.Time); left > 0 {
		return nil, left
	}
	return []object.SealKey{first}, keyLife
}

func freshKey(now time.Time) object.SealKey {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	return object.SealKey{Key: key, Created: stamp(now)}
}
