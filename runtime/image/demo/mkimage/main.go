// Package main writes the archive of the demo images: an OCI layout in a tar
// with skein/demo:v1, skein/demo:v2 and skein/demo:bad. The same program in
// gives the same bytes out. They share the layer that holds the program and
// differ in one small file.
//
// It knows the format, not this repository's image store, so that one can be
// tried on the other.
package main

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // for digests
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: mkimage PROGRAM ARCH OUT.tar.zst")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

// versions are the tags.
var versions = []string{"v1", "v2", "bad"}

func write(program, arch, out string) error {
	code, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive, err := build(code, arch)
	if err != nil {
		return err
	}
	return os.WriteFile(out, archive, 0o644) //nolint:gosec // nothing in it is secret
}

// An item is a file, a folder or a link of a tar.
type item struct {
	tar.Header
	data []byte
}

// layout collects blobs in the order they are added.
type layout struct {
	items []item
	seen  map[digest.Digest]bool
}

func build(program []byte, arch string) ([]byte, error) {
	l := &layout{seen: map[digest.Digest]bool{}}
	base, err := pack(tarred(
		folder("bin/", 0o755), file("bin/demo", 0o755, program),
		folder("etc/", 0o755), file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/demo\ndemo:x:1000:1000:demo:/tmp:/bin/demo\n")),
		file("etc/group", 0o644, []byte("root:x:0:\ndemo:x:1000:\n")),
		folder("root/", 0o700), folder("tmp/", 0o1777),
	))
	if err != nil {
		return nil, err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, v := range versions {
		top, err := pack(tarred(folder("etc/", 0o755), folder("etc/demo/", 0o755), file("etc/demo/version", 0o644, []byte(v+"\n"))))
		if err != nil {
			return nil, err
		}
		d, err := l.image(arch, v, base, top)
		if err != nil {
			return nil, err
		}
		index.Manifests = append(index.Manifests, d)
	}
	text, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	items := append(l.items, file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)), file("index.json", 0o644, text))
	return compress(tarred(items...))
}

// A packed layer is known by two digests.
type packed struct {
	data []byte
	diff digest.Digest // before it was compressed
}

func pack(data []byte) (packed, error) {
	z, err := compress(data)
	return packed{data: z, diff: digest.FromBytes(data)}, err
}

// image adds an image and returns its descriptor, named.
func (l *layout) image(arch, version string, layers ...packed) (ocispec.Descriptor, error) {
	cfg := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		RootFS:   ocispec.RootFS{Type: "layers"},
		Config: ocispec.ImageConfig{
			Entrypoint: []string{"/bin/demo"}, Env: []string{"PATH=/bin"}, WorkingDir: "/",
			User: "demo", ExposedPorts: map[string]struct{}{"8080/tcp": {}}, StopSignal: "SIGTERM",
		},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, p := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, p.diff)
		m.Layers = append(m.Layers, l.blob(ocispec.MediaTypeImageLayerZstd, p.data))
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m.Config = l.blob(ocispec.MediaTypeImageConfig, data)
	if data, err = json.Marshal(m); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := l.blob(ocispec.MediaTypeImageManifest, data)
	d.Annotations = map[string]string{
		"io.containerd.image.name": "docker.io/skein/demo:" + version,
		ocispec.AnnotationRefName:  version,
	}
	return d, nil
}

func (l *layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	if !l.seen[d] {
		l.seen[d] = true
		l.items = append(l.items, file("blobs/sha256/"+d.Encoded(), 0o644, data))
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// epoch is when everything in the images was made.
var epoch = time.Unix(0, 0).UTC()

func file(name string, mode int64, data []byte) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data)), ModTime: epoch}, data}
}

func folder(name string, mode int64) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: epoch}, nil}
}

// tarred writes a tar into memory, where nothing can fail but our own headers.
func tarred(items ...item) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, i := range items {
		if err := w.WriteHeader(&i.Header); err != nil {
			panic(fmt.Sprintf("header of %s: %v", i.Name, err))
		}
		if _, err := io.Copy(w, bytes.NewReader(i.data)); err != nil {
			panic(fmt.Sprintf("content of %s: %v", i.Name, err))
		}
	}
	if err := w.Close(); err != nil {
		panic(fmt.Sprintf("end of a tar: %v", err))
	}
	return buf.Bytes()
}

// compress is the best that zstd does within the 8 MiB window that every
// reader allows. One core gives the same bytes everywhere.
func compress(data []byte) ([]byte, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(data, nil), z.Close()
}
