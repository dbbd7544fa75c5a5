package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func hello(t testing.TB) []byte { return layer(t, dir("bin/"), file("bin/demo", "a program")) }

func TestAnArchiveIsImportedHoweverItIsCompressed(t *testing.T) {
	for name, pack := range map[string]func(testing.TB, []byte) []byte{"plain": asIs, "gzip": gz, "zstd": zst} {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t)
			d := b.image(runtime.GOARCH, pack, nil, hello(t))
			s := open(t, t.TempDir())
			got := load(t, s, pack(t, b.layout(map[string]ocispec.Descriptor{"docker.io/skein/demo:v1": d})))
			if len(got) != 1 || got[0].Reference != "skein/demo:v1" || got[0].Digest != d.Digest.String() {
				t.Fatalf("imported %+v, want skein/demo:v1 as %s", got, d.Digest)
			}
			if !s.Has(t.Context(), got[0].Digest) {
				t.Error("the image is not here after its import")
			}
			desc, err := s.Resolve(t.Context(), "docker.io/skein/demo:v1")
			must(t, err)
			if diff := cmp.Diff(got[0].Descriptor, desc); diff != "" {
				t.Errorf("resolved (-imported +resolved):\n%s", diff)
			}
			root := mounted(t, s, "k", desc.Digest)
			if diff := cmp.Diff(map[string]string{"bin": "dir", "bin/demo": "a program"}, treeOf(t, root)); diff != "" {
				t.Errorf("root (-want +got):\n%s", diff)
			}
		})
	}
}

// dockerSave writes what docker save wrote before it knew OCI layouts.
func dockerSave(t testing.TB, tags []string, layers ...[]byte) []byte {
	t.Helper()
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
	var list []entry
	m := saved{RepoTags: tags}
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l))
		name := fmt.Sprintf("%064d/layer.tar", i)
		if i > 0 && bytes.Equal(l, layers[i-1]) { // a layer that repeats is a link
			list = append(list, symlink(name, path.Join("..", m.Layers[i-1])))
		} else {
			list = append(list, file(path.Dir(name)+"/VERSION", "1.0"), file(path.Dir(name)+"/json", "{}"), file(name, string(l)))
		}
		m.Layers = append(m.Layers, name)
	}
	data, err := json.Marshal(cfg)
	must(t, err)
	m.Config = digest.FromBytes(data).Encoded() + ".json"
	list = append(list, file(m.Config, string(data)))
	data, err = json.Marshal([]saved{m})
	must(t, err)
	return layer(t, append(list, file("manifest.json", string(data)), file("repositories", "{}"))...)
}

func TestAnOldDockerSaveIsImportedUnderAllItsTags(t *testing.T) {
	s := open(t, t.TempDir())
	top := layer(t, file("etc/motd", "hi"))
	got := load(t, s, dockerSave(t, []string{"web:1", "web"}, hello(t), top, top))
	if len(got) != 2 || got[0].Reference != "web:1" || got[1].Reference != "web:latest" || got[0].Digest != got[1].Digest {
		t.Fatalf("imported %+v, want web:1 and web:latest with one digest", got)
	}
	want := map[string]string{"bin": "dir", "bin/demo": "a program", "etc": "dir", "etc/motd": "hi"}
	if diff := cmp.Diff(want, treeOf(t, mounted(t, s, "k", got[0].Digest))); diff != "" {
		t.Errorf("root (-want +got):\n%s", diff)
	}
	list, err := s.List(t.Context())
	must(t, err)
	if diff := cmp.Diff([]Image{{References: []string{"web:1", "web:latest"}, Digest: got[0].Digest, Size: got[0].Size}}, list, cmpopts.IgnoreFields(Image{}, "Used")); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestWhenAnImageWasUsedIsKeptToTheHour(t *testing.T) {
	s := open(t, t.TempDir())
	archive, _ := simple(t, "web:1", hello(t))
	load(t, s, archive)
	when := func() time.Time {
		list, err := s.List(t.Context())
		must(t, err)
		return list[0].Used
	}
	began := when()
	if since := time.Since(began); since < 0 || since > time.Minute {
		t.Errorf("a new image was used %v ago", since)
	}
	must(t, s.Use(t.Context(), "web:1", began.Add(30*time.Minute)))
	if got := when(); !got.Equal(began) {
		t.Errorf("used %v later, half an hour is not worth a write", got.Sub(began))
	}
	for _, later := range []time.Duration{2 * time.Hour, 90 * time.Minute} { // also by a clock that was set back
		must(t, s.Use(t.Context(), "docker.io/library/web:1", began.Add(later)))
		if got := when(); !got.Equal(began.Add(later)) {
			t.Errorf("used %v later, want %v", got.Sub(began), later)
		}
	}
	if err := s.Use(t.Context(), "nobody:1", began); !errors.Is(err, ErrNotFound) {
		t.Errorf("a name that is not here: error %v, want %v", err, ErrNotFound)
	}
}

func TestImportingTwiceChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	archive := dockerSave(t, []string{"web:1"}, hello(t))
	first := load(t, s, archive)
	if diff := cmp.Diff(first, load(t, s, archive)); diff != "" {
		t.Errorf("second import (-first +second):\n%s", diff)
	}
}

