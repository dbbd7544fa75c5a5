package image

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestNamesHaveOneForm(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx":                                 "nginx:latest",
		"docker.io/library/nginx:1":             "nginx:1",
		"skein/demo:v1":                         "skein/demo:v1",
		"docker.io/skein/demo:v1":               "skein/demo:v1",
		"index.docker.io/skein/demo":            "skein/demo:latest",
		"ghcr.io/a/b:c":                         "ghcr.io/a/b:c",
		"localhost:5000/x":                      "localhost:5000/x:latest",
		"x@sha256:" + strings.Repeat("0", 64):   "x@sha256:" + strings.Repeat("0", 64),
		"x:1@sha256:" + strings.Repeat("0", 64): "x:1@sha256:" + strings.Repeat("0", 64),
	} {
		if got, err := Familiar(ref); err != nil || got != want {
			t.Errorf("Familiar(%q) = %q, %v, want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{"", "UPPER", "a b", "x:", "-x", "x@sha256:1", strings.Repeat("0", 64)} {
		if got, err := Familiar(ref); err == nil {
			t.Errorf("Familiar(%q) = %q, want an error", ref, got)
		}
	}
}

func TestANameWithADigestMeansThatDigest(t *testing.T) {
	s := open(t, t.TempDir())
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	if got, err := s.Resolve(t.Context(), "web@"+d); err != nil || got.Digest != d {
		t.Errorf("web@%s is %+v, %v", d, got, err)
	}
	if _, err := s.Resolve(t.Context(), "web@sha256:"+strings.Repeat("0", 64)); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown digest: error %v, want %v", err, ErrNotFound)
	}
}

func TestConfigTellsWhatTheImageSays(t *testing.T) {
	s := open(t, t.TempDir())
	b := newBuilder(t)
	d := b.image(runtime.GOARCH, gz, func(img *ocispec.Image) {
		img.Config = ocispec.ImageConfig{
			Entrypoint: []string{"/bin/demo"}, Cmd: []string{"serve"}, Env: []string{"A=1", "B="}, WorkingDir: "srv/../data/",
			User: "demo:1000", ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}}, StopSignal: "SIGINT",
			Volumes: map[string]struct{}{"/../../etc": {}, "data/": {}, "/data": {}}, Labels: map[string]string{"containerd.io/gc.root": "x", "skein.dev/size": "9"},
		}
	}, hello(t))
	load(t, s, b.layout(map[string]ocispec.Descriptor{"web:1": d}))
	got, err := s.Config(t.Context(), d.Digest.String())
	must(t, err)
	want := Config{
		Entrypoint: []string{"/bin/demo"}, Cmd: []string{"serve"}, Env: []string{"A=1", "B="}, WorkingDir: "/data",
		User: "demo:1000", ExposedPorts: []string{"53/udp", "8080/tcp"}, StopSignal: "SIGINT",
		Volumes: []string{"/data", "/etc"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	info, err := s.content.Info(s.context(t.Context()), d.Digest)
	must(t, err)
	for k := range info.Labels {
		if !strings.HasPrefix(k, labelRefContent) {
			t.Errorf("label %q is on the blob", k)
		}
	}
}

// manyVolumes goes on after the first of more volumes than an image may have.
func manyVolumes() string {
	var b strings.Builder
	b.WriteString("{}")
	for i := range maxVolumes {
		fmt.Fprintf(&b, `,"/v%d":{}`, i)
	}
	return b.String()
}

func TestConfigsThatAreRefused(t *testing.T) {
	tests := map[string]string{
		`{"config":{"User":"4294967296"}}`:                            "no user",
		`{"config":{"User":"2147483648"}}`:                            "no user",
		`{"config":{"User":"1:99999999999999999999"}}`:                "no user",
		`{"config":{"User":"a:b:c"}}`:                                 "no user",
		`{"config":{"User":"../x"}}`:                                  "no user",
		`{"config":{"Env":["NOVALUE"]}}`:                              "no variable",
		`{"config":{"Env":["=x"]}}`:                                   "no variable",
		`{"config":{"Cmd":["a\u0000b"]}}`:                             "zero byte",
		`{"config":{"StopSignal":"; rm -rf"}}`:                        "no signal",
		`{"config":{"Cmd":["` + strings.Repeat("x", 600<<10) + `"]}}`: "KiB of arguments",
		`{"config":{"Cmd":[` + strings.Repeat(`"",`, 5000) + `""]}}`:  "5001 arguments",
		`{"config":{"Volumes":{"/a\u0000b":{}}}}`:                     "zero byte",
		`{"config":{"Volumes":{"/x":` + manyVolumes() + `}}}`:         "129 volumes",
		`{"os":"plan9","architecture":"mips"}`:                        "no image for",
		`{"rootfs":{"type":"tape","diff_ids":["sha256:x"]}}`:          "type",
		`{"rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`:        "no digest",
		`[`: "no image configuration",
		strings.Repeat(`{"config":`, 20_000) + `1` + strings.Repeat(`}`, 20_000): "no image configuration",
	}
	for data, want := range tests {
		_, err := parseConfiguration([]byte(data))
		var refused *InvalidError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got error %v, want an InvalidError that says %q", data, err, want)
		}
	}
}

// Whatever the bytes, a manifest or a configuration is read or refused.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":1},"layers":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux"}}]}`))
	f.Add([]byte(`{"os":"linux","config":{"User":"1:2","ExposedPorts":{"1/tcp":{}}},"rootfs":{"type":"layers"}}`))
	l := Limits{}.withDefaults()
	f.Fuzz(func(t *testing.T, data []byte) {
		if doc, err := parseDocument(data, l); err == nil {
			for _, m := range slices.Concat(doc.pick(), doc.Layers) {
				if _, err := parseDigest(m.Digest.String()); err != nil {
					t.Errorf("a document with a bad digest was read: %v", err)
				}
			}
		}
		if c, err := parseConfiguration(data); err == nil && c.WorkingDir != "" && !filepath.IsAbs(c.WorkingDir) {
			t.Errorf("the working directory %q is not absolute", c.WorkingDir)
		}
	})
}
