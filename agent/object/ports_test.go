package object

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// edge is a Pod that takes ports of its node and has a whole name.
const edge = `apiVersion: v1
kind: Pod
metadata:
  name: edge
spec:
  hostname: e1
  subdomain: edges
  setHostnameAsFQDN: true
  dnsPolicy: ClusterFirstWithHostNet
  enableServiceLinks: false
  initContainers:
  - {name: prepare, image: a:1, ports: [{containerPort: 80, hostPort: 80}]}
  - {name: proxy, image: a:1, restartPolicy: Always, ports: [{containerPort: 15000, hostPort: 15000}]}
  containers:
  - name: web
    image: a:1
    ports:
    - containerPort: 8080
      hostPort: 80
    - containerPort: 8081
      hostPort: 443
      hostIP: 192.0.2.1
    - {containerPort: 53, hostPort: 53, protocol: UDP}
    - {containerPort: 53, hostPort: 53}
  - {name: log, image: a:1, ports: [{containerPort: 9000, hostPort: 443, hostIP: 192.0.2.2}]}
`

func TestPodPortErrors(t *testing.T) {
	parseOne(t, edge)
	faulty(t, "ports_errors.txt", edge, []fault{
		{"hostPort: 80\n", "hostPort: 80800\n"},
		{"hostPort: 80\n", "hostPort: 15000\n"},
		{"hostPort: 80\n", "hostPort: 443\n"},
		{"hostPort: 443, hostIP: 192.0.2.2", "hostPort: 443, hostIP: 192.0.2.1"},
		{"hostPort: 443, hostIP: 192.0.2.2", "hostPort: 443, hostIP: 0.0.0.0"},
		{"hostPort: 443, hostIP: 192.0.2.2", "hostIP: 192.0.2.2"},
		{"192.0.2.1", "fd00::1"},
		{"192.0.2.1", "localhost"},
		{"protocol: UDP", "protocol: SCTP"},
		{"hostname: e1", "hostNetwork: true\n  hostname: e1"},
		{"subdomain: edges", "subdomain: edges.example"},
		{"hostname: e1", "hostname: " + strings.Repeat("e", 40)},
		{"ClusterFirstWithHostNet", "ClusterLast"},
		{"enableServiceLinks: false", "enableServiceLinks: true"},
	})
}

func TestHostNetworkMeansHostPorts(t *testing.T) {
	const text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostNetwork: true, containers: [{name: c, image: 'a:1', ports: [{containerPort: 80}, {containerPort: 81, hostPort: 81}]}]}}"
	row := stored(t, text)
	pod, err := Decode[corev1.Pod](row)
	if err != nil {
		t.Fatal(err)
	}
	var got []int32
	for _, p := range pod.Spec.Containers[0].Ports {
		got = append(got, p.HostPort)
	}
	if fmt.Sprint(got) != "[80 81]" {
		t.Errorf("got the host ports %v", got)
	}
	pod.Spec.Containers[0].Ports[0].HostPort = 0 // as an older agent stored it
	row = rowOf(t, pod, 6)
	if _, action, err := parseOne(t, text).Update(row); err != nil || action != Unchanged {
		t.Errorf("the same again: %s, %v", action, err)
	}
	if _, action, err := MergePatch(row, []byte(`{"metadata":{"labels":{"a":"b"}}}`)); err != nil || action != Configured {
		t.Errorf("a label: %s, %v", action, err)
	}
}

// TestImpliedHostPortsAreNoNewRevision: what an older agent stored without them is
// not rolled out again.
func TestImpliedHostPortsAreNoNewRevision(t *testing.T) {
	template := parseOne(t, edit(t, web, "nodeSelector:", "hostNetwork: true\n      nodeSelector:")).Object.(*appsv1.Deployment).Spec.Template
	port := &template.Spec.Containers[0].Ports[0]
	if port.HostPort != 8080 {
		t.Fatalf("got the host port %d", port.HostPort)
	}
	with := TemplateHash(&template)
	port.HostPort = 0
	if without := TemplateHash(&template); with != without {
		t.Errorf("got %s with and %s without", with, without)
	}
	template.Spec.HostNetwork = false
	before := TemplateHash(&template)
	port.HostPort = 8080
	if TemplateHash(&template) == before {
		t.Error("a host port of its own is no change")
	}
}

func TestFQDN(t *testing.T) {
	for want, spec := range map[string]corev1.PodSpec{
		"":                                    {Hostname: "h"},
		"h.sub.ns.svc." + ClusterDomain:       {Hostname: "h", Subdomain: "sub"},
		"web-1.sub.ns.svc." + ClusterDomain:   {Subdomain: "sub"},
		"web-1.sub-2.ns.svc." + ClusterDomain: {Subdomain: "sub-2", HostNetwork: true},
	} {
		if got := FQDN(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "ns"}, Spec: spec}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestWholeNamesOfADeploymentsPodsFit(t *testing.T) {
	spec := "subdomain: d\n      setHostnameAsFQDN: true\n      nodeSelector:"
	parseOne(t, edit(t, web, "nodeSelector:", spec))
	text := strings.Replace(edit(t, web, "nodeSelector:", spec), "name: web\n  labels", "name: "+strings.Repeat("w", 30)+"\n  labels", 1)
	if _, err := Parse("x.yaml", []byte(text), ""); err == nil || !strings.Contains(err.Error(), "spec.template.spec.setHostnameAsFQDN") {
		t.Errorf("got %v", err)
	}
}
