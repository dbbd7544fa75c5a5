//go:build lab

package labtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// locked has a registry ask for a user and a password.
func (c *counter) locked(user, password string) {
	open := c.Config.Handler
	c.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, r)
	})
}

// login is a Secret with a password for a registry.
func (c *counter) login(t *testing.T, name, user, password string) string {
	t.Helper()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{c.at: map[string]string{"username": user, "password": password}}})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: %s}, type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: %s}}",
		name, base64.StdEncoding.EncodeToString(config))
}

// A registry that asks who it is gives its image to the Pod that names a login, once
// that is right, and the password is nowhere to be read.
func TestAPrivateRegistryTakesThePodsLogin(t *testing.T) {
	r := countingRegistry(t)
	ref, _ := r.sleeper(t, "private:1", 1, 2)
	const password = "correct-horse-canary"
	r.locked("app", password)
	l := raise(t, 3)
	l.refused(3, "401", "run", "stranger", "--image", ref, "--timeout", "4s")
	l.apply(r.login(t, "login", "app", "wrong"))
	deployment := fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: private}, spec: {replicas: 3, selector: {matchLabels: {app: private}},
  template: {metadata: {labels: {app: private}}, spec: {imagePullSecrets: [{name: login}, {name: none}], containers: [{name: c, image: %q}]}}}}`, ref)
	l.apply(deployment, "--no-wait")
	l.awaitEvents("FailedToRetrieveImagePullSecret", "none")
	l.awaitEvents("ErrImagePull", "401")
	l.apply(r.login(t, "login", "app", password))
	l.await(30*time.Second, "three Pods with the right password", func() string {
		ready := 0
		for _, p := range l.pods("app=private") {
			if p.Status.Phase == "Running" {
				ready++
			}
		}
		if ready < 3 {
			return fmt.Sprint(ready, " run")
		}
		return ""
	})
	l.awaitEvents("Pulled", "private:1")
	for _, args := range [][]string{{"get", "events", "-o", "yaml"}, {"describe", "deploy/private"}, {"get", "pods", "-o", "yaml"}, {"get", "images", "-o", "yaml"}} {
		if got := l.skein(args...); strings.Contains(got, password) {
			t.Errorf("skein %s tells the password", strings.Join(args, " "))
		}
	}
}

// Who waits sees how the image comes.
func TestWhoWaitsSeesTheImageCome(t *testing.T) {
	r := countingRegistry(t)
	ref, _ := r.sleeper(t, "large:1", 2, 80)
	l := raise(t, 2)
	got := l.try("run", "large", "--image", ref, "--replicas", "2", "--timeout", "2m")
	if got.code != 0 {
		t.Fatalf("run: exit code %d\n%s", got.code, got.err)
	}
	for _, node := range []string{"n1", "n2"} {
		if !strings.Contains(got.err, node+" pulls "+ref) || !strings.Contains(got.err, node+" has "+ref) {
			t.Errorf("it does not tell of %s:\n%s", node, got.err)
		}
	}
}
