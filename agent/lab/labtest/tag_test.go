//go:build lab

package labtest

import (
	"fmt"
	"slices"
	"testing"
)

// runPolicy makes a Deployment of an image with a pull policy.
func (l *lab) runPolicy(name, ref, policy string) {
	l.Helper()
	l.apply(fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %[1]s}, spec: {replicas: 1, selector: {matchLabels: {app: %[1]s}},
  template: {metadata: {labels: {app: %[1]s}}, spec: {containers: [{name: c, image: %[2]q, imagePullPolicy: %[3]s}]}}}}`, name, ref, policy), "--timeout", "1m")
}

// ids lists what the Pods of a Deployment run, each once.
func (l *lab) ids(app string) (ids []string, restarts int32) {
	l.Helper()
	for _, p := range l.pods("app=" + app) {
		s := first(&p)
		ids, restarts = append(ids, s.ImageID), restarts+s.RestartCount
	}
	slices.Sort(ids)
	return slices.Compact(ids), restarts
}

// A tag that moves at its registry changes nothing of what runs. Who asks anew gets
// the new image; all who come later do, too; and with the registry down what was
// known last is run, and told.
func TestATagThatMoved(t *testing.T) {
	r := countingRegistry(t)
	ref, _ := r.sleeper(t, "tag:1", 1, 1)
	l := raise(t, 3)
	l.runPolicy("old", ref, "IfNotPresent")
	old, _ := l.ids("old")
	r.sleeper(t, "tag:1", 1, 1) // other noise
	l.runPolicy("keep", ref, "IfNotPresent")
	if got, _ := l.ids("keep"); !slices.Equal(got, old) {
		t.Errorf("IfNotPresent runs %v, want what the cluster knows, %v", got, old)
	}
	l.runPolicy("fresh", ref, "Always")
	fresh, _ := l.ids("fresh")
	if len(fresh) != 1 || slices.Equal(fresh, old) {
		t.Fatalf("Always runs %v, want another than %v", fresh, old)
	}
	if got, restarts := l.ids("old"); !slices.Equal(got, old) || restarts != 0 {
		t.Errorf("what ran runs %v now and was restarted %d times, want %v and 0", got, restarts, old)
	}
	r.Close()
	l.skein("scale", "deploy/fresh", "--replicas", "3", "--timeout", "1m")
	l.skein("scale", "deploy/keep", "--replicas", "2", "--timeout", "1m")
	if got, _ := l.ids("fresh"); !slices.Equal(got, fresh) {
		t.Errorf("with the registry down Always runs %v, want %v", got, fresh)
	}
	l.awaitEvents("RegistryUnreachable")
	if got, _ := l.ids("keep"); len(got) != 2 || !slices.Contains(got, fresh[0]) || !slices.Contains(got, old[0]) {
		t.Errorf("IfNotPresent runs %v, want what ran, %v, and what is known since, %v", got, old, fresh)
	}
}
