package node

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
	"github.com/skein-dev/skein/runtime/runc"
)

func TestOOMScore(t *testing.T) {
	const machine = 10 << 30
	list := func(memory, cpu string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if memory != "" {
			out[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		if cpu != "" {
			out[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		return out
	}
	tests := map[string]struct {
		requests, limits corev1.ResourceList
		want             int
	}{
		"guaranteed":            {list("1Gi", "1"), list("1Gi", "1"), -997},
		"nothing asked for":     {nil, nil, 1000},
		"a tenth of the memory": {list("1Gi", ""), nil, 900},
		"a little":              {list("1Mi", ""), nil, 999},
		"all of it":             {list("10Gi", ""), nil, 3},
		"processors alone":      {list("", "1"), nil, 999},
	}
	for what, tt := range tests {
		c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: tt.requests, Limits: tt.limits}}
		if got := resources(podWith(c), &c, machine).OOMScoreAdj; got != tt.want {
			t.Errorf("%s: %d, want %d", what, got, tt.want)
		}
	}
}

func TestSysctlsAndHosts(t *testing.T) {
	c := corev1.Container{Name: "c", Command: []string{"/x"}}
	pod := podWith(c)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net/ipv4/tcp_syncookies", Value: "0"}}}
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"db", "db.example"}}, {IP: "2001:db8::1", Hostnames: []string{"six"}}}
	spec, err := containerSpec(pod, &c, image.Config{}, place{})
	if err != nil || spec.Sysctls["net.ipv4.tcp_syncookies"] != "0" {
		t.Errorf("sysctls %v, %v", spec.Sysctls, err)
	}
	if want := "192.0.2.7\tdb db.example\n2001:db8::1\tsix\n"; spec.Sandbox.Hosts != want {
		t.Errorf("hosts %q, want %q", spec.Sandbox.Hosts, want)
	}
}

// What admission takes the driver takes, and nothing else.
func TestUlimitListsAgree(t *testing.T) {
	a, b := object.UlimitNames(), runc.UlimitNames()
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) || object.Unlimited != container.Unlimited {
		t.Errorf("admission takes %s\nthe driver %s", strings.Join(a, " "), strings.Join(b, " "))
	}
}

func TestUlimitsReachTheContainer(t *testing.T) {
	pod := newPod("a", func(p *corev1.Pod) {
		p.Annotations = map[string]string{object.AnnotationUlimit + "nofile": "1024:4096", object.AnnotationUlimit + "core": "-1"}
	})
	spec, err := containerSpec(pod, &pod.Spec.Containers[0], image.Config{Cmd: []string{"x"}}, place{})
	want := []container.Ulimit{{Name: "core", Soft: container.Unlimited, Hard: container.Unlimited}, {Name: "nofile", Soft: 1024, Hard: 4096}}
	if err != nil || !slices.Equal(spec.Ulimits, want) {
		t.Errorf("%v, %v", spec.Ulimits, err)
	}
}

func TestCapabilityListsAgree(t *testing.T) {
	a, b := object.DefaultCapabilities(), container.DefaultCapabilities()
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		t.Errorf("admission takes %s\nthe driver %s", strings.Join(a, " "), strings.Join(b, " "))
	}
}

func TestSysctlListsAgree(t *testing.T) {
	a, b := object.SafeSysctls(), runc.SafeSysctls()
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		t.Errorf("admission takes %s\nthe driver %s", strings.Join(a, " "), strings.Join(b, " "))
	}
}

func TestWhatAPodSharesReachesItsSandbox(t *testing.T) {
	yes := true
	got := sandboxOf(newPod("a", func(p *corev1.Pod) {
		p.Spec.ShareProcessNamespace, p.Spec.HostIPC, p.Spec.HostPID = &yes, true, true
	}), place{})
	if !got.SharePIDs || !got.HostPIDs || !got.HostIPC {
		t.Errorf("sandbox %+v", got)
	}
	if got = sandboxOf(newPod("b"), place{}); got.SharePIDs || got.HostPIDs || got.HostIPC {
		t.Errorf("sandbox of a Pod that shares nothing: %+v", got)
	}
	if err := permit("team", container.Spec{Sandbox: container.Sandbox{HostPIDs: true}}); err == nil || !strings.Contains(err.Error(), object.AnnotationPrivileged) {
		t.Errorf("the machine's processes, not allowed: %v", err)
	}
}
