package object

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Amounts are what containers ask for, or may take.
type Amounts struct {
	CPU    int64 // thousandths of a core
	Memory int64 // bytes
	Disk   int64 // bytes of ephemeral storage: writable layers, logs and emptyDir volumes
}

func (a Amounts) plus(b Amounts) Amounts {
	return Amounts{a.CPU + b.CPU, a.Memory + b.Memory, a.Disk + b.Disk}
}

func (a Amounts) atLeast(b Amounts) Amounts {
	return Amounts{max(a.CPU, b.CPU), max(a.Memory, b.Memory), max(a.Disk, b.Disk)}
}

func amountsOf(l corev1.ResourceList) Amounts {
	return Amounts{l.Cpu().MilliValue(), l.Memory().Value(), l.StorageEphemeral().Value()}
}

// Requests are what a Pod needs of its node: what its containers and sidecars ask
// for together, or one of its init containers with the sidecars before it, if that
// is more.
func Requests(s *corev1.PodSpec) Amounts {
	var sum, most Amounts
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		with := sum.plus(amountsOf(c.Resources.Requests))
		most = most.atLeast(with)
		if IsSidecar(c) {
			sum = with
		}
	}
	for i := range s.Containers {
		sum = sum.plus(amountsOf(s.Containers[i].Resources.Requests))
	}
	return sum.atLeast(most)
}

// requests is Requests as a list, without what is not asked for.
func requests(s *corev1.PodSpec) corev1.ResourceList {
	a := Requests(s)
	out := corev1.ResourceList{}
	if a.CPU > 0 {
		out[corev1.ResourceCPU] = *resource.NewMilliQuantity(a.CPU, resource.DecimalSI)
	}
	if a.Memory > 0 {
		out[corev1.ResourceMemory] = *resource.NewQuantity(a.Memory, resource.BinarySI)
	}
	if a.Disk > 0 {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(a.Disk, resource.BinarySI)
	}
	return out
}
