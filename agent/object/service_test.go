package object

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/consensus/state"
)

// front is a Service with something of everything that is supported.
const front = `apiVersion: v1
kind: Service
metadata:
  name: front
  annotations:
    skein.dev/publish: 8080:http, 8443:443
spec:
  type: NodePort
  clusterIP: 10.96.7.7
  selector:
    app: web
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  ports:
  - name: http
    port: 80
    targetPort: http
    nodePort: 30080
    appProtocol: http
  - name: https
    port: 443
    targetPort: 8443
  - name: dns
    port: 53
    protocol: UDP
`

// plainService is one that leaves everything out that may be.
const plainService = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {selector: {app: db}, ports: [{port: 5432}]}}"

func serviceRows(t *testing.T) []*state.Row {
	t.Helper()
	var rows []*state.Row
	for _, text := range []string{
		front, plainService,
		"{apiVersion: v1, kind: Service, metadata: {name: peers}, spec: {clusterIP: None, selector: {app: db, tier: back}}}",
		"{apiVersion: v1, kind: Service, metadata: {name: away}, spec: {type: ExternalName, externalName: db.example.com}}",
	} {
		rows = append(rows, stored(t, text))
	}
	return rows
}

func endpoint(address string, ready, serving, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef: &corev1.ObjectReference{Kind: KindPod, Name: "web-" + address[strings.LastIndexByte(address, '.')+1:]},
	}
}

func sliceRow(t *testing.T) *state.Row {
	t.Helper()
	name, port, tcp := "http", int32(8080), corev1.ProtocolTCP
	tls, tlsPort := "https", int32(8443)
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta("front-x7", 0), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{LabelServiceName: "front"}
	s.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}, {Name: &tls, Port: &tlsPort, Protocol: &tcp}}
	s.Endpoints = []discoveryv1.Endpoint{
		endpoint("10.64.0.5", true, true, false), endpoint("10.64.0.6", false, false, false),
		endpoint("10.64.1.7", true, true, false), endpoint("10.64.1.8", false, true, true),
	}
	return rowOf(t, s, 3)
}

func TestServiceDefaults(t *testing.T) {
	tests := map[string]struct{ spec, want string }{
		"plain": {
			"ports: [{port: 80}]",
			"ClusterIP address [] IPv4 SingleStack affinity None 0 internal Cluster external  ports [80/TCP->80:0]",
		},
		"an address asked for": {
			"clusterIP: 10.96.0.9, ports: [{port: 80, targetPort: web, protocol: UDP}]",
			"ClusterIP address 10.96.0.9[10.96.0.9] IPv4 SingleStack affinity None 0 internal Cluster external  ports [80/UDP->web:0]",
		},
		"an address asked for as a list": {
			"clusterIPs: [10.96.0.9], ports: [{port: 80, targetPort: 0}]",
			"ClusterIP address 10.96.0.9[10.96.0.9] IPv4 SingleStack affinity None 0 internal Cluster external  ports [80/TCP->80:0]",
		},
		"headless": {
			"clusterIP: None", "ClusterIP address None[None] IPv4 SingleStack affinity None 0 internal Cluster external  ports []",
		},
		"a node port": {
			"type: NodePort, sessionAffinity: ClientIP, ports: [{port: 80, nodePort: 30001}]",
			"NodePort address [] IPv4 SingleStack affinity ClientIP 10800 internal Cluster external Cluster ports [80/TCP->80:30001]",
		},
		"another name": {
			"type: ExternalName, externalName: x.example.com, ports: [{port: 80}]",
			"ExternalName address []  - affinity None 0 internal - external  ports [80/TCP->80:0]",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := parseOne(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {"+tt.spec+"}}")
			if diff := cmp.Diff(tt.want, serviceLine(m.Object.(*corev1.Service))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			before := rowOf(t, created(t, m), 1)
			Default(m.Object)
			if diff := cmp.Diff(string(before.Body), string(rowOf(t, created(t, m), 1).Body)); diff != "" {
				t.Errorf("defaults filled in twice (-once +twice):\n%s", diff)
			}
		})
	}
}

func created(t *testing.T, m *Manifest) Object {
	t.Helper()
	obj, err := m.Create("u", testNow)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// serviceLine is what a Service says, on one line.
func serviceLine(svc *corev1.Service) string {
	s := &svc.Spec
	var families, ports []string
	for _, f := range s.IPFamilies {
		families = append(families, string(f))
	}
	for _, p := range s.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s->%s:%d", p.Port, p.Protocol, p.TargetPort.String(), p.NodePort))
	}
	stack, internal, stays := "-", "-", int32(0)
	if s.IPFamilyPolicy != nil {
		stack = string(*s.IPFamilyPolicy)
	}
	if s.InternalTrafficPolicy != nil {
		internal = string(*s.InternalTrafficPolicy)
	}
	if s.SessionAffinityConfig != nil {
		stays = *s.SessionAffinityConfig.ClientIP.TimeoutSeconds
	}
	return fmt.Sprintf("%s address %s%v %s %s affinity %s %d internal %s external %s ports %v",
		s.Type, s.ClusterIP, s.ClusterIPs, strings.Join(families, ","), stack, s.SessionAffinity, stays, internal, s.ExternalTrafficPolicy, ports)
}

