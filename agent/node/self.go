package node

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
)

// A Machine is what this machine is and has. It does not change while the
// agent runs.
type Machine struct {
	CPUMilli    int64 // thousandths of a core
	MemoryBytes int64
	DiskBytes   int64             // of the file system that holds the data directory
	Pods        int64             // how many may run here
	Labels      map[string]string // from the operator's flags
	Info        corev1.NodeSystemInfo
}

// watchSelf says what this machine is, and again when its images or pressures
// change.
func (n *Node) watchSelf(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last, wait := "", selfEvery
	for {
		images, pressure := n.cfg.Images.Changed(), n.cfg.PressureChanged()
		held, err := n.cfg.Images.Present(ctx)
		if err != nil && ctx.Err() == nil {
			n.log.Warn("cannot list images", "err", err)
		}
		status := nodeStatus(n.cfg, held, n.cfg.Pressure(), n.cfg.Now())
		if key := statusKey(status); key != last {
			last = key
			n.reports.self(status, n.cfg.Machine.Labels)
		}
		timer.Reset(wait)
		wait = selfEvery
		select {
		case <-ctx.Done():
			return nil
		case <-images:
		case <-pressure:
			wait = selfSoon
		case <-timer.C:
		}
	}
}

const (
	// selfEvery bounds how late a pressure is told.
	selfEvery = 5 * time.Second
	// selfSoon is when to look again where one has changed: what is measured now
	// and then may not have noticed.
	selfSoon = 2100 * time.Millisecond
)

// forPods is how many hundredths of its disk a machine promises to Pods: below the
// rest it is short of disk.
const forPods = 90

// statusKey tells two statuses apart, times aside.
func statusKey(s *corev1.NodeStatus) string {
	c := s.DeepCopy()
	for i := range c.Conditions {
		c.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	return c.String()
}

func nodeStatus(cfg Config, images []corev1.ContainerImage, pressure map[string]string, now time.Time) *corev1.NodeStatus {
	have := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(cfg.Machine.CPUMilli, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(cfg.Machine.MemoryBytes, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(cfg.Machine.Pods, resource.DecimalSI),
	}
	free := maps.Clone(have)
	if disk := cfg.Machine.DiskBytes; disk > 0 {
		have[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk, resource.BinarySI)
		free[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk/100*forPods, resource.BinarySI)
	}
	users := cfg.Driver.Features().Users == nil
	status := &corev1.NodeStatus{
		// Kubernetes has it of each handler; here is one.
		RuntimeHandlers: []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: &users}}},

		Capacity:    have,
		Allocatable: free,
		NodeInfo:    cfg.Machine.Info,
		Images:      images,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: cfg.Address.String()},
			{Type: corev1.NodeHostName, Address: cfg.Name},
		},
	}
	// Those that Kubernetes has too are always told, ours while they hold.
	told := map[string]string{
		string(corev1.NodeDiskPressure): "", string(corev1.NodeMemoryPressure): "", string(corev1.NodePIDPressure): "",
	}
	maps.Copy(told, pressure)
	for _, kind := range slices.Sorted(maps.Keys(told)) {
		c := corev1.NodeCondition{
			Type: corev1.NodeConditionType(kind), Status: corev1.ConditionFalse,
			LastTransitionTime: metav1.Time{Time: now.Truncate(time.Second)},
		}
		if why := told[kind]; why != "" {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, "Short", why
			if object.DiskCondition(c.Type) {
				c.Reason = "DiskTrouble"
			}
		}
		status.Conditions = append(status.Conditions, c)
	}
	return status
}
