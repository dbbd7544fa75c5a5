package object

import (
	"strings"
	"testing"
)

func TestHowAPodLooksNamesUp(t *testing.T) {
	tests := map[string]string{ // what is written, what is said of it
		"dnsPolicy: Default": "",
		"dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1, '2001:db8::1'], searches: [., a_b.example., lan], options: [{name: ndots, value: '2'}, {name: edns0}]}": "",
		"dnsPolicy: None": "spec.dnsConfig.nameservers: is missing",
		"dnsPolicy: None, dnsConfig: {searches: [a]}":                    "spec.dnsConfig.nameservers: is missing",
		"dnsPolicy: Sometimes":                                           "spec.dnsPolicy",
		"dnsConfig: {nameservers: [ns.example]}":                         `spec.dnsConfig.nameservers[0]: "ns.example" is no address`,
		"dnsConfig: {nameservers: ['fe80::1%eth0']}":                     "is no address",
		"dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}": "more than 3",
		`dnsConfig: {searches: ["a\nnameserver 192.0.2.66"]}`:            "is no domain",
		"dnsConfig: {searches: [a..b]}":                                  "is no domain",
		"dnsConfig: {options: [{value: a}]}":                             "spec.dnsConfig.options[0].name",
		`dnsConfig: {options: [{name: ndots, value: "1\noptions x"}]}`:   "spec.dnsConfig.options[0].value",
		"subdomain: a.b": "spec.subdomain",
		"subdomain: a, setHostnameAsFQDN: true, dnsPolicy: ClusterFirstWithHostNet": "",
	}
	for text, want := range tests {
		_, err := Parse("p.yaml", []byte("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}], "+text+"}}"), "")
		if said := errText(err); want == "" && err != nil || !strings.Contains(said, want) {
			t.Errorf("%s: said %q, want %q", text, said, want)
		}
	}
}
