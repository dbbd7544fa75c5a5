package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A peer is another machine's store, with whatever ails it.
type peer struct {
	store *Store
	// ail changes a stream; nil leaves it as it is.
	ail func(digest string, offset int64, r io.Reader) io.Reader

	mu    sync.Mutex
	asked []string // digest and offset
}

func (p *peer) Blob(ctx context.Context, d Descriptor, offset int64) (io.ReadCloser, error) {
	p.mu.Lock()
	p.asked = append(p.asked, d.Digest)
	p.mu.Unlock()
	blob, size, err := p.store.OpenBlob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	var r io.Reader = io.NewSectionReader(blob, offset, size-offset)
	if p.ail != nil {
		r = p.ail(d.Digest, offset, r)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, blob}, nil
}

// random is a layer that does not compress.
func random(t testing.TB, name string, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	_, err := rand.Read(data)
	must(t, err)
	return layer(t, file(name, string(data)))
}

func source(t *testing.T, layers ...[]byte) (*peer, Descriptor) {
	t.Helper()
	s := open(t, t.TempDir())
	archive, _ := simple(t, "web:1", layers...)
	return &peer{store: s}, load(t, s, archive)[0].Descriptor
}

func TestAnImageIsFetchedFromAPeer(t *testing.T) {
	from, desc := source(t, hello(t), random(t, "data", 1<<20))
	s := open(t, t.TempDir())
	must(t, s.Fetch(t.Context(), "web:1", desc, from, nil))
	got, err := s.Resolve(t.Context(), "web:1")
	must(t, err)
	if diff := cmp.Diff(desc, got); diff != "" {
		t.Errorf("resolved (-there +here):\n%s", diff)
	}
	must(t, s.Collect(t.Context()))
	if !s.Has(t.Context(), desc.Digest) {
		t.Error("the image is not whole after collecting")
	}
	have, err := s.Blobs(t.Context())
	must(t, err)
	slices.Sort(from.asked)
	if diff := cmp.Diff(slices.Compact(slices.Clone(from.asked)), have); diff != "" {
		t.Errorf("blobs (-asked for +here):\n%s", diff)
	}
	n := len(from.asked)
	var refused *InvalidError
	if err := s.Fetch(t.Context(), "web@"+digest.FromString("x").String(), desc, from, nil); !errors.As(err, &refused) {
		t.Errorf("a name with another digest: error %v, want an InvalidError", err)
	}
	must(t, s.Fetch(t.Context(), "web:2", desc, from, nil))
	if len(from.asked) != n {
		t.Errorf("a second name for the same image asked the peer for %d blobs", len(from.asked)-n)
	}
}

func TestOnlyThisPlatformIsFetchedOfAnIndex(t *testing.T) {
	b := newBuilder(t)
	ours, theirs := b.image(runtime.GOARCH, gz, nil, hello(t)), b.image("s390x", gz, nil, hello(t))
	ours.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	theirs.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	index := ocispec.Index{Manifests: []ocispec.Descriptor{theirs, ours}}
	index.SchemaVersion = 2
	root := b.json(index, ocispec.MediaTypeImageIndex)
	from := &peer{store: open(t, t.TempDir())}
	desc := load(t, from.store, b.layout(map[string]ocispec.Descriptor{"multi:1": root}))[0].Descriptor
	s := open(t, t.TempDir())
	must(t, s.Fetch(t.Context(), "multi:1", desc, from, nil))
	must(t, s.Collect(t.Context()))
	if !s.Has(t.Context(), desc.Digest) {
		t.Error("the image is not whole")
	}
	for _, d := range from.asked {
		if d == theirs.Digest.String() {
			t.Error("the other platform's manifest was asked for")
		}
	}
}

