//go:build lab

package labtest

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	refs "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"
)

// A counter is a registry on this machine's loopback that counts what it gives.
type counter struct {
	*httptest.Server
	at   string
	sent atomic.Int64
}

func countingRegistry(t *testing.T) *counter {
	t.Helper()
	c := &counter{}
	behind := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		behind.ServeHTTP(&counted{w, &c.sent}, r)
	}))
	t.Cleanup(c.Close)
	c.at = strings.Replace(c.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	return c
}

type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// sleeper makes an image of a program that sleeps, and of layers that hold so many
// megabytes of noise each, and puts it into a registry.
func (c *counter) sleeper(t *testing.T, image string, layers, megabytes int) (ref string, size int64) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "sleeper")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./testdata/sleeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the sleeper: %v\n%s", err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	all := []v1.Layer{static.NewLayer(archive(t, entry{"sleeper", 0o755, code}), types.DockerUncompressedLayer)}
	for range layers {
		l, err := random.Layer(int64(megabytes)<<20, types.DockerLayer)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	img, err := mutate.AppendLayers(empty.Image, all...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture, cfg.Config.Entrypoint = "linux", runtime.GOARCH, []string{"/sleeper"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	full, err := refs.ParseReference(c.at+"/"+image, refs.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(full, img); err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		n, err := l.Size()
		if err != nil {
			t.Fatal(err)
		}
		size += n
	}
	c.sent.Store(0)
	return full.String(), size
}

// Five machines start the same image at once: it leaves the registry once.
func TestAnImageLeavesTheRegistryOnce(t *testing.T) {
	r := countingRegistry(t)
	ref, size := r.sleeper(t, "big:1", 3, 20)
	l := raise(t, 5)
	l.skein("run", "big", "--image", ref, "--replicas", "5", "--timeout", "2m")
	if sent := r.sent.Load(); sent > size*11/10 || sent < size {
		t.Errorf("the registry gave %d bytes for an image of %d on five machines", sent, size)
	}
	if got := l.skein("image", "ls"); !strings.Contains(got, "/big:1") {
		t.Errorf("image ls does not tell of it:\n%s", got)
	}
}

// The registry goes down after one machine has the image, whose copies then come
// from machine to machine; one of them is spoiled on its disk.
func TestARegistryThatIsDownStopsNobody(t *testing.T) {
	r := countingRegistry(t)
	ref, _ := r.sleeper(t, "web:1", 2, 5)
	l := raise(t, 4)
	l.skein("run", "web", "--image", ref, "--replicas", "2", "--timeout", "1m")
	r.Close()
	var has []string
	for _, p := range l.pods("app=web") {
		has = append(has, p.Spec.NodeName)
	}
	if len(has) != 2 || has[0] == has[1] {
		t.Fatalf("two replicas run on %v, want two machines", has)
	}
	l.spoilBlobs(has[0])
	l.skein("scale", "deploy/web", "--replicas", "4", "--timeout", "1m")
	nodes := map[string]bool{}
	for _, p := range l.pods("app=web") {
		nodes[p.Spec.NodeName] = true
	}
	if len(nodes) != 4 {
		t.Errorf("four replicas run on %v, want four machines", nodes)
	}
	// An image that nobody has cannot come from anywhere, and the Pod says why.
	l.refused(3, "refused", "run", "none", "--image", r.at+"/none:1", "--timeout", "3s")
}

// spoilBlobs changes a byte of each layer that a node keeps.
func (l *lab) spoilBlobs(node string) {
	l.Helper()
	files, err := filepath.Glob(filepath.Join(l.dataDir(node), "images", "content", "blobs", "sha256", "*"))
	if err != nil || len(files) == 0 {
		l.Fatalf("node %s keeps no blobs: %v", node, err)
	}
	n := 0
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil || info.Size() < 4<<20 {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			l.Fatal(err)
		}
		var b [1]byte
		_, rerr := f.ReadAt(b[:], info.Size()/2)
		b[0] ^= 0xff
		_, werr := f.WriteAt(b[:], info.Size()/2)
		if err := f.Close(); rerr != nil || werr != nil || err != nil {
			l.Fatal(rerr, werr, err)
		}
		n++
	}
	if n == 0 {
		l.Fatal("no layer was large enough to spoil")
	}
}

// The machine that fetches loses its power in the middle: the others go on.
func TestWhoFetchesLosesPower(t *testing.T) {
	r := countingRegistry(t)
	ref, size := r.sleeper(t, "big:2", 1, 150)
	l := raise(t, 4)
	l.skein("run", "big", "--image", ref, "--replicas", "4", "--no-wait")
	l.await(20*time.Second, "a part of the image to be sent", func() string {
		if sent := r.sent.Load(); sent < size/10 {
			return fmt.Sprint(sent, " bytes")
		}
		return ""
	})
	var fetching string
	l.await(20*time.Second, "a machine to fetch", func() string {
		for node := range l.nodes() {
			if files, _ := filepath.Glob(filepath.Join(l.dataDir(node), "images", "content", "ingest", "*", "data")); len(files) > 0 {
				fetching = node
				return ""
			}
		}
		return "none"
	})
	l.lab("kill", fetching)
	l.await(2*time.Minute, "all replicas on the machines that are left", func() string {
		var list corev1.PodList
		got := l.try("get", "pods", "-l", "app=big", "-o", "json")
		if got.code != 0 {
			return got.err // it may have led
		}
		if err := json.Unmarshal([]byte(got.out), &list); err != nil {
			return err.Error()
		}
		ready := 0
		for _, p := range list.Items {
			if p.Spec.NodeName != fetching && p.Status.Phase == "Running" {
				ready++
			}
		}
		if ready < 4 {
			return fmt.Sprint(ready, " of 4")
		}
		return ""
	})
	if sent := r.sent.Load(); sent > size*22/10 {
		t.Errorf("the registry gave %d bytes for an image of %d", sent, size)
	}
}

// derived puts an image into the registry that adds a little to another one.
func (c *counter) derived(t *testing.T, from, image string) (ref string) {
	t.Helper()
	old, err := refs.ParseReference(from, refs.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	base, err := remote.Image(old)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, static.NewLayer(archive(t, entry{"note", 0o644, []byte(image)}), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	full, err := refs.ParseReference(c.at+"/"+image, refs.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(full, img); err != nil {
		t.Fatal(err)
	}
	c.sent.Store(0)
	return full.String()
}

// A layer that a machine has as part of another image comes from there, although
// all agents were started again meanwhile and no desk remembers it.
func TestALayerOfAnotherImageComesFromAMachine(t *testing.T) {
	r := countingRegistry(t)
	ref, size := r.sleeper(t, "base:1", 2, 10)
	l := raise(t, 3)
	l.skein("run", "base", "--image", ref, "--timeout", "1m")
	next := r.derived(t, ref, "next:1")
	on := l.pods("app=base")[0].Spec.NodeName
	for node := range l.nodes() {
		l.lab("stop", node)
		l.awaitNode(comeback, node, "Unknown AgentGone")
		l.lab("start", node)
		l.awaitNode(comeback, node, "True AgentReady")
	}
	began := time.Now()
	l.await(10*time.Second, "hints that are told within 3 s", func() string {
		if since := time.Since(began); since < 3*time.Second {
			return since.String()
		}
		return ""
	})
	l.skein("run", "next", "--image", next, "--replicas", "3", "--timeout", "1m")
	nodes := map[string]bool{}
	for _, p := range l.pods("app=next") {
		nodes[p.Spec.NodeName] = true
	}
	if len(nodes) != 3 {
		t.Fatalf("it runs on %v, want three machines", nodes)
	}
	if sent := r.sent.Load(); sent > size/10 {
		t.Errorf("the registry gave %d bytes of layers that %s had, of %d", sent, on, size)
	}
}
