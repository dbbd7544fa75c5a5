package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/skein-dev/skein/runtime/image"
)

// A world is one registry that is real, with whatever stands before it, and the
// client's configuration.
type world struct {
	*testing.T
	host   string // as images name it
	img    v1.Image
	before func(w http.ResponseWriter, r *http.Request) (handled bool)
	opt    Options
	server *httptest.Server
}

// raise starts a registry with one image, web:1, which the client is told about.
func raise(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	behind := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.before == nil || r.Method == http.MethodPut || r.Method == http.MethodPost || !w.before(rw, r) {
			behind.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(s.Close)
	w.server = s
	w.host = s.Listener.Addr().String()
	var err error
	if w.img, err = random.Image(100_000, 2); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(w.host+"/web:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, w.img); err != nil {
		t.Fatal(err)
	}
	w.opt = Options{ConfigDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	w.write(w.host, fmt.Sprintf("server = \"http://%s\"\n", w.host))
	return w
}

// write notes something about a registry in the client's configuration.
func (w *world) write(host, hosts string) {
	w.Helper()
	dir := filepath.Join(w.opt.ConfigDir, strings.Replace(host, ":", "_", 1)+"_")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) open(ref string, keys ...Keys) *Source {
	w.Helper()
	s, err := New(w.opt).Open(w.Context(), ref, keys...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(s.Close)
	return s
}

// layer is the image's first one.
func (w *world) layer() image.Descriptor {
	w.Helper()
	layers, err := w.img.Layers()
	if err != nil {
		w.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		w.Fatal(err)
	}
	size, err := layers[0].Size()
	if err != nil {
		w.Fatal(err)
	}
	return image.Descriptor{Digest: d.String(), Size: size, MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip"}
}

func TestAnImageIsResolvedAndRead(t *testing.T) {
	w := raise(t)
	want, err := w.img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{w.host + "/web:1", w.host + "/web@" + want.String()} {
		s := w.open(ref)
		desc, err := s.Resolve(t.Context())
		if err != nil || desc.Digest != want.String() {
			t.Fatalf("%s: got %v, %v, want %v", ref, desc, err, want)
		}
		r, err := s.Blob(t.Context(), image.Descriptor{Digest: desc.Digest, MediaType: desc.MediaType}, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		manifest, _ := w.img.RawManifest()
		if string(got) != string(manifest) || err != nil {
			t.Errorf("the manifest came as %q, %v", got, err)
		}
		_ = r.Close()
	}
}

func TestALayerIsReadFromItsMiddle(t *testing.T) {
	const from = 40_000
	layers := func(w *world) []byte {
		l, err := w.img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		r, err := l[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(r)
		return data
	}
	tests := map[string]struct {
		serve func(data []byte, rw http.ResponseWriter, r *http.Request)
		sent  int // of the layer, 0: all of it
	}{
		"by a range": {func(data []byte, rw http.ResponseWriter, r *http.Request) {
			http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(data))
		}, from},
		"of a registry that sends all": {func(data []byte, rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write(data)
		}, 0},
		"of one that knows no ranges": {func(data []byte, rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				rw.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_, _ = rw.Write(data)
		}, 0},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			w := raise(t)
			d, data := w.layer(), layers(w)
			var sent atomic.Int64
			w.before = func(rw http.ResponseWriter, r *http.Request) bool {
				c := &counting{ResponseWriter: rw}
				tt.serve(data, c, r)
				sent.Store(int64(c.n))
				return true
			}
			r, err := w.open(w.host+"/web:1").Blob(t.Context(), d, from)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if !bytes.Equal(got, data[from:]) || err != nil {
				t.Errorf("got %d bytes, %v, want the last %d", len(got), err, len(data)-from)
			}
			w.server.Close() // and with it all that serves
			if got, want := sent.Load(), int64(len(data)-tt.sent); got != want {
				t.Errorf("the registry sent %d bytes, want %d", got, want)
			}
		})
	}
}

// counting counts what is sent.
type counting struct {
	http.ResponseWriter
	n int
}

func (c *counting) Write(p []byte) (int, error) {
	c.n += len(p)
	return c.ResponseWriter.Write(p)
}

func TestRefusalsAreToldInTheRegistrysWords(t *testing.T) {
	say := func(status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	tests := map[string]struct {
		before      func(http.ResponseWriter, *http.Request) bool
		status      int
		want        string
		denied      bool
		unreachable bool
	}{
		"denied":        {say(403, `{"errors":[{"code":"DENIED","message":"not for you"}]}`), 403, "403 forbidden", true, false},
		"no login":      {say(401, `{"errors":[{"code":"UNAUTHORIZED","message":"log in first"}]}`), 401, "401", true, false},
		"unknown":       {say(404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`), 404, "404", false, false},
		"too many":      {say(429, "slow down"), 429, "429", false, true},
		"broken":        {say(500, "<html>oops</html>"), 500, "500 internal server error", false, true},
		"in front":      {say(503, ""), 503, "503 service unavailable", false, true},
		"hangs up":      {hangUp, 0, "EOF", false, true},
		"speaks rubish": {rubbish, 0, "malformed", false, true},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			w := raise(t)
			var asked atomic.Int32
			w.before = func(rw http.ResponseWriter, r *http.Request) bool {
				asked.Add(1)
				return tt.before(rw, r)
			}
			_, err := w.open(w.host + "/web:1").Resolve(t.Context())
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got error %v, want an *Error", err)
			}
			if e.Status != tt.status || e.Denied() != tt.denied || e.Unreachable() != tt.unreachable || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("got %q, status %d, denied %v, unreachable %v; want %q in it, %d, %v, %v",
					e, e.Status, e.Denied(), e.Unreachable(), tt.want, tt.status, tt.denied, tt.unreachable)
			}
			if after, _ := e.Again(); tt.status != 0 && after != 7*time.Second {
				t.Errorf("it is to be asked again after %v, want 7s", after)
			}
			if n := asked.Load(); n > 6 {
				t.Errorf("it was asked %d times", n)
			}
			if strings.Contains(e.Error(), "\n") {
				t.Errorf("the reason has more than one line: %q", e)
			}
		})
	}
}

func hangUp(w http.ResponseWriter, _ *http.Request) bool {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = c.Close()
	}
	return true
}

func rubbish(w http.ResponseWriter, _ *http.Request) bool {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
		_ = c.Close()
	}
	return true
}

// A tag is read whole where the registry does not tell its digest in a header.
func TestARegistryThatCannotHEAD(t *testing.T) {
	w := raise(t)
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		rw.WriteHeader(http.StatusMethodNotAllowed)
		return true
	}
	want, _ := w.img.Digest()
	if got, err := w.open(w.host + "/web:1").Resolve(t.Context()); err != nil || got.Digest != want.String() {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestMirrorsAreAskedFirst(t *testing.T) {
	w := raise(t)
	elsewhere := "registry.example"
	dir := filepath.Join(w.opt.ConfigDir, elsewhere)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = \"https://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", elsewhere, w.host)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want, _ := w.img.Digest()
	got, err := w.open(elsewhere + "/web:1").Resolve(t.Context())
	if err != nil || got.Digest != want.String() {
		t.Errorf("got %v, %v, want %v from the mirror", got, err, want)
	}
}

func TestASlowRegistryIsGivenUp(t *testing.T) {
	w := raise(t)
	release := make(chan struct{})
	w.before = func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := w.open(w.host + "/web:1").Resolve(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}
