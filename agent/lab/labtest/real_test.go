//go:build lab

package labtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	refs "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skein-dev/skein/runtime/runc"
)

// programs are images of Debian's packages, as "make images" leaves them, with
// what they are started by in their package, as their usual users.
var programs = []struct {
	image, manifest string
	ask             []string // in the container
	want            string
}{
	{"nginx:1.22", `
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {app: nginx}}
spec:
  containers:
  - name: nginx
    image: $IMAGE
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    volumeMounts: [{name: www, mountPath: /var/www/html}]
  initContainers:
  - name: page
    image: $IMAGE
    command: [sh, -c, "echo it is nginx >/www/index.html"]
    volumeMounts: [{name: www, mountPath: /www}]
  volumes: [{name: www, emptyDir: {}}]
`, []string{"cat", "/var/www/html/index.html"}, "it is nginx"},
	{"apache:2.4", `
apiVersion: v1
kind: Pod
metadata: {name: apache, labels: {app: apache}}
spec:
  containers:
  - name: apache
    image: $IMAGE
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    volumeMounts: [{name: www, mountPath: /var/www/html, readOnly: true}]
  initContainers:
  - name: page
    image: $IMAGE
    command: [sh, -c, "echo it is apache >/www/index.html"]
    volumeMounts: [{name: www, mountPath: /www}]
  volumes: [{name: www, emptyDir: {}}]
`, []string{"cat", "/var/www/html/index.html"}, "it is apache"},
	{"redis:7", `
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis}}
spec:
  securityContext: {fsGroup: 999, runAsNonRoot: false}
  containers:
  - name: redis
    image: $IMAGE
    readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
`, []string{"sh", "-c", "redis-cli set k kept >/dev/null && redis-cli save && ls -l /data && id -un"}, "dump.rdb"},
	{"postgres:15", `
apiVersion: v1
kind: Pod
metadata: {name: postgres, labels: {app: postgres}}
spec:
  containers:
  - name: postgres
    image: $IMAGE
    args: [-k, /tmp]
    command: [postgres]
    readinessProbe: {exec: {command: [pg_isready, -h, /tmp]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  initContainers:
  - name: own
    image: $IMAGE
    command: [chown, postgres, /var/lib/postgresql/data]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  - name: init
    image: $IMAGE
    command: [initdb, --auth=trust]
    volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumes: [{name: data, emptyDir: {}}]
`, []string{"psql", "-h", "/tmp", "-Atc", "select current_user || ' ' || 6*7"}, "postgres 42"},
	{"python:3.11", `
apiVersion: v1
kind: Pod
metadata: {name: python, labels: {app: python}}
spec:
  containers:
  - name: python
    image: $IMAGE
    args: [python3, -c, "import http.server as h; h.HTTPServer(('', 8080), h.SimpleHTTPRequestHandler).serve_forever()"]
    workingDir: /data
    securityContext: {runAsUser: 65534, readOnlyRootFilesystem: true}
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {medium: Memory}}]
`, []string{"python3", "-c", "import os; open('/data/x', 'w'); print(os.getuid(), os.listdir('/data'))"}, "65534 ['x']"},
}

// debianRegistry runs Debian's docker-registry on this machine's loopback, as somebody
// would who tries skein on a laptop, and returns its address.
func debianRegistry(t *testing.T) string {
	t.Helper()
	at := fmt.Sprintf("localhost:%d", freePort(t))
	config := filepath.Join(t.TempDir(), "registry.yml")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", t.TempDir(), at)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Debian's docker-registry, which \"make lab-test\" installs: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
			return at
		}
		if time.Now().After(deadline) {
			t.Fatalf("docker-registry does not listen: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// upload puts an image of "make images" into a registry.
func upload(t *testing.T, at, image string) string {
	t.Helper()
	archive := filepath.Join(cmpOr(os.Getenv("SKEIN_IMAGES"), "../../../.cache/images"), strings.Split(image, ":")[0]+".tar")
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatalf("read what \"make images\" makes: %v", err)
	}
	ref, err := refs.ParseReference(at+"/"+image, refs.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

// Programs as Debian has them run from a real registry, unmodified, as their usual
// users, and keep their data in a volume.
func TestRealPrograms(t *testing.T) {
	runPrograms(t, raise(t, 3), func(manifest string) string { return manifest })
}

// And so they do where their root is nobody on the machine.
func TestRealProgramsWithUsersOfTheirOwn(t *testing.T) {
	l := raise(t, 1)
	runPrograms(t, l, func(manifest string) string {
		return strings.Replace(manifest, "spec:\n", "spec:\n  hostUsers: false\n", 1)
	})
	// Root of nginx is not that of the machine.
	said := l.skein("exec", "nginx", "--", "cat", "/proc/self/uid_map")
	if f := strings.Fields(said); len(f) != 3 || f[0] != "0" || f[1] == "0" || f[2] != "65536" {
		t.Errorf("its users are %q", said)
	}
	if got := l.copyIn("nginx", "/var/www/html/new", 10); got.code != 0 {
		t.Errorf("cp: %s", got.err)
	}
	if said := l.skein("exec", "nginx", "--", "ls", "-n", "/var/www/html/new"); len(strings.Fields(said)) < 4 || strings.Fields(said)[2] != "0" {
		t.Errorf("what was copied in belongs to %q", said)
	}
	l.skein("delete", "pods", "nginx", "apache", "redis", "postgres", "python")
	users, err := filepath.Glob(filepath.Join(runc.UsersDir(filepath.Join(l.dir, "n1", "data")), "*"))
	if err != nil || len(users) > 0 {
		t.Errorf("left of the Pods: %v, %v", users, err)
	}
}

func runPrograms(t *testing.T, l *lab, change func(manifest string) string) {
	t.Helper()
	at := debianRegistry(t)
	for _, p := range programs {
		image := upload(t, at, p.image)
		l.apply(strings.ReplaceAll(change(p.manifest), "$IMAGE", image), "--timeout", "3m")
		pod := strings.Split(p.image, ":")[0]
		if got := l.skein(append([]string{"exec", pod, "--"}, p.ask...)...); !strings.Contains(got, p.want) {
			t.Errorf("%s: %v printed %q, want %q in it", pod, p.ask, got, p.want)
		}
	}
}
