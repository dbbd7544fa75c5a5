package object

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Requests are what a Pod needs of its node, in thousandths of a core and bytes:
// what its containers and sidecars ask for together, or one of its init containers
// with the sidecars before it, if that is more.
func Requests(s *corev1.PodSpec) (cpuMilli, memory int64) {
	var mostCPU, mostMemory int64
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		cpu, bytes := c.Resources.Requests.Cpu().MilliValue(), c.Resources.Requests.Memory().Value()
		mostCPU, mostMemory = max(mostCPU, cpuMilli+cpu), max(mostMemory, memory+bytes)
		if IsSidecar(c) {
			cpuMilli, memory = cpuMilli+cpu, memory+bytes
		}
	}
	for i := range s.Containers {
		r := s.Containers[i].Resources.Requests
		cpuMilli, memory = cpuMilli+r.Cpu().MilliValue(), memory+r.Memory().Value()
	}
	return max(cpuMilli, mostCPU), max(memory, mostMemory)
}

// requests is Requests as a list, without what is not asked for.
func requests(s *corev1.PodSpec) corev1.ResourceList {
	cpu, memory := Requests(s)
	out := corev1.ResourceList{}
	if cpu > 0 {
		out[corev1.ResourceCPU] = *resource.NewMilliQuantity(cpu, resource.DecimalSI)
	}
	if memory > 0 {
		out[corev1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
	}
	return out
}
