package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
)

// runningIn finds the run of a Pod's container that runs now; of the first one
// where none is named.
func (n *Node) runningIn(uid, name string) (container.ID, error) {
	pod, err := n.pod(types.UID(uid))
	if err != nil {
		return container.ID{}, err
	}
	if pod == nil {
		return container.ID{}, fmt.Errorf("no such Pod here: %w", container.ErrNotFound)
	}
	if name == "" {
		name = pod.Spec.Containers[0].Name
	}
	for _, s := range attemptsOf(name, n.statuses(pod.UID)) {
		if s.State == container.Running {
			return s.ID, nil
		}
	}
	return container.ID{}, fmt.Errorf("container %q does not run: %w", name, container.ErrNotFound)
}

// PodExec runs a program in a container of a Pod that runs here.
func (n *Node) PodExec(ctx context.Context, uid, name string, spec container.ExecSpec) (int, error) {
	id, err := n.runningIn(uid, name)
	if err != nil {
		return 0, err
	}
	return n.cfg.Driver.Exec(ctx, id, spec)
}

// PodAttach joins the input and output of such a container. With Replay it may
// have ended already.
func (n *Node) PodAttach(ctx context.Context, uid, name string, spec container.AttachSpec) (int, error) {
	id, err := n.runningIn(uid, name)
	if errors.Is(err, container.ErrNotFound) && spec.Replay {
		var ids []container.ID
		if ids, err = n.runs(ctx, uid, name, false); err == nil {
			id = ids[0]
		}
	}
	if err != nil {
		return 0, err
	}
	return n.cfg.Driver.Attach(ctx, id, spec)
}

// PodCopyOut writes a tar of what is in such a container.
func (n *Node) PodCopyOut(ctx context.Context, uid, name, path string, w io.Writer) ([]string, error) {
	id, err := n.runningIn(uid, name)
	if err != nil {
		return nil, err
	}
	return n.cfg.Driver.CopyOut(ctx, id, path, w)
}

// PodCopyIn unpacks a tar in such a container.
func (n *Node) PodCopyIn(ctx context.Context, uid, name string, spec container.CopySpec, r io.Reader) ([]string, error) {
	id, err := n.runningIn(uid, name)
	if err != nil {
		return nil, err
	}
	return n.cfg.Driver.CopyIn(ctx, id, spec, r)
}

// PodDial connects to a port in the network of a Pod that runs here.
func (n *Node) PodDial(ctx context.Context, uid string, port uint16) (net.Conn, error) {
	pod, err := n.pod(types.UID(uid))
	if err != nil {
		return nil, err
	}
	if pod == nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, fmt.Errorf("no such Pod here: %w", container.ErrNotFound)
	}
	conn, err := n.cfg.Driver.Dial(ctx, uid, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("port %d of pod %s: %w", port, pod.Name, err)
	}
	return conn, nil
}

// A meter tells what the containers of this machine use. It samples only when
// it is asked: by whoever asks again soon it is answered at once, from then to
// now, and the first one waits for two samples.
type meter struct {
	usage func(context.Context) ([]container.Usage, error)

	mu   sync.Mutex // held while sampling: who asks meanwhile gets the same
	last map[container.ID]container.Usage
	at   time.Time
	told []*skeinv1.ContainerUsage
}

// How far apart two samples are that are compared.
const (
	meterLeast = 500 * time.Millisecond
	meterFirst = time.Second
	meterMost  = 15 * time.Second
)

// Usage tells what the containers of this machine use now, CPU over the last
// second or a few.
func (n *Node) Usage(ctx context.Context) ([]*skeinv1.ContainerUsage, error) {
	return n.meter.read(ctx)
}

func (m *meter) read(ctx context.Context) ([]*skeinv1.ContainerUsage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	age := time.Since(m.at)
	if m.told != nil && age < meterLeast {
		return m.told, nil
	}
	if m.last == nil || age > meterMost {
		if err := m.sample(ctx); err != nil {
			return nil, err
		}
		timer := time.NewTimer(meterFirst)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	before, at := m.last, m.at
	if err := m.sample(ctx); err != nil {
		return nil, err
	}
	m.told = rates(before, m.last, m.at.Sub(at))
	return m.told, nil
}

func (m *meter) sample(ctx context.Context) error {
	list, err := m.usage(ctx)
	if err != nil {
		return err
	}
	m.last, m.at = make(map[container.ID]container.Usage, len(list)), time.Now()
	for _, u := range list {
		m.last[u.ID] = u
	}
	return nil
}

// rates compares two samples. What has begun since the first is counted from its
// beginning.
func rates(before, now map[container.ID]container.Usage, took time.Duration) []*skeinv1.ContainerUsage {
	out := make([]*skeinv1.ContainerUsage, 0, len(now))
	for id, u := range now {
		used := max(0, u.CPU-before[id].CPU)
		out = append(out, &skeinv1.ContainerUsage{
			PodUid: id.Pod, Container: id.Name, MemoryBytes: u.MemoryBytes, Pids: u.PIDs,
			CpuMilli: int64(1000 * float64(used) / float64(max(took, time.Millisecond))),
		})
	}
	slices.SortFunc(out, func(a, b *skeinv1.ContainerUsage) int {
		if a.PodUid != b.PodUid {
			return strings.Compare(a.PodUid, b.PodUid)
		}
		return strings.Compare(a.Container, b.Container)
	})
	return out
}