func TestANameGoesOverToTheImageImportedLast(t *testing.T) {
	s := open(t, t.TempDir())
	one, first := simple(t, "web:1", hello(t))
	two, second := simple(t, "web:1", layer(t, file("other", "thing")))
	load(t, s, one)
	load(t, s, two)
	desc, err := s.Resolve(t.Context(), "web:1")
	must(t, err)
	if desc.Digest != second {
		t.Errorf("web:1 is %s, want %s", desc.Digest, second)
	}
	must(t, s.Collect(t.Context()))
	if s.Has(t.Context(), first) || !s.Has(t.Context(), second) {
		t.Errorf("after collecting: first here %t, second here %t, want false, true", s.Has(t.Context(), first), s.Has(t.Context(), second))
	}
}

func TestAnIndexMeansTheImageForThisPlatform(t *testing.T) {
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	b := newBuilder(t)
	ours := b.image(runtime.GOARCH, gz, nil, hello(t))
	theirs := b.image(other, gz, nil, layer(t, file("bin/demo", "for another processor")))
	ours.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	theirs.Platform = &ocispec.Platform{OS: "linux", Architecture: other}
	signature := b.json(ocispec.Manifest{Config: b.add([]byte("{}"), "application/vnd.example"), Layers: []ocispec.Descriptor{b.add([]byte("x"), "application/vnd.in-toto+json")}}, ocispec.MediaTypeImageManifest)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{signature, theirs, ours}}
	index.SchemaVersion = 2
	root := b.json(index, ocispec.MediaTypeImageIndex)
	s := open(t, t.TempDir())
	got := load(t, s, b.layout(map[string]ocispec.Descriptor{"multi:1": root}))
	if len(got) != 1 || got[0].Digest != root.Digest.String() || got[0].MediaType != ocispec.MediaTypeImageIndex {
		t.Fatalf("imported %+v, want the index %s", got, root.Digest)
	}
	must(t, s.Collect(t.Context()))
	if text := treeOf(t, mounted(t, s, "k", got[0].Digest))["bin/demo"]; text != "a program" {
		t.Errorf("bin/demo is %q, want this platform's", text)
	}
	if s.Has(t.Context(), theirs.Digest.String()) {
		t.Errorf("the other platform's image was kept")
	}

	b = newBuilder(t)
	foreign := b.layout(map[string]ocispec.Descriptor{"foreign:1": b.image(other, gz, nil, hello(t))})
	if _, err := s.Import(t.Context(), bytes.NewReader(foreign)); err == nil || !strings.Contains(err.Error(), "no image for linux/"+runtime.GOARCH) {
		t.Errorf("importing an image for %s: error %v", other, err)
	}
}

