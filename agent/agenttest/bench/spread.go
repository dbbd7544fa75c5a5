package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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
)

// The image that is spread: layers of noise and a program.
const (
	spreadNodes  = 5
	spreadLayers = 6
	spreadEach   = 50 << 20 // bytes of each layer
)

// spreadLine is the pace of a registry behind a line of 400 Mbit/s, in bytes a
// second. Where the registry is as fast as this machine, five machines that share
// its processors are measured, and not how the image is spread.
const spreadLine = 50_000_000

// spread times a large image to one machine, and another as large to five at once,
// and counts what the registry gives for these.
func spread(ctx context.Context, b *bench) error {
	if err := b.spread(ctx, "a 300 MB image at 50 MB/s", spreadLine); err != nil {
		return err
	}
	return b.spread(ctx, "a 300 MB image, as fast as may be", 0)
}

func (b *bench) spread(ctx context.Context, what string, pace int64) error {
	one := figure{name: what + ": one machine ready", unit: "s"}
	last := figure{name: "5 machines at once: the last one ready", unit: "s", goal: "2 x one machine"}
	times := figure{name: "that, of the time of one machine", unit: "times", goal: "2"}
	given := figure{name: "what the registry gave for it, of the image", unit: "times", goal: "1.1"}
	for range b.runs {
		err := b.with(ctx, spreadNodes, func(l *lab) error {
			r, err := newRegistry(b.dir, pace)
			if err != nil {
				return err
			}
			defer r.end()
			alone, err := l.pull(r, "one", 1)
			if err != nil {
				return err
			}
			all, err := l.pull(r, "five", spreadNodes)
			if err != nil {
				return err
			}
			one.values = append(one.values, seconds(alone.took))
			last.values = append(last.values, seconds(all.took))
			times.values = append(times.values, seconds(all.took)/seconds(alone.took))
			given.values = append(given.values, float64(all.sent)/float64(all.size))
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, f := range []figure{one, last, times, given} {
		b.tell(f)
	}
	return nil
}

// pulled is how an image came to some machines.
type pulled struct {
	took       time.Duration
	sent, size int64 // bytes that the registry gave, and of the image
}

// pull runs a new image on so many machines, one Pod on each.
func (l *lab) pull(r *counted, name string, replicas int) (pulled, error) {
	ref, size, err := r.image(name)
	if err != nil {
		return pulled{}, err
	}
	if err := l.whole(spreadNodes); err != nil {
		return pulled{}, err
	}
	before := r.sent.Load()
	took, err := spent(func() error {
		_, err := l.skein("run", name, "--image", ref, "--replicas", fmt.Sprint(replicas), "--timeout", "3m")
		return err
	})
	if err != nil {
		return pulled{}, err
	}
	sent := r.sent.Load() - before
	pods, err := l.ready()
	if err != nil {
		return pulled{}, err
	}
	nodes := map[string]bool{}
	for _, p := range pods {
		if strings.HasPrefix(p.name, name+"-") {
			nodes[p.node] = true
		}
	}
	if len(nodes) != replicas {
		return pulled{}, fmt.Errorf("%d Pods run on %d machines", replicas, len(nodes))
	}
	_, err = l.skein("delete", "deploy/"+name)
	return pulled{took: took, sent: sent, size: size}, err
}

// counted is a registry on this machine's loopback, which the lab reaches by its
// way out, that counts what it gives.
type counted struct {
	*httptest.Server
	at   string
	dir  string
	pace int64 // bytes a second; 0: as fast as may be
	sent atomic.Int64

	mu   sync.Mutex
	next time.Time // when the line is free
}

func newRegistry(in string, pace int64) (*counted, error) {
	dir, err := os.MkdirTemp(in, "registry-")
	if err != nil {
		return nil, err
	}
	c := &counted{dir: dir, pace: pace}
	behind := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)), registry.WithBlobHandler(registry.NewDiskBlobHandler(dir)))
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		behind.ServeHTTP(&meter{w, c}, r)
	}))
	_, port, err := net.SplitHostPort(c.Listener.Addr().String())
	c.at = "localhost:" + port
	return c, err
}

func (c *counted) end() {
	c.Close()
	_ = os.RemoveAll(c.dir) // all of it goes at the end of the run
}

// wait holds up n bytes as the line does.
func (c *counted) wait(n int) {
	c.sent.Add(int64(n))
	if c.pace == 0 {
		return
	}
	c.mu.Lock()
	now := time.Now()
	if c.next.Before(now) {
		c.next = now
	}
	c.next = c.next.Add(time.Duration(n) * time.Second / time.Duration(c.pace))
	until := c.next
	c.mu.Unlock()
	time.Sleep(time.Until(until))
}

type meter struct {
	http.ResponseWriter
	line *counted
}

// Write counts, at the pace of the line.
func (m *meter) Write(p []byte) (int, error) {
	m.line.wait(len(p))
	return m.ResponseWriter.Write(p)
}

// programLayer is a layer of a program, at /demo, that no image of another name
// has.
func programLayer(path, name string) (v1.Layer, error) {
	code, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "of-" + name}); err != nil {
		return nil, err
	}
	if err := w.WriteHeader(&tar.Header{Name: "demo", Mode: 0o755, Size: int64(len(code))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(code); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(b.Bytes(), types.DockerUncompressedLayer), nil
}

// image puts a new image into the registry, and tells its size in bytes.
func (c *counted) image(name string) (ref string, size int64, err error) {
	program, err := programLayer(filepath.Join("bin", "payload", "demo"), name)
	if err != nil {
		return "", 0, err
	}
	all := []v1.Layer{program}
	for range spreadLayers {
		l, err := random.Layer(spreadEach, types.DockerLayer)
		if err != nil {
			return "", 0, err
		}
		all = append(all, l)
	}
	img, err := mutate.AppendLayers(empty.Image, all...)
	if err != nil {
		return "", 0, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return "", 0, err
	}
	cfg.OS, cfg.Architecture, cfg.Config.Entrypoint = "linux", runtime.GOARCH, []string{"/demo"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return "", 0, err
	}
	full, err := refs.ParseReference(c.at+"/"+name+":1", refs.Insecure)
	if err != nil {
		return "", 0, err
	}
	if err := remote.Write(full, img); err != nil {
		return "", 0, err
	}
	for _, l := range all {
		n, err := l.Size()
		if err != nil {
			return "", 0, err
		}
		size += n
	}
	return full.String(), size, nil
}
