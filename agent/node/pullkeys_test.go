package node

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container/containertest"
)

// secretOf is a Secret as a voter tells of it.
func secretOf(name string, kind corev1.SecretType, key, value string) *skeinv1.SourcesResponse {
	return &skeinv1.SourcesResponse{Synced: true, Put: &skeinv1.Source{
		Key:  &skeinv1.SourceKey{Kind: object.KindSecret, Namespace: "default", Name: name},
		Type: string(kind), Data: map[string][]byte{key: []byte(value)},
	}}
}

func withKeys(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
	}
}

// An image is asked for with what its Pod names, once that is here; what stays
// away is told, and the image tried without.
func TestAnImageIsAskedForWithItsPodsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		var asked []string
		w.ensure = func(ask ImageAsk) error {
			asked = append(asked, fmt.Sprintf("%s", ask.Keys))
			return nil
		}
		defer w.run()()
		w.putObject(newPod("a", withKeys("login", "old")))
		pass(keysPatience / 4)
		if len(asked) > 0 {
			t.Fatalf("asked with %s before the Secret was here", asked)
		}
		w.node.TakeSource(secretOf("login", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "new style"))
		w.node.TakeSource(secretOf("old", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, "old style"))
		pass(keysPatience / 4)
		if want := []string{"[new style old style]"}; !slices.Equal(asked, want) {
			t.Errorf("asked with %s, want %s", asked, want)
		}
		w.node.TakeSource(secretOf("other", corev1.SecretTypeOpaque, "password", "not for registries"))
		w.putObject(newPod("b", withKeys("none", "other", "login")))
		pass(keysPatience + time.Second)
		if len(asked) != 2 || asked[1] != "[new style]" {
			t.Errorf("asked with %s, want the one that is there", asked)
		}
		if got := w.reasons(t, "b"); !slices.Contains(got, "FailedToRetrieveImagePullSecret") {
			t.Errorf("events %v do not tell of what is missing", got)
		}
	})
}

// Who is refused is not kept waiting by the back-off once there is another
// password.
func TestANewPasswordIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		tries := 0
		w.ensure = func(ask ImageAsk) error {
			tries++
			if len(ask.Keys) == 1 && string(ask.Keys[0]) == "right" {
				return nil
			}
			return &PullError{Reason: "ErrImagePull", Err: errors.New("unauthorized")}
		}
		defer w.run()()
		w.node.TakeSource(secretOf("login", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "wrong"))
		w.putObject(newPod("a", withKeys("login")))
		pass(5 * time.Minute)
		before := tries
		w.node.TakeSource(secretOf("another", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "right"))
		pass(100 * time.Millisecond)
		if tries != before {
			t.Errorf("news of another Secret had the image tried again")
		}
		w.node.TakeSource(secretOf("login", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "right"))
		pass(time.Second)
		if tries != before+1 || len(w.running("a")) != 1 {
			t.Errorf("%d more tries, %d containers run, want 1 and 1", tries-before, len(w.running("a")))
		}
	})
}
