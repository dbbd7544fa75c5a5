package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
	"github.com/skein-dev/skein/runtime/image"
	"github.com/skein-dev/skein/runtime/volume/volumetest"
)

// A world is one node in virtual time: a store that stands for the cluster, a
// driver that runs nothing, and a leader that hears what is reported.
type world struct {
	t       *testing.T
	store   *state.Store
	synced  chan struct{}
	driver  *containertest.Driver
	volumes volumetest.Volumes
	clock   atomic.Int64  // by how much this machine's wall clock is ahead, in ns
	theirs  time.Duration // by how much that of whoever deletes is

	mu      sync.Mutex
	deaf    bool // no leader
	reports []*skeinv1.ReportRequest
	written map[string]int64         // bytes of disk, by root file system
	absent  map[string]error         // images that cannot be had
	ensure  func(ask ImageAsk) error // in place of that
	node    *Node                    // as run runs it
}

func newWorld(t *testing.T, program containertest.Program) *world {
	w := &world{t: t, store: state.New(), synced: make(chan struct{}), driver: containertest.New(program), absent: map[string]error{}}
	close(w.synced)
	w.driver.SetClock(w.now)
	return w
}

func (w *world) now() time.Time { return time.Now().Round(0).Add(time.Duration(w.clock.Load())) }

// run runs a node until the returned function is called.
func (w *world) run() (stop func()) { return w.runNode(w.newNode()) }

func (w *world) newNode() *Node {
	return New(Config{
		Name: "n1", Address: netip.MustParseAddr("192.0.2.1"), Replica: w, Driver: w.driver, Images: w,
		Reporter: w, Lessor: w, Volumes: &w.volumes, Machine: Machine{CPUMilli: 2000, MemoryBytes: 1 << 30, Pods: 10}, Now: w.now, Logger: slog.New(slog.DiscardHandler),
	})
}

func (w *world) runNode(n *Node) (stop func()) {
	w.node = n
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}
}

// The replica.

func (w *world) Store() *state.Store      { return w.store }
func (w *world) SyncedC() <-chan struct{} { return w.synced }
func (w *world) Synced() bool {
	select {
	case <-w.synced:
		return true
	default:
		return false
	}
}

// The images: each is its own digest.

func (w *world) Ensure(_ context.Context, ask ImageAsk) (string, error) {
	if w.ensure != nil {
		return "sha256:" + ask.Reference, w.ensure(ask)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return "sha256:" + ask.Reference, w.absent[ask.Reference]
}

func (w *world) Config(context.Context, string) (image.Config, error) {
	return image.Config{Entrypoint: []string{"/run"}}, nil
}

func (w *world) Mounts(context.Context, string, string) ([]container.Mount, error) { return nil, nil }
func (w *world) Release(context.Context, string) error                             { return nil }
func (w *world) Used(_ context.Context, key string, most int) (int64, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.written[key]
	return n, n/4096 > int64(most), nil
}

func (w *world) Snapshots(context.Context) ([]string, error)              { return nil, nil }
func (w *world) Collect(context.Context) error                            { return nil }
func (w *world) Present(context.Context) ([]corev1.ContainerImage, error) { return nil, nil }
func (w *world) Changed() <-chan struct{}                                 { return nil }

var errNoLeader = errors.New("no leader")

// Report is what the leader does with a report: it writes the status of Pods.
func (w *world) Report(_ context.Context, req *skeinv1.ReportRequest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf {
		return errNoLeader
	}
	w.reports = append(w.reports, req)
	for _, p := range req.GetPods() {
		key := state.Key{Kind: object.KindPod, Namespace: p.GetNamespace(), Name: p.GetName()}
		row, ok := w.store.Get(key)
		if !ok || row.UID != p.GetUid() {
			continue
		}
		if p.GetGone() {
			w.commit(object.Delete(key, row.Version))
			continue
		}
		pod, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return err
		}
		pod.Status = corev1.PodStatus{} // not into the old one, of which something would stay
		if err := json.Unmarshal(p.GetStatus(), &pod.Status); err != nil {
			return err
		}
		w.putObject(pod)
	}
	return nil
}

func (w *world) commit(op *logv1.Op) {
	if err := w.store.Apply(w.store.Index()+1, &logv1.Txn{Ops: []*logv1.Op{op}}); err != nil {
		w.t.Error(err)
	}
}

func (w *world) putObject(obj object.Object) {
	op, err := object.Put(obj, object.AnyVersion)
	if err != nil {
		w.t.Error(err)
		return
	}
	w.commit(op)
}

// The story's verbs.

func newPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "c", Image: "web"}},
		},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func (w *world) get(name string) *corev1.Pod {
	w.t.Helper()
	row, ok := w.store.Get(state.Key{Kind: object.KindPod, Namespace: "default", Name: name})
	if !ok {
		return nil
	}
	pod, err := object.Decode[corev1.Pod](row)
	if err != nil {
		w.t.Fatal(err)
	}
	return pod
}

func (w *world) delete(name string, grace int64) {
	pod := w.get(name)
	pod.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(w.theirs + time.Duration(grace)*time.Second)}
	pod.DeletionGracePeriodSeconds = &grace
	w.putObject(pod)
}

// running lists the containers of a Pod that run now.
func (w *world) running(name string) []container.Status {
	w.t.Helper()
	list, err := w.driver.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var out []container.Status
	for _, s := range list {
		if s.ID.Pod == "uid-"+name && s.State == container.Running {
			out = append(out, s)
		}
	}
	return out
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Lease grants all while there is a leader.
func (w *world) Lease(_ context.Context, pods []string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf {
		return nil, errNoLeader
	}
	return pods, nil
}
