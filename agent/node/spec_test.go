package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
)

func podWith(c corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop", UID: "u1", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{c}},
	}
}

func ptr[T any](v T) *T { return &v }

func TestCommandAndArgumentsCombineAsInKubernetes(t *testing.T) {
	img := image.Config{Entrypoint: []string{"/ep"}, Cmd: []string{"c1", "c2"}}
	tests := map[string]struct {
		command, args, want []string
	}{
		"neither: the image's":                 {want: []string{"/ep", "c1", "c2"}},
		"args: the image's entry point":        {args: []string{"a"}, want: []string{"/ep", "a"}},
		"command: nothing of the image":        {command: []string{"/x"}, want: []string{"/x"}},
		"both":                                 {command: []string{"/x"}, args: []string{"a"}, want: []string{"/x", "a"}},
		"variables are replaced":               {command: []string{"/x", "$(GREETING) $(NAME)"}, want: []string{"/x", "hello web-1"}},
		"an unknown variable stays":            {command: []string{"/x", "$(NOBODY)"}, want: []string{"/x", "$(NOBODY)"}},
		"a doubled dollar is one":              {command: []string{"/x", "$$(GREETING)"}, want: []string{"/x", "$(GREETING)"}},
		"an open bracket and a last dollar":    {command: []string{"/x", "$(GREETING", "$"}, want: []string{"/x", "$(GREETING", "$"}},
		"a dollar before something else stays": {command: []string{"/x", "$HOME"}, want: []string{"/x", "$HOME"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := corev1.Container{Name: "c", Command: tt.command, Args: tt.args, Env: []corev1.EnvVar{
				{Name: "GREETING", Value: "hello"},
				{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			}}
			spec, err := containerSpec(podWith(c), &c, img, place{hostIP: "10.0.0.2"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, spec.Args); diff != "" {
				t.Errorf("args (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnvironmentOfThePodWinsOverTheImage(t *testing.T) {
	img := image.Config{Env: []string{"PATH=/opt/bin", "MODE=slow", "KEEP=1"}}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	c := corev1.Container{Name: "c", Command: []string{"/x"}, Env: []corev1.EnvVar{
		{Name: "MODE", Value: "fast"},
		{Name: "TWICE", Value: "$(MODE)$(MODE)"},
		{Name: "NODE", ValueFrom: field("spec.nodeName")},
		{Name: "HOST", ValueFrom: field("status.hostIP")},
		{Name: "APP", ValueFrom: field("metadata.labels['app']")},
	}}
	spec, err := containerSpec(podWith(c), &c, img, place{hostIP: "10.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PATH=/opt/bin", "HOSTNAME=web-1", "MODE=fast", "KEEP=1", "TWICE=fastfast", "NODE=n2", "HOST=10.0.0.2", "APP=web"}
	if diff := cmp.Diff(want, spec.Env); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
}

func TestNothingToRunIsSaid(t *testing.T) {
	c := corev1.Container{Name: "c"}
	if _, err := containerSpec(podWith(c), &c, image.Config{}, place{}); err == nil || !strings.Contains(err.Error(), "nothing to run") {
		t.Errorf("got %v, want a refusal that says there is nothing to run", err)
	}
}

func TestSecurityContext(t *testing.T) {
	tests := map[string]struct {
		pod  *corev1.PodSecurityContext
		c    *corev1.SecurityContext
		user string // of the image
		want container.Spec
		err  string
	}{
		"the image's user":                  {user: "redis", want: container.Spec{User: "redis"}},
		"the container's user wins":         {user: "redis", pod: &corev1.PodSecurityContext{RunAsUser: ptr(int64(5))}, c: &corev1.SecurityContext{RunAsUser: ptr(int64(7)), RunAsGroup: ptr(int64(8))}, want: container.Spec{User: "7:8"}},
		"the Pod's user where none":         {user: "redis", pod: &corev1.PodSecurityContext{RunAsUser: ptr(int64(5))}, want: container.Spec{User: "5"}},
		"a group alone keeps the user":      {user: "redis:redis", c: &corev1.SecurityContext{RunAsGroup: ptr(int64(8))}, want: container.Spec{User: "redis:8"}},
		"root is refused where forbidden":   {c: &corev1.SecurityContext{RunAsNonRoot: ptr(true)}, err: "would run as root"},
		"a name could be root":              {user: "toor", c: &corev1.SecurityContext{RunAsNonRoot: ptr(true)}, err: "cannot be known"},
		"a number is known":                 {user: "7", c: &corev1.SecurityContext{RunAsNonRoot: ptr(true)}, want: container.Spec{User: "7"}},
		"capabilities and a read-only root": {c: &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true), Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}}}, want: container.Spec{Security: container.Security{ReadOnlyRoot: true, AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}}},
		"groups":                            {pod: &corev1.PodSecurityContext{SupplementalGroups: []int64{3, 4}}, want: container.Spec{Groups: []uint32{3, 4}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := corev1.Container{Name: "c", Command: []string{"/x"}, SecurityContext: tt.c}
			pod := podWith(c)
			pod.Spec.SecurityContext = tt.pod
			got, err := containerSpec(pod, &c, image.Config{User: tt.user}, place{})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got = container.Spec{User: got.User, Groups: got.Groups, Security: got.Security}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResourcesBecomeLimitsAndOOMOrder(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if cpu != "" {
			out[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			out[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return out
	}
	tests := map[string]struct {
		requests, limits corev1.ResourceList
		want             container.Resources
		class            corev1.PodQOSClass
	}{
		"none: dies first":      {want: container.Resources{PIDs: defaultPIDs, OOMScoreAdj: oomBestEffort}, class: corev1.PodQOSBestEffort},
		"limits alone":          {requests: list("", "64Mi"), limits: list("500m", "64Mi"), want: container.Resources{CPUMilli: 500, MemoryBytes: 64 << 20, PIDs: defaultPIDs, OOMScoreAdj: 500}, class: corev1.PodQOSBurstable},
		"guaranteed: dies last": {requests: list("1", "1Gi"), limits: list("1", "1Gi"), want: container.Resources{CPUMilli: 1000, CPUShares: 1000, MemoryBytes: 1 << 30, PIDs: defaultPIDs, OOMScoreAdj: oomGuaranteed}, class: corev1.PodQOSGuaranteed},
		"a request is a weight": {requests: list("250m", ""), want: container.Resources{CPUShares: 250, PIDs: defaultPIDs, OOMScoreAdj: 999}, class: corev1.PodQOSBurstable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: tt.requests, Limits: tt.limits}}
			pod := podWith(c)
			if diff := cmp.Diff(tt.want, resources(pod, &c, 128<<20)); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
			if got := qos(pod); got != tt.class {
				t.Errorf("class %s, want %s", got, tt.class)
			}
		})
	}
}

func TestHostNames(t *testing.T) {
	yes := true
	for want, spec := range map[string]corev1.PodSpec{
		"web-1": {}, "h": {Hostname: "h", Subdomain: "sub"}, "k": {Hostname: "k", SetHostnameAsFQDN: &yes},
		"h.sub.ns.svc.cluster.local": {Hostname: "h", Subdomain: "sub", SetHostnameAsFQDN: &yes},
	} {
		if got := hostnameOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "ns"}, Spec: spec}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
