package object

import (
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skein-dev/skein/consensus/state"
)

// guard is a NetworkPolicy with something of everything.
const guard = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: guard
spec:
  podSelector:
    matchLabels:
      app: db
    matchExpressions:
    - {key: tier, operator: In, values: [back, middle]}
  policyTypes: [Ingress, Egress]
  ingress:
  - ports:
    - port: 5432
    - port: metrics
    - {port: 9000, endPort: 9010}
    from:
    - podSelector: {matchLabels: {app: web}}
      namespaceSelector: {matchLabels: {team: blue}}
    - podSelector: {}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}
  egress:
  - ports:
    - {protocol: UDP, port: 53}
  - to:
    - namespaceSelector: {}
`

func policyRow(t *testing.T) *state.Row {
	t.Helper()
	return stored(t, guard)
}

func TestNetworkPolicyDefaults(t *testing.T) {
	for spec, want := range map[string]string{
		"podSelector: {}": "[Ingress]",
		"podSelector: {}, ingress: [{ports: [{port: 80}]}]":     "[Ingress] in TCP",
		"podSelector: {}, egress: [{}]":                         "[Ingress Egress]",
		"podSelector: {}, policyTypes: [Egress]":                "[Egress]",
		"podSelector: {}, egress: [{ports: [{}, {port: dns}]}]": "[Ingress Egress] out TCP out TCP",
	} {
		m := parseOne(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {"+spec+"}}")
		n := m.Object.(*networkingv1.NetworkPolicy)
		got := fmt.Sprint(n.Spec.PolicyTypes)
		for _, r := range n.Spec.Ingress {
			for _, p := range r.Ports {
				got += " in " + string(*p.Protocol)
			}
		}
		for _, r := range n.Spec.Egress {
			for _, p := range r.Ports {
				got += " out " + string(*p.Protocol)
			}
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", spec, got, want)
		}
	}
}

func TestNetworkPolicyErrors(t *testing.T) {
	faulty(t, "networkpolicy_errors.txt", guard, []fault{
		{"networking.k8s.io/v1", "extensions/v1beta1"},
		{"app: db", "'no good': db"},
		{"operator: In,", "operator: Is,"},
		{"operator: In,", "operator: Exists,"},
		{"[Ingress, Egress]", "[Ingress]"},
		{"[Ingress, Egress]", "[Egress]"},
		{"[Ingress, Egress]", "[Ingress, Ingress, Egress]"},
		{"[Ingress, Egress]", "[Ingress, Egress, Both]"},
		{"port: 5432", "port: 54321000"},
		{"port: 5432", "prot: 5432"},
		{"port: 5432", "port: 5432\n      protocol: SCTP"},
		{"port: metrics", "port: metrics_1"},
		{"port: metrics", "port: metrics\n      endPort: 10"},
		{"port: metrics", "endPort: 10"},
		{"endPort: 9010", "endPort: 8999"},
		{"- podSelector: {}\n", "- {}\n"},
		{"- podSelector: {}\n", "- {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}\n"},
		{"team: blue", "team: 'b l u e'"},
		{"10.0.0.0/8", "10.0.0.0"},
		{"10.0.0.0/8", "'fd00::/8'"},
		{"10.2.0.0/16", "11.2.0.0/16"},
		{"10.2.0.0/16", "10.0.0.0/8"},
		{"10.2.0.0/16", "all"},
	})
}

func TestNetworkPolicyUpdate(t *testing.T) {
	row := policyRow(t)
	if _, action, err := parseOne(t, guard).Update(row); err != nil || action != Unchanged {
		t.Errorf("the same again: %s, %v", action, err)
	}
	next, action, err := parseOne(t, edit(t, guard, "port: 5432", "port: 5433")).Update(row)
	if err != nil || action != Configured || next.GetGeneration() != 2 {
		t.Errorf("another port: %s, %v", action, err)
	}
}
