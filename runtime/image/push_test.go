package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// listed reads an archive as who pushes it does.
func listed(t *testing.T, archive []byte) (entries []Entry, data [][]byte) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, data
		}
		must(t, err)
		e := Entry{Name: h.Name}
		b, err := io.ReadAll(r)
		must(t, err)
		switch h.Typeflag {
		case tar.TypeSymlink, tar.TypeLink:
			e.Link, e.Symbolic = h.Linkname, h.Typeflag == tar.TypeSymlink
		case tar.TypeReg:
			e.Size, e.Digest = int64(len(b)), digest.FromBytes(b).String()
			if h.Name == "index.json" || h.Name == "manifest.json" {
				e.Data = b
			}
		}
		entries, data = append(entries, e), append(data, b)
	}
}

func TestAPushBringsWhatIsLacking(t *testing.T) {
	base, app := hello(t), random(t, "app", 100_000)
	s := open(t, t.TempDir())
	first, _ := simple(t, "base:1", base)
	load(t, s, first)
	there := map[string]bool{}
	old, _ := listed(t, first)
	for _, e := range old {
		there[e.Digest] = true
	}

	archive, _ := simple(t, "app:1", base, app)
	entries, data := listed(t, archive)
	p, err := s.BeginPush(t.Context(), entries)
	must(t, err)
	defer p.Close()
	sent := 0
	for _, i := range p.Lacks() {
		if there[entries[i].Digest] {
			t.Errorf("%s is to be sent, and is here", entries[i].Name)
		}
		must(t, p.Take(i, bytes.NewReader(data[i])))
		sent += len(data[i])
	}
	if sent < 100_000 {
		t.Errorf("%d bytes were to be sent, the layer that is new has %d", sent, len(app))
	}
	must(t, s.Collect(t.Context())) // what came is under the push's lease
	list, err := p.Finish("other:2")
	must(t, err)
	if len(list) != 1 || list[0].Reference != "other:2" || !s.Has(t.Context(), list[0].Digest) {
		t.Errorf("got %+v, want other:2, whole", list)
	}
	if _, err := s.Mounts(t.Context(), "root", list[0].Digest); err != nil {
		t.Error(err)
	}
	must(t, s.Release(t.Context(), "root"))
}

func TestAPushThatIsNotWhatItSays(t *testing.T) {
	archive, _ := simple(t, "app:1", hello(t), random(t, "app", 1000))
	entries, data := listed(t, archive)
	s := open(t, t.TempDir())
	begin := func(change func([]Entry)) (*Push, error) {
		list := slices.Clone(entries)
		change(list)
		return s.BeginPush(t.Context(), list)
	}
	var refused *InvalidError
	for what, change := range map[string]func([]Entry){
		"a negative size": func(l []Entry) { l[0].Size = -1 },
		"a huge size":     func(l []Entry) { l[0].Size = 1 << 50 },
		"no digest":       func(l []Entry) { l[0].Name, l[0].Digest = "layer.tar", "md5:1" },
		"a long name":     func(l []Entry) { l[0].Name = strings.Repeat("x", 10_000) },
		"another digest":  func(l []Entry) { l[0].Name = "blobs/sha256/" + digest.FromString("x").Encoded() },
	} {
		if p, err := begin(change); !errors.As(err, &refused) {
			t.Errorf("%s: got %v, %v, want it refused", what, p, err)
		}
	}
	p, err := begin(func([]Entry) {})
	must(t, err)
	defer p.Close()
	i := p.Lacks()[0]
	spoiled := slices.Clone(data[i])
	spoiled[0] ^= 1
	if err := p.Take(i, bytes.NewReader(spoiled)); !errors.As(err, &refused) {
		t.Errorf("other bytes: error %v, want an InvalidError", err)
	}
	if err := p.Take(i, bytes.NewReader(data[i][:1])); err == nil {
		t.Error("too few bytes were taken")
	}
	if err := p.Take(999, bytes.NewReader(nil)); !errors.As(err, &refused) {
		t.Errorf("what was not asked for: error %v", err)
	}
	if _, err := p.Finish(""); !errors.As(err, &refused) {
		t.Errorf("an archive that is not whole: error %v, want an InvalidError", err)
	}
}
