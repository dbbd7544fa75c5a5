package object

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPullSecretsAreNamed(t *testing.T) {
	many := make([]corev1.LocalObjectReference, maxPullSecrets+1)
	tests := map[string]struct {
		list []corev1.LocalObjectReference
		want string
	}{
		"two":      {list: []corev1.LocalObjectReference{{Name: "login"}, {Name: "other.login"}}},
		"no name":  {list: []corev1.LocalObjectReference{{Name: "login"}, {}}, want: "spec.imagePullSecrets[1].name: is missing"},
		"a path":   {list: []corev1.LocalObjectReference{{Name: "../login"}}, want: "spec.imagePullSecrets[0].name"},
		"too many": {list: many, want: "spec.imagePullSecrets: names 33 Secrets"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var p problems
			p.pullSecrets(tt.list, "spec.imagePullSecrets")
			var got string
			for _, problem := range p.list {
				got += problem.path + ": " + problem.msg
			}
			if !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