func TestServiceErrors(t *testing.T) {
	faulty(t, "service_errors.txt", front, []fault{
		{"name: front", "name: front.end"},
		{"name: front", "name: 1front"},
		{"type: NodePort", "type: LoadBalancer"},
		{"type: NodePort", "type: Public"},
		{"type: NodePort\n", "type: ClusterIP\n"},
		{"type: NodePort\n  clusterIP: 10.96.7.7", "type: ExternalName"},
		{"type: NodePort", "type: NodePort\n  externalName: x"},
		{"10.96.7.7", "None"},
		{"10.96.7.7", "10.64.0.1"},
		{"10.96.7.7", "10.96.0.0"},
		{"10.96.7.7", "fd00::1"},
		{"10.96.7.7", "10.96.7.7\n  clusterIPs: [10.96.7.8]"},
		{"10.96.7.7", "10.96.7.7\n  clusterIPs: [10.96.7.7, 10.96.7.8]"},
		{"10.96.7.7", "10.96.7.7\n  ipFamilies: [IPv6]"},
		{"10.96.7.7", "10.96.7.7\n  ipFamilies: [IPv4, IPv4]"},
		{"10.96.7.7", "10.96.7.7\n  ipFamilyPolicy: PreferDualStack"},
		{"10.96.7.7", "10.96.7.7\n  externalIPs: [192.0.2.1]"},
		{"10.96.7.7", "10.96.7.7\n  loadBalancerIP: 192.0.2.1"},
		{"10.96.7.7", "10.96.7.7\n  healthCheckNodePort: 30000"},
		{"10.96.7.7", "10.96.7.7\n  trafficDistribution: PreferClose"},
		{"app: web", "'no good': web"},
		{"sessionAffinity: ClientIP", "sessionAffinity: Cookie"},
		{"sessionAffinity: ClientIP", "sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}"},
		{"sessionAffinity: ClientIP", "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}"},
		{"sessionAffinity: ClientIP", "internalTrafficPolicy: Near"},
		{"externalTrafficPolicy: Local", "externalTrafficPolicy: Near"},
		{"name: https\n", "name: http\n"},
		{"name: https\n    port: 443", "port: 443"},
		{"name: https\n", "name: HTTPS\n"},
		{"port: 443\n    targetPort: 8443", "port: 443\n    targetPort: 84430"},
		{"port: 443", "port: 443000"},
		{"port: 443", "port: 80"},
		{"port: 443", "port: 443\n    protocol: SCTP"},
		{"targetPort: http", "targetPort: http_port"},
		{"nodePort: 30080", "nodePort: 8080"},
		{"targetPort: 8443", "nodePort: 30080"},
		{"appProtocol: http", "appProtocol: 'h t'"},
		{front[strings.Index(front, "  ports:"):], ""},
		{"8080:http", "http"},
		{"8080:http", "80800:http"},
		{"8080:http", "8443:http"},
		{"8080:http", "8080:dns"},
		{"8080:http", "8080:9090"},
		{"skein.dev/publish", "skein.dev/publis"},
	})
}

func TestPublished(t *testing.T) {
	ports := []corev1.ServicePort{
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "tls", Port: 443, Protocol: corev1.ProtocolTCP},
	}
	for text, want := range map[string]string{
		"": "[]", "8080": "[8080:http]", "8080:tls, 9090:80": "[8080:tls 9090:http]", "8080:443": "[8080:tls]", "1:80,65535:80": "[1:http 65535:http]",
		"0:80": `"0" is no port`, "80,80": "80 is there twice", "8080:": "the Service has no TCP port ", "8080:53": "the Service has no TCP port 53",
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationPublish: text}}, Spec: corev1.ServiceSpec{Ports: ports}}
		list, err := Published(s)
		got := []string{}
		for _, p := range list {
			got = append(got, fmt.Sprintf("%d:%s", p.Host, p.Port.Name))
		}
		if text := fmt.Sprint(got); err == nil && text != want || err != nil && err.Error() != want {
			t.Errorf("%q: got %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestSelects(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": ""}
	for _, tt := range []struct {
		selector map[string]string
		want     bool
	}{
		{nil, false},
		{map[string]string{"app": "web"}, true},
		{map[string]string{"app": "web", "tier": ""}, true},
		{map[string]string{"app": "db"}, false},
		{map[string]string{"app": "web", "zone": ""}, false},
	} {
		if got := Selects(&corev1.Service{Spec: corev1.ServiceSpec{Selector: tt.selector}}, labels); got != tt.want {
			t.Errorf("%v: got %v", tt.selector, got)
		}
	}
}

