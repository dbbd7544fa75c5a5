package object

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestUlimitsAreReadAsDockerHasThem(t *testing.T) {
	got, err := Ulimits(map[string]string{
		AnnotationUlimit + "nofile": "1024:4096", AnnotationUlimit + "core": "0", AnnotationUlimit + "memlock": "-1:unlimited",
		AnnotationUlimit + "stack": "8388608:-1", "other": "x",
	})
	want := []Ulimit{{"core", 0, 0}, {"memlock", Unlimited, Unlimited}, {"nofile", 1024, 4096}, {"stack", 8388608, Unlimited}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}

func TestUlimitsAreRefusedAtTheirPath(t *testing.T) {
	for value, want := range map[string]string{
		"nofile=":                     `"" is no limit`,
		"nofile=1:":                   `"" is no limit`,
		"nofile=4096:1024":            "above the hard one",
		"nofile=-1":                   "write a number",
		"nofile=-2":                   `"-2" is no limit`,
		"nofile=+5":                   `"+5" is no limit`,
		"nofile=0x10":                 `"0x10" is no limit`,
		"nofile=1:2:3":                `"2:3" is no limit`,
		"nofile=01":                   `"01" is no limit`,
		"nproc=-1:5":                  "above the hard one",
		"as=5":                        `"as" is no limit; there are core`,
		"NOFILE=5":                    `"NOFILE" is no limit`,
		"core=9999999999999999999999": "is no limit",
	} {
		name, v, _ := strings.Cut(value, "=")
		key := AnnotationUlimit + name
		_, err := Parse("p.yaml", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {\""+key+"\": \""+v+"\"}}\nspec: {containers: [{name: c, image: a}]}\n"), "")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), keyed("metadata.annotations", key)) {
			t.Errorf("%s: got %v, want %q at its path", value, err, want)
		}
	}
	ns := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{
		Name: "n", Annotations: map[string]string{AnnotationUlimit + "core": "0"},
	}}
	if err := Validate(ns); err == nil || !strings.Contains(err.Error(), "limit of Pods") {
		t.Errorf("of a namespace: %v", err)
	}
}

func TestOldBuildsAreSparedUlimits(t *testing.T) {
	set := map[string]string{AnnotationUlimit + "core": "0"}
	pod := parseWhole(t)
	pod.Spec = corev1.PodSpec{}
	pod.Annotations = set
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: set}, Spec: pod.Spec}}}
	for _, obj := range []Object{pod, d} {
		if need, because, err := Format(obj); need != FormatPods || !strings.Contains(because, AnnotationUlimit) || err != nil {
			t.Errorf("%T: %d because of %q, %v", obj, need, because, err)
		}
	}
}
