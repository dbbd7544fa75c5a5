//go:build lab

package labtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// visitor builds the program in testdata and makes an archive of it as "docker
// save" does: one image, visitor:1.
func visitor(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "visitor")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./testdata/visitor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the visitor: %v\n%s", err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	layer := archive(t, entry{"visitor", 0o755, code})
	config := marshal(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/visitor"}, "User": "1000"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest := marshal(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{"visitor:1"}, "Layers": []string{"one/layer.tar"}}})
	path := filepath.Join(t.TempDir(), "visitor.tar")
	whole := archive(t, entry{"config.json", 0o644, config}, entry{"one/layer.tar", 0o644, layer}, entry{"manifest.json", 0o644, manifest})
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type entry struct {
	name string
	mode int64
	data []byte
}

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: e.mode, Size: int64(len(e.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAnImageImportedToOneNodeRunsOnAllAndDiesOfTooMuchMemory(t *testing.T) {
	l := raise(t, 3)
	l.skein("image", "import", visitor(t))
	contains(l, "image ls", l.skein("image", "ls"), "visitor")
	begin := time.Now()
	l.skein("run", "calm", "--image", "visitor:1", "--replicas", "3", "--memory", "64Mi", "--timeout", "30s", "--", "eat", "5")
	t.Logf("an image that one node had ran on three after %.2f s", time.Since(begin).Seconds())
	l.awaitSpread(time.Second, "app=calm", map[string]int{"n1": 1, "n2": 1, "n3": 1})

	l.apply(`
apiVersion: v1
kind: Pod
metadata: {name: glutton, labels: {app: glutton}}
spec:
  restartPolicy: Never
  containers:
  - name: eat
    image: visitor:1
    args: [eat, "200"]
    resources: {limits: {memory: 20Mi}}
`, "--no-wait")
	l.await(20*time.Second, "the glutton is killed", func() string {
		p := l.pod("glutton")
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Terminated == nil {
			return string(marshal(t, p.Status))
		}
		return ""
	})
	p := l.pod("glutton")
	end := p.Status.ContainerStatuses[0].State.Terminated
	if end.Reason != "OOMKilled" || end.ExitCode != 137 || p.Status.Phase != corev1.PodFailed {
		t.Errorf("a container that outgrew its limit: %s, code %d, phase %s, want OOMKilled, 137, Failed", end.Reason, end.ExitCode, p.Status.Phase)
	}
	contains(l, "get pods", l.skein("get", "pods"), "OOMKilled")
}