func TestAFetchGoesOnWhereAPeerDied(t *testing.T) {
	from, desc := source(t, random(t, "data", 1<<20))
	tree, err := from.store.known(t.Context(), desc.Digest)
	must(t, err)
	layer := tree.layers()[0]
	const died = 300_000
	var offsets []int64
	from.ail = func(d string, offset int64, r io.Reader) io.Reader {
		if d != layer.Digest.String() {
			return r
		}
		offsets = append(offsets, offset)
		return io.LimitReader(r, died)
	}
	s := open(t, t.TempDir())
	s.again = time.Millisecond
	var watch Progress
	must(t, s.Fetch(t.Context(), "web:1", desc, from, &watch))
	if diff := cmp.Diff([]int64{0, died, 2 * died, 3 * died}, offsets); diff != "" {
		t.Errorf("the peer was asked for the layer from (-want +got):\n%s", diff)
	}
	want := []Part{{Digest: layer.Digest.String(), State: StateReady, Done: layer.Size, Size: layer.Size, Fetched: layer.Size}}
	if diff := cmp.Diff(want, watch.Parts()); diff != "" {
		t.Errorf("progress at the end (-want +got):\n%s", diff)
	}
}

func TestAFetchGivesUpAndTheNextOneGoesOn(t *testing.T) {
	from, desc := source(t, random(t, "data", 1<<20))
	tree, err := from.store.known(t.Context(), desc.Digest)
	must(t, err)
	const died = 300_000
	var offsets []int64
	from.ail = func(d string, offset int64, r io.Reader) io.Reader {
		if d != tree.layers()[0].Digest.String() {
			return r
		}
		offsets = append(offsets, offset)
		if offset > 0 {
			return io.LimitReader(r, 0)
		}
		return io.LimitReader(r, died)
	}
	s := open(t, t.TempDir())
	s.again = time.Millisecond
	if err := s.Fetch(t.Context(), "web:1", desc, from, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("fetching from a peer that dies: error %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if n := len(offsets); n != 1+attempts {
		t.Errorf("the peer was asked %d times, want %d", n, 1+attempts)
	}
	if _, err := s.Resolve(t.Context(), "web:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("half an image has a name: %v", err)
	}
	if s.Has(t.Context(), desc.Digest) {
		t.Error("half an image counts as here")
	}
	must(t, s.Collect(t.Context())) // what came so far is worth keeping
	from.ail = nil
	var watch Progress
	must(t, s.Fetch(t.Context(), "web:1", desc, from, &watch))
	if got, want := watch.Parts()[0].Fetched, tree.layers()[0].Size-died; got != want {
		t.Errorf("the next attempt fetched %d bytes, want %d", got, want)
	}
}

// refusing is a registry that has a reason.
type refusing struct {
	*peer
	again bool
	asked int
}

func (r *refusing) Blob(context.Context, Descriptor, int64) (io.ReadCloser, error) {
	r.asked++
	return nil, refused{r.again}
}

type refused struct{ again bool }

func (refused) Error() string                  { return "no" }
func (r refused) Again() (time.Duration, bool) { return 0, r.again }

func TestWhoSaysNoForGoodIsAskedOnce(t *testing.T) {
	for again, want := range map[bool]int{false: 1, true: attempts} {
		from, desc := source(t, hello(t))
		r := &refusing{peer: from, again: again}
		s := open(t, t.TempDir())
		s.again = time.Millisecond
		if err := s.Fetch(t.Context(), "web:1", desc, r, nil); !errors.As(err, &refused{}) {
			t.Errorf("got error %v, want the refusal", err)
		}
		if r.asked != want {
			t.Errorf("asked %d times, want %d", r.asked, want)
		}
	}
}

// several is two peers, of which the first is asked until it is found out.
type several struct {
	first, second *peer
	rejected      []string
}

func (s *several) Blob(ctx context.Context, d Descriptor, offset int64) (io.ReadCloser, error) {
	if len(s.rejected) == 0 {
		return s.first.Blob(ctx, d, offset)
	}
	return s.second.Blob(ctx, d, offset)
}

func (s *several) Reject(d Descriptor) { s.rejected = append(s.rejected, d.Digest) }

func TestALiarCostsARetry(t *testing.T) {
	second, desc := source(t, random(t, "data", 100_000))
	tree, err := second.store.known(t.Context(), desc.Digest)
	must(t, err)
	layer := tree.layers()[0].Digest.String()
	first := &peer{store: second.store, ail: func(d string, _ int64, r io.Reader) io.Reader {
		if d == layer {
			return &flip{r: r, at: 5000}
		}
		return r
	}}
	from := &several{first: first, second: second}
	s := open(t, t.TempDir())
	s.again = time.Millisecond
	must(t, s.Fetch(t.Context(), "web:1", desc, from, nil))
	if diff := cmp.Diff([]string{layer}, from.rejected); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}
	if !s.Has(t.Context(), desc.Digest) {
		t.Error("the image is not whole")
	}
}