func TestArchivesThatAreRefused(t *testing.T) {
	good, _ := simple(t, "web:1", hello(t))
	spoiled := func(change func(*builder, *ocispec.Descriptor)) []byte {
		b := newBuilder(t)
		d := b.image(runtime.GOARCH, gz, nil, hello(t))
		change(b, &d)
		return b.layout(map[string]ocispec.Descriptor{"web:1": d})
	}
	document := func(v any) []byte {
		return spoiled(func(b *builder, d *ocispec.Descriptor) { *d = b.json(v, ocispec.MediaTypeImageManifest) })
	}
	nameless := newBuilder(t)
	tests := map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":                    {nil, "no archive of images"},
		"text":                       {[]byte(strings.Repeat("this is no tar ", 100)), "this is no tar"},
		"text in gzip":               {gz(t, []byte(strings.Repeat("this is no tar ", 100))), "this is no tar"},
		"a few letters":              {[]byte("hello"), "this is no tar"},
		"another tar":                {layer(t, file("README", "hi")), "no archive of images"},
		"cut short":                  {good[:len(good)/2+100], "damaged or cut short"},
		"cut short in gzip":          {gz(t, good)[:500], "unexpected EOF"},
		"damaged at its end in gzip": {append(gz(t, good)[:len(gz(t, good))-8], "checksum"...), "unpack: gzip: invalid checksum"},
		"no name": {func() []byte {
			nameless.image(runtime.GOARCH, gz, nil, hello(t))
			return nameless.layout(nil)
		}(), "names none of its images"},
		"damaged blob": {spoiled(func(b *builder, _ *ocispec.Descriptor) {
			for d := range b.blobs {
				b.blobs[d] = append(b.blobs[d], ' ')
			}
		}), "is damaged"},
		"missing blob": {spoiled(func(b *builder, d *ocispec.Descriptor) { delete(b.blobs, d.Digest) }), "lacks a part"},
		"both an index and a manifest": {
			document(map[string]any{"schemaVersion": 2, "manifests": []any{}, "config": map[string]any{}}),
			"something of both",
		},
		"an older manifest": {document(map[string]any{"schemaVersion": 1}), "schema version 2"},
		"a strange layer": {document(map[string]any{
			"schemaVersion": 2, "config": ocispec.Descriptor{Digest: digest.FromString("c")},
			"layers": []any{ocispec.Descriptor{MediaType: "application/x-sh", Digest: digest.FromString("x")}},
		}), "no layer"},
		"a digest that is a path": {document(map[string]any{
			"schemaVersion": 2,
			"config":        map[string]any{"digest": "sha256:../../../etc/passwd"}, "layers": []any{},
		}), "is no digest"},
		"too many layers": {document(map[string]any{
			"schemaVersion": 2, "config": ocispec.Descriptor{Digest: digest.FromString("c")},
			"layers": make([]ocispec.Descriptor, 200),
		}), "200 layers"},
		"a huge claim": {document(map[string]any{
			"schemaVersion": 2,
			"config":        ocispec.Descriptor{Digest: digest.FromString("c"), Size: 1 << 50},
		}), "claims"},
		"huge JSON": {spoiled(func(b *builder, d *ocispec.Descriptor) {
			*d = b.add([]byte(strings.Repeat(" ", 5<<20)), ocispec.MediaTypeImageManifest)
		}), "5242880 bytes, 4194304 are allowed"},
		"docker save without a layer": {layer(t, file("manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["../../etc/shadow"]}]`), file("c.json", "{}")), "lacks"},
		"a bad name":                  {spoiledName(t, "../../etc/passwd"), "no reference"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			_, err := s.Import(t.Context(), bytes.NewReader(tt.archive))
			var refused *InvalidError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want an InvalidError that says %q", err, tt.want)
			}
			must(t, s.Collect(t.Context()))
			if left := blobsOf(t, s); len(left) > 0 {
				t.Errorf("left of a refused archive: %v", left)
			}
		})
	}
}

func spoiledName(t testing.TB, name string) []byte {
	b := newBuilder(t)
	return b.layout(map[string]ocispec.Descriptor{name: b.image(runtime.GOARCH, gz, nil, hello(t))})
}

func TestAnArchiveOfTooMuchIsRefusedWhileItComes(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.Limits.ImageBytes = 1 << 20 })
	_, err := s.Import(t.Context(), io.LimitReader(zeros{}, 1<<40))
	var refused *InvalidError
	if !errors.As(err, &refused) {
		t.Errorf("a terabyte of zeros: error %v, want an InvalidError", err)
	}
	bomb := gz(t, layer(t, entry{Name: "blobs/sha256/" + strings.Repeat("0", 64), Typeflag: '0', Size: 2 << 20, PAXRecords: map[string]string{"SKEIN.text": strings.Repeat("\x00", 2<<20)}}))
	if _, err = s.Import(t.Context(), bytes.NewReader(bomb)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "unpacks to more") {
		t.Errorf("a bomb: error %v, want an InvalidError", err)
	}
	few := open(t, t.TempDir(), func(o *Options) { o.Limits.Entries = 10 })
	if _, err := few.Import(t.Context(), bytes.NewReader(layer(t, make([]entry, 0)...))); err == nil {
		t.Error("an empty archive was taken")
	}
	var many []entry
	for i := range 11 {
		many = append(many, dir(fmt.Sprint("d", i)))
	}
	if _, err := few.Import(t.Context(), bytes.NewReader(layer(t, many...))); !errors.As(err, &refused) || !strings.Contains(err.Error(), "more than 10 entries") {
		t.Errorf("eleven entries: error %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAFullDiskRefusesBeforeItWrites(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.Limits.KeepFree = 1 << 60 })
	archive, _ := simple(t, "web:1", hello(t))
	_, err := s.Import(t.Context(), bytes.NewReader(archive))
	var full *SpaceError
	if !errors.As(err, &full) {
		t.Errorf("got error %v, want a SpaceError", err)
	}
}