func TestPublishIsOfServices(t *testing.T) {
	_, err := Parse("x.yaml", []byte(edit(t, web, `team: "blue"`, `skein.dev/publish: "80"`)), "")
	if want := `x.yaml:7: deployment "web": metadata.annotations["skein.dev/publish"]: is of Services`; errText(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// given is front as the cluster has completed it.
func given(t *testing.T) *corev1.Service {
	t.Helper()
	s, err := Decode[corev1.Service](stored(t, front))
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort = 30001, 30002
	return s
}

func TestServiceUpdate(t *testing.T) {
	tests := map[string]struct {
		from, to string
		want     string // what the Service says, or the error
	}{
		"what the cluster chose stays": {
			"  clusterIP: 10.96.7.7\n", "",
			"NodePort address 10.96.7.7[10.96.7.7] IPv4 SingleStack affinity ClientIP 10800 internal Cluster external Local ports [80/TCP->http:30080 443/TCP->8443:30001 53/UDP->53:30002]",
		},
		"a port more": {
			"  - name: dns", "  - {name: more, port: 81}\n  - name: dns",
			"NodePort address 10.96.7.7[10.96.7.7] IPv4 SingleStack affinity ClientIP 10800 internal Cluster external Local ports [80/TCP->http:30080 443/TCP->8443:30001 81/TCP->81:0 53/UDP->53:30002]",
		},
		"another address": {"10.96.7.7", "10.96.7.8", `test.yaml:9: service "front": spec.clusterIP: 10.96.7.7 cannot be changed`},
		"no more node ports": {
			"type: NodePort\n  clusterIP: 10.96.7.7\n  selector:\n    app: web\n  sessionAffinity: ClientIP\n  externalTrafficPolicy: Local\n", "selector: {app: web}\n",
			`test.yaml:13: service "front": spec.ports[0].nodePort: a Service of type ClusterIP has none`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			text := edit(t, front, tt.from, tt.to)
			list, err := Parse("test.yaml", []byte(text), "")
			if err == nil {
				var next Object
				if next, _, err = list[0].Update(rowOf(t, given(t), 6)); err == nil {
					if diff := cmp.Diff(tt.want, serviceLine(next.(*corev1.Service))); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					return
				}
			}
			if errText(err) != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestServicePatch(t *testing.T) {
	const rest = " IPv4 SingleStack affinity ClientIP 10800 internal Cluster external "
	tests := map[string]struct{ patch, want string }{
		"to no node ports": {
			`{"metadata":{"annotations":{"skein.dev/publish":null}},"spec":{"type":"ClusterIP"}}`,
			"ClusterIP address 10.96.7.7[10.96.7.7]" + rest + " ports [80/TCP->http:0 443/TCP->8443:0 53/UDP->53:0]",
		},
		"published elsewhere": {
			`{"metadata":{"annotations":{"skein.dev/publish":"9000"}}}`,
			"NodePort address 10.96.7.7[10.96.7.7]" + rest + "Local ports [80/TCP->http:30080 443/TCP->8443:30001 53/UDP->53:30002]",
		},
		"no affinity": {
			`{"spec":{"sessionAffinity":"None"}}`,
			"NodePort address 10.96.7.7[10.96.7.7] IPv4 SingleStack affinity None 0 internal Cluster external Local ports [80/TCP->http:30080 443/TCP->8443:30001 53/UDP->53:30002]",
		},
		"no address": {`{"spec":{"clusterIP":null,"clusterIPs":null}}`, `service "front": spec.clusterIP: 10.96.7.7 cannot be changed`},
		"a status":   {`{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`, `service "front": status: cannot be changed: the cluster writes it`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			next, _, err := MergePatch(rowOf(t, given(t), 6), []byte(tt.patch))
			got := errText(err)
			if err == nil {
				got = serviceLine(next.(*corev1.Service))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServiceToAnotherNameAndBack(t *testing.T) {
	s := given(t)
	s.Annotations = nil
	next, _, err := MergePatch(rowOf(t, s, 6), []byte(`{"spec":{"type":"ExternalName","externalName":"x.example.com"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s := next.(*corev1.Service); s.Spec.ClusterIP != "" || s.Spec.Ports[0].NodePort != 0 {
		t.Errorf("got %s", serviceLine(s))
	}
	next, _, err = MergePatch(rowOf(t, next, 7), []byte(`{"spec":{"type":"ClusterIP"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s := next.(*corev1.Service); s.Spec.ExternalName != "" || s.Spec.InternalTrafficPolicy == nil {
		t.Errorf("got %s", serviceLine(s))
	}
}

func TestTunnelKeyIsTheClusters(t *testing.T) {
	row := rowOf(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", Annotations: map[string]string{AnnotationTunnelKey: "abc"}}}, 5)
	_, _, err := MergePatch(row, []byte(`{"metadata":{"annotations":{"skein.dev/wireguard-key":"x"}}}`))
	if want := `node "n1": metadata.annotations["skein.dev/wireguard-key"]: cannot be changed: the cluster writes it`; errText(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