func TestAPeerThatLiesIsFoundOut(t *testing.T) {
	noise := func(_ string, _ int64, r io.Reader) io.Reader { return io.LimitReader(zeros{}, 10<<20) }
	tests := map[string]struct {
		ail  func(digest string, offset int64, r io.Reader) io.Reader
		want string
	}{
		"with every blob":        {noise, "bytes"},
		"with too little JSON":   {func(_ string, _ int64, r io.Reader) io.Reader { return io.LimitReader(r, 100) }, "damaged"},
		"with the layer":         {nil, "is damaged"}, // set below: it needs to know the layer
		"with one bit of a blob": {func(_ string, _ int64, r io.Reader) io.Reader { return &flip{r: r, at: 50} }, "damaged"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			from, desc := source(t, random(t, "data", 100_000))
			from.ail = tt.ail
			if from.ail == nil {
				tree, err := from.store.known(t.Context(), desc.Digest)
				must(t, err)
				from.ail = func(d string, _ int64, r io.Reader) io.Reader {
					if d == tree.layers()[0].Digest.String() {
						return &flip{r: r, at: 5000}
					}
					return r
				}
			}
			s := open(t, t.TempDir())
			err := s.Fetch(t.Context(), "web:1", desc, from, nil)
			var refused *InvalidError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want an InvalidError that says %q", err, tt.want)
			}
			if _, err := s.Resolve(t.Context(), "web:1"); !errors.Is(err, ErrNotFound) {
				t.Errorf("the lie has a name: %v", err)
			}
			from.ail = nil
			if err := s.Fetch(t.Context(), "web:1", desc, from, nil); err != nil {
				t.Errorf("an honest peer afterwards: %v", err)
			}
		})
	}
}

// flip changes one bit of what comes through.
type flip struct {
	r     io.Reader
	at, n int64
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if i := f.at - f.n; i >= 0 && i < int64(n) {
		p[i] ^= 1
	}
	f.n += int64(n)
	return n, err
}

func TestOnePeersRubbishDoesNotSpoilTheNextOnesTruth(t *testing.T) {
	from, desc := source(t, random(t, "data", 1<<20))
	tree, err := from.store.known(t.Context(), desc.Digest)
	must(t, err)
	big := tree.layers()[0].Digest.String()
	from.ail = func(d string, offset int64, r io.Reader) io.Reader {
		if d == big {
			return io.LimitReader(zeros{}, max(0, 1000-offset)) // rubbish, and then it dies
		}
		return r
	}
	s := open(t, t.TempDir())
	s.again = time.Millisecond
	if err := s.Fetch(t.Context(), "web:1", desc, from, nil); err == nil {
		t.Fatal("fetching from a peer that dies gave no error")
	}
	from.ail = nil
	var refused *InvalidError
	if err := s.Fetch(t.Context(), "web:1", desc, from, nil); !errors.As(err, &refused) {
		t.Errorf("truth upon rubbish: error %v, want an InvalidError", err)
	}
	if err := s.Fetch(t.Context(), "web:1", desc, from, nil); err != nil {
		t.Errorf("from the beginning: %v", err)
	}
}

func TestAStalledPeerIsGivenUp(t *testing.T) {
	s := &Store{opt: Options{Stall: time.Minute}}
	ref := digest.FromString("anything")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := s.pull(t.Context(), blocked{}, ocispec.Descriptor{Digest: ref}, 0, nil, func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if !errors.Is(err, errStalled) {
			t.Errorf("got error %v, want %v", err, errStalled)
		}
		// It sent one byte after half a minute, which put the end off.
		if d := time.Since(began); d != 90*time.Second {
			t.Errorf("given up after %v, want 1m30s", d)
		}
	})
}

// blocked sends one byte after half a minute and then nothing.
type blocked struct{}

func (blocked) Blob(ctx context.Context, _ Descriptor, _ int64) (io.ReadCloser, error) {
	return &slow{ctx: ctx}, nil
}

type slow struct {
	ctx  context.Context
	sent bool
}

