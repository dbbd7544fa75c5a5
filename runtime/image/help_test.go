package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

const unpackVerb = "unpack-for-test"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == unpackVerb {
		os.Exit(UnpackMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == fetchVerb {
		os.Exit(fetchMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// unpackCommand is this very program. Built to find races it would sleep for a
// second before it exits, in case there is one to tell.
func unpackCommand(t testing.TB) []string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	return []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", self, unpackVerb}
}

// open opens a store in dir; it is closed with the test at the latest.
func open(t *testing.T, dir string, change ...func(*Options)) *Store {
	t.Helper()
	opt := Options{
		Dir: dir, UnpackCommand: unpackCommand(t),
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&opt)
	}
	s, err := Open(opt)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// entries are what a layer is made of.
type entry = tar.Header

func file(name, text string) entry {
	return entry{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), PAXRecords: map[string]string{"SKEIN.text": text}}
}
func dir(name string) entry { return entry{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
func symlink(name, to string) entry {
	return entry{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}
}

func hardlink(name, to string) entry {
	return entry{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}
}

// layer writes a tar. The text of a file travels in a record of file's own.
func layer(t testing.TB, list ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range list {
		text := h.PAXRecords["SKEIN.text"]
		if text != "" {
			h.PAXRecords = nil
		}
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, text)
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(data, nil)
}

func asIs(_ testing.TB, data []byte) []byte { return data }

// An image under construction: blobs by digest.
type builder struct {
	t     testing.TB
	blobs map[digest.Digest][]byte
}

func newBuilder(t testing.TB) *builder {
	return &builder{t: t, blobs: map[digest.Digest][]byte{}}
}

func (b *builder) add(data []byte, mediaType string) ocispec.Descriptor {
	d := digest.FromBytes(data)
	b.blobs[d] = data
	return ocispec.Descriptor{Digest: d, Size: int64(len(data)), MediaType: mediaType}
}

func (b *builder) json(v any, mediaType string) ocispec.Descriptor {
	b.t.Helper()
	data, err := json.Marshal(v)
	must(b.t, err)
	return b.add(data, mediaType)
}

// image makes an image for arch of layers compressed by pack. change may spoil
// its configuration.
func (b *builder) image(arch string, pack func(testing.TB, []byte) []byte, change func(*ocispec.Image), layers ...[]byte) ocispec.Descriptor {
	b.t.Helper()
	cfg := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		RootFS:   ocispec.RootFS{Type: "layers"},
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/bin/demo"}, Env: []string{"PATH=/bin"}},
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l))
		packed := pack(b.t, l)
		m.Layers = append(m.Layers, b.add(packed, detect(packed).mediaType()))
	}
	if change != nil {
		change(&cfg)
	}
	m.Config = b.json(cfg, ocispec.MediaTypeImageConfig)
	return b.json(m, ocispec.MediaTypeImageManifest)
}

// layout writes an OCI layout of what was added, its images named.
func (b *builder) layout(named map[string]ocispec.Descriptor) []byte {
	b.t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for name, d := range named {
		d.Annotations = map[string]string{"io.containerd.image.name": name}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	must(b.t, err)
	list := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", string(data))}
	for d, blob := range b.blobs {
		list = append(list, file("blobs/sha256/"+d.Encoded(), string(blob)))
	}
	return layer(b.t, list...)
}

// simple is an archive of one image with these layers, and its digest.
func simple(t testing.TB, name string, layers ...[]byte) ([]byte, string) {
	t.Helper()
	b := newBuilder(t)
	d := b.image(runtime.GOARCH, gz, nil, layers...)
	return b.layout(map[string]ocispec.Descriptor{name: d}), d.Digest.String()
}

func load(t testing.TB, s *Store, archive []byte) []Imported {
	t.Helper()
	list, err := s.Import(t.Context(), bytes.NewReader(archive))
	if err != nil {
		t.Fatalf("import: %v", err)
	}
	return list
}

// mounted mounts a root file system of an image and returns the folder.
func mounted(t *testing.T, s *Store, key, digest string) string {
	t.Helper()
	mounts, err := s.Mounts(t.Context(), key, digest)
	if err != nil {
		t.Fatalf("mounts of %s: %v", key, err)
	}
	return mountAt(t, mounts)
}

func mountAt(t *testing.T, mounts []container.Mount) string {
	t.Helper()
	at := t.TempDir()
	for _, m := range mounts {
		var flags uintptr
		var data []string
		for _, o := range m.Options {
			switch o {
			case "rbind":
				flags |= unix.MS_BIND | unix.MS_REC
			case "rw":
			case "ro":
				flags |= unix.MS_RDONLY
			default:
				data = append(data, o)
			}
		}
		if err := unix.Mount(m.Source, at, m.Type, flags, strings.Join(data, ",")); err != nil {
			t.Fatalf("mount %+v: %v", m, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
	}
	return at
}

// tree lists everything under a folder: what it is and what it holds.
func treeOf(t testing.TB, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name := strings.TrimPrefix(path, root+"/")
		switch {
		case d.IsDir():
			got[name] = "dir"
		case d.Type()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			got[name] = "-> " + to
			return err
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			got[name] = string(data)
			return err
		default:
			got[name] = d.Type().String()
		}
		return nil
	}))
	return got
}

// blobsOf lists the blobs that are on the disk.
func blobsOf(t testing.TB, s *Store) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(s.opt.Dir, "content/blobs/sha256/*"))
	must(t, err)
	return list
}

// snapshotsOf lists the folders of snapshots that are on the disk.
func snapshotsOf(t testing.TB, s *Store) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(s.opt.Dir, "snapshots/snapshots/*"))
	must(t, err)
	return list
}
