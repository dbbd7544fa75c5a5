package object

import (
	"strings"
	"testing"
)

func TestAPodWithUsersOfItsOwn(t *testing.T) {
	tests := map[string]string{ // what is written, what is said of it
		"hostUsers: false": "",
		"hostUsers: true, hostNetwork: true, securityContext: {runAsUser: 70000}":                      "",
		"hostUsers: false, securityContext: {runAsUser: 65535, fsGroup: 65535}":                        "",
		"hostUsers: false, hostNetwork: true":                                                          "spec.hostNetwork: cannot be true",
		"hostUsers: false, hostPID: true":                                                              "spec.hostPID: cannot be true",
		"hostUsers: false, hostIPC: true":                                                              "spec.hostIPC: cannot be true",
		"hostUsers: false, shareProcessNamespace: true":                                                "spec.shareProcessNamespace: cannot be true",
		"hostUsers: false, securityContext: {runAsUser: 65536}":                                        "spec.securityContext.runAsUser: 65536",
		"hostUsers: false, securityContext: {runAsGroup: 65536}":                                       "spec.securityContext.runAsGroup: 65536",
		"hostUsers: false, securityContext: {fsGroup: 65536}":                                          "spec.securityContext.fsGroup: 65536",
		"hostUsers: false, securityContext: {supplementalGroups: [1, 65536]}":                          "spec.securityContext.supplementalGroups[1]: 65536",
		"hostUsers: false, initContainers: [{name: i, image: i, securityContext: {runAsUser: 65536}}]": "spec.initContainers[0].securityContext.runAsUser: 65536",
	}
	for text, want := range tests {
		_, err := Parse("p.yaml", []byte("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}], "+text+"}}"), "")
		if said := errText(err); want == "" && err != nil || !strings.Contains(said, want) {
			t.Errorf("%s: said %q, want %q", text, said, want)
		}
	}
}