func (s *slow) Read(p []byte) (int, error) {
	if !s.sent {
		s.sent = true
		timer := time.NewTimer(30 * time.Second)
		defer timer.Stop()
		<-timer.C
		return copy(p, "x"), nil
	}
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func (*slow) Close() error { return nil }

func TestManyFetchesOfOneImageAskForEachLayerOnce(t *testing.T) {
	from, desc := source(t, random(t, "a", 200_000), random(t, "b", 200_000))
	s := open(t, t.TempDir())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := s.Fetch(t.Context(), "web:1", desc, from, nil); err != nil {
				t.Errorf("fetch: %v", err)
			}
		})
	}
	all.Wait()
	tree, err := s.known(t.Context(), desc.Digest)
	must(t, err)
	for _, l := range tree.layers() {
		n := 0
		for _, d := range from.asked {
			if d == l.Digest.String() {
				n++
			}
		}
		if n != 1 {
			t.Errorf("layer %s was asked for %d times", l.Digest, n)
		}
	}
}

func TestACancelledFetchEnds(t *testing.T) {
	from, desc := source(t, random(t, "data", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	from.ail = func(_ string, _ int64, r io.Reader) io.Reader {
		cancel()
		return r
	}
	s := open(t, t.TempDir())
	if err := s.Fetch(ctx, "web:1", desc, from, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
}

func TestABlobIsServedAsItIs(t *testing.T) {
	from, desc := source(t, hello(t))
	blob, size, err := from.store.OpenBlob(t.Context(), desc.Digest)
	must(t, err)
	defer blob.Close()
	data, err := io.ReadAll(io.NewSectionReader(blob, 0, size))
	must(t, err)
	if got := digest.FromBytes(data).String(); got != desc.Digest {
		t.Errorf("served %s, want %s", got, desc.Digest)
	}
	if _, _, err := from.store.OpenBlob(t.Context(), digest.FromString("?").String()); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown blob: error %v, want %v", err, ErrNotFound)
	}
	secret := filepath.Join(from.store.opt.Dir, "content", "blobs", "secret")
	must(t, os.WriteFile(secret, []byte("s"), 0o600))
	for _, bad := range []string{"", "sha256:../secret", "secret", "sha256:" + strings.Repeat("A", 64), "sha512:" + strings.Repeat("0", 128)} {
		if _, _, err := from.store.OpenBlob(t.Context(), bad); err == nil {
			t.Errorf("%q was served", bad)
		}
	}
	if !bytes.HasPrefix(data, []byte("{")) {
		t.Errorf("a manifest that begins with %q", data[:1])
	}
}

// The disk fills while a layer comes, by somebody else's doing. Who pulls is told so,
// nothing half is believed, and with room again it goes on where it ended.
func TestADiskThatFillsInTheMiddleOfALayer(t *testing.T) {
	from, desc := source(t, hello(t), random(t, "data", 4<<20))
	at := t.TempDir()
	must(t, unix.Mount("small", at, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	s := open(t, filepath.Join(at, "store"), func(o *Options) { o.Limits.KeepFree = 1 << 20 })
	t.Cleanup(func() { _ = s.Close() })
	fill := filepath.Join(at, "others")
	from.ail = func(digest string, _ int64, r io.Reader) io.Reader {
		tree, err := from.store.known(t.Context(), desc.Digest)
		must(t, err)
		if digest != tree.layers()[1].Digest.String() {
			return r
		}
		return io.MultiReader(io.LimitReader(r, 1<<20), readerFunc(func([]byte) (int, error) {
			_ = os.WriteFile(fill, make([]byte, 23<<20), 0o600) // as much as there is
			return 0, io.EOF
		}), r)
	}
	s.again = time.Millisecond
	err := s.Fetch(t.Context(), "web:1", desc, from, nil)
	var full *SpaceError
	if !errors.Is(err, unix.ENOSPC) && !errors.As(err, &full) {
		t.Fatalf("fetch: %v", err)
	}
	if s.Has(t.Context(), desc.Digest) {
		t.Error("the image counts as whole")
	}
	must(t, os.Remove(fill))
	from.ail, from.asked = nil, nil
	must(t, s.Fetch(t.Context(), "web:1", desc, from, nil))
	root := treeOf(t, mounted(t, s, "root", desc.Digest))
	if len(root["data"]) != 4<<20 || root["bin/demo"] != "a program" {
		t.Errorf("the root has %d bytes of data", len(root["data"]))
	}
	must(t, s.Release(t.Context(), "root"))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
