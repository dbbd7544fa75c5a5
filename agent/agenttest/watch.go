package agenttest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A watched is what one user believes the Deployments to be, by streams alone.
type watched struct {
	mu       sync.Mutex
	versions map[string]uint64 // by namespace/name
	synced   bool              // nothing of the present stream is outstanding
}

func newWatched() *watched { return &watched{versions: map[string]uint64{}} }

// belief returns the versions, and whether a stream has brought all of them.
func (w *watched) belief() (map[string]uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.versions), w.synced
}

// take applies one message. Within a stream a version never goes back.
func (w *watched) take(msg *skeinv1.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if msg.GetReset_() {
		clear(w.versions)
		w.synced = false
	}
	if doc := msg.GetDocument(); len(doc) > 0 {
		var d appsv1.Deployment
		if err := json.Unmarshal(doc, &d); err != nil {
			return err
		}
		version, err := strconv.ParseUint(d.ResourceVersion, 10, 64)
		if err != nil {
			return err
		}
		key := d.Namespace + "/" + d.Name
		if have := w.versions[key]; version < have {
			return fmt.Errorf("%s came with version %d after %d", key, version, have)
		}
		w.versions[key] = version
	}
	for _, key := range msg.GetDeleted() {
		delete(w.versions, key)
	}
	w.synced = w.synced || msg.GetSynced()
	return nil
}

func (w *watched) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.synced = false
	clear(w.versions)
}

// watch follows the Deployments, at one machine after the other.
func (u *users) watch(ctx context.Context, random *rand.Rand, number int) {
	for ctx.Err() == nil {
		m := u.cluster.machines[random.IntN(len(u.cluster.machines))]
		if err := u.watchOnce(ctx, number, m); err != nil && ctx.Err() == nil {
			u.cluster.trace.add("user", "%d watch at %s ended: %v", number, m.Name, err)
		}
		pause := time.NewTimer(300 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

func (u *users) watchOnce(ctx context.Context, number int, m *Machine) error {
	p := u.cluster.person(number, m)
	defer p.close()
	defer u.watched.lost()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.Watch(ctx, &skeinv1.GetRequest{Kind: "deployment", Format: skeinv1.Format_FORMAT_JSON})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for {
		msg, err := stream.Receive()
		if err != nil {
			return err
		}
		if err := u.watched.take(msg); err != nil {
			u.cluster.fail("watch at %s: %v", m.Name, err)
		}
	}
}
