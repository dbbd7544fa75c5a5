package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/agent/object"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// A shelf is the images of the one node there is.
type shelf struct {
	held  []*skeinv1.HeldImage
	asked []*skeinv1.GiveUpImagesRequest
	fails bool
}

func (s *shelf) Holds(context.Context) ([]*skeinv1.HeldImage, error) { return s.held, nil }

func (s *shelf) BeginPush(_ context.Context, entries []*skeinv1.PushEntry) (Push, error) {
	if len(entries) == 0 {
		return nil, errors.New("nothing in it")
	}
	return &pushed{shelf: s, entries: entries, took: map[int]string{}}, nil
}

func (s *shelf) Having(digest string) []string {
	if digest == "sha256:elsewhere" {
		return []string{"n2"}
	}
	return nil
}

func (s *shelf) ReadFrom(context.Context, string, string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("from n2")), nil
}

func (s *shelf) Touched() {}

// pushed is an archive of which everything comes but what is "sha256:here".
type pushed struct {
	shelf   *shelf
	entries []*skeinv1.PushEntry
	took    map[int]string
}

func (p *pushed) Lacks() []int {
	var out []int
	for i, e := range p.entries {
		if e.GetDigest() != "sha256:here" {
			out = append(out, i)
		}
	}
	return out
}

func (p *pushed) Take(i int, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, p.entries[i].GetSize()))
	if err == nil && int64(len(data)) < p.entries[i].GetSize() {
		err = io.ErrUnexpectedEOF
	}
	p.took[i] = string(data)
	return err
}

func (p *pushed) Finish(ref string) ([]object.ImageSpec, error) {
	return []object.ImageSpec{{Reference: ref, Digest: "sha256:1", MediaType: fmt.Sprint(p.took)}}, nil
}

func (p *pushed) Close() {}

func (s *shelf) Familiar(ref string) (string, error) {
	if !strings.Contains(ref, ":") {
		ref += ":latest"
	}
	return strings.TrimPrefix(ref, "docker.io/library/"), nil
}

func (s *shelf) PullHere(_ context.Context, ref string, tell func(*skeinv1.ImagePull) error) error {
	if s.fails {
		return errors.New("no such image")
	}
	return errors.Join(tell(&skeinv1.ImagePull{Node: "n1", Image: ref}), tell(&skeinv1.ImagePull{Node: "n1", Image: ref, Done: true}))
}

func (s *shelf) GiveUp(_ context.Context, req *skeinv1.GiveUpImagesRequest) ([]*skeinv1.ImageEntry, error) {
	s.asked = append(s.asked, req)
	var out []*skeinv1.ImageEntry
	s.held = slices.DeleteFunc(slices.Clone(s.held), func(h *skeinv1.HeldImage) bool {
		refs := h.GetImage().GetReferences()
		goes := slices.ContainsFunc(refs, func(r string) bool { return slices.Contains(req.GetReferences(), r) }) ||
			len(req.GetReferences()) == 0 && !slices.ContainsFunc(refs, func(r string) bool { return slices.Contains(req.GetKeep(), r) })
		if goes {
			out = append(out, h.GetImage())
		}
		return goes && !req.GetDryRun()
	})
	return out, nil
}

func imageCalls(t *testing.T) map[string]roleCall {
	return map[string]roleCall{
		"ListImages": {role: RoleView, call: func(c callerOf) error {
			return errOf(c.ListImages(t.Context(), &skeinv1.ListImagesRequest{}))
		}},
		"PullImage": {role: RoleEdit, call: func(c callerOf) error {
			return first(c.PullImage(t.Context(), &skeinv1.PullImageRequest{Reference: "web:1", Nodes: []string{"n1"}}))
		}},
		"PushImage": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			stream, err := c.PushImage(t.Context())
			if err == nil {
				_ = stream.Send(&skeinv1.PushImageRequest{}) // the answer tells
				_ = stream.CloseSend()
			}
			return first(stream, err)
		}},
		"RemoveImage": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			return errOf(c.RemoveImage(t.Context(), &skeinv1.RemoveImageRequest{Reference: "web:1"}))
		}},
		"PruneImages": {role: RoleEdit, call: func(c callerOf) error {
			return errOf(c.PruneImages(t.Context(), &skeinv1.PruneImagesRequest{}))
		}},
	}
}

func (w *world) images() skeinv1connect.ImageServiceClient {
	return skeinv1connect.NewImageServiceClient(w.dial(w.server.Socket(), ""))
}

func held(ref, digest string, blobs ...string) *skeinv1.HeldImage {
	h := &skeinv1.HeldImage{Image: &skeinv1.ImageEntry{References: []string{ref}, Digest: digest, Size: 100, UsedUnix: 1000}}
	for i, b := range blobs {
		h.Blobs = append(h.Blobs, &skeinv1.HeldBlob{Digest: b, Size: int64(10 * (i + 1))})
	}
	return h
}

func TestJoinImages(t *testing.T) {
	got := joinImages(map[string][]*skeinv1.HeldImage{
		"n1": {held("web:1", "sha256:1", "base", "one"), held("db:1", "sha256:2", "base", "two")},
		"n2": {held("web:1", "sha256:1", "base", "one"), held("alone:1", "sha256:3", "three")},
	})
	want := []*skeinv1.ImageEntry{
		{References: []string{"alone:1"}, Digest: "sha256:3", Size: 100, Nodes: []string{"n2"}, UsedUnix: 1000},
		{References: []string{"db:1"}, Digest: "sha256:2", Size: 100, Shared: 10, Nodes: []string{"n1"}, UsedUnix: 1000},
		{References: []string{"web:1"}, Digest: "sha256:1", Size: 100, Shared: 10, Nodes: []string{"n1", "n2"}, UsedUnix: 1000},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	table := string(drawImages(got, &skeinv1.ListImagesRequest{Wide: true}, time.Unix(1000+7200, 0)))
	if want := "web:1      1       0.0MB  0.0MB   n1,n2  120m"; !strings.Contains(table, want) {
		t.Errorf("got\n%swant %q in it", table, want)
	}
}

func TestImagesInUseAreNotRemoved(t *testing.T) {
	w := newWorld(t)
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "a"},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "i", Image: "init:1"}}, Containers: []corev1.Container{{Name: "c", Image: "docker.io/library/web"}},
		},
	})
	w.shelf.held = []*skeinv1.HeldImage{held("web:latest", "sha256:1"), held("init:1", "sha256:2"), held("old:1", "sha256:3")}
	for _, ref := range []string{"web", "web:latest", "init:1"} {
		_, err := w.images().RemoveImage(t.Context(), &skeinv1.RemoveImageRequest{Reference: ref})
		refused(t, err, connect.CodeFailedPrecondition, exitUnsafe)
	}
	if len(w.shelf.asked) > 0 {
		t.Errorf("nodes were asked to give up %v", w.shelf.asked)
	}
	if _, err := w.images().RemoveImage(t.Context(), &skeinv1.RemoveImageRequest{Reference: "init:1", Force: true}); err != nil {
		t.Errorf("by force: %v", err)
	}
	out, err := w.images().PruneImages(t.Context(), &skeinv1.PruneImagesRequest{DryRun: true})
	if err != nil || len(out.GetNodes()) != 1 || len(w.shelf.held) != 2 {
		t.Fatalf("a dry run: %v, %v, left %d", out, err, len(w.shelf.held))
	}
	if _, err = w.images().PruneImages(t.Context(), &skeinv1.PruneImagesRequest{}); err != nil || len(w.shelf.held) != 1 {
		t.Errorf("prune left %v, %v; want the one in use", w.shelf.held, err)
	}
	_, err = w.images().RemoveImage(t.Context(), &skeinv1.RemoveImageRequest{Reference: "nobody:1"})
	refused(t, err, connect.CodeNotFound, exitFailed)
}

func TestPullImageTellsHowItEnds(t *testing.T) {
	w := newWorld(t)
	for _, fails := range []bool{false, true} {
		w.shelf.fails = fails
		stream, err := w.images().PullImage(t.Context(), &skeinv1.PullImageRequest{Reference: "web:1", Nodes: []string{"n1"}})
		if err != nil {
			t.Fatal(err)
		}
		var last *skeinv1.ImagePull
		for {
			msg, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			last = msg.GetPull()
		}
		if !last.GetDone() || (last.GetError() != "") != fails || last.GetNode() != "n1" {
			t.Errorf("the last word is %v, fails %v", last, fails)
		}
		_ = stream.Close()
	}
	stream, err := w.images().PullImage(t.Context(), &skeinv1.PullImageRequest{Reference: "web:1", Nodes: []string{"n9"}})
	refused(t, first(stream, err), connect.CodeNotFound, exitFailed)
}

// Of an archive those parts alone are sent that neither this node has nor another.
func TestPushImageTakesWhatIsLacking(t *testing.T) {
	entry := func(name, digest string, size int) *skeinv1.PushEntry {
		return &skeinv1.PushEntry{Name: name, Digest: "sha256:" + digest, Size: int64(size)}
	}
	start := &skeinv1.PushStart{Reference: "app:v3", Entries: []*skeinv1.PushEntry{
		entry("a", "here", 5), entry("b", "new", 10), entry("c", "elsewhere", 7), entry("d", "newer", 3),
	}}
	part := func(i int32, text string) *skeinv1.PushImageRequest {
		return &skeinv1.PushImageRequest{Message: &skeinv1.PushImageRequest_Part{Part: &skeinv1.PushPart{Entry: i, Chunk: []byte(text)}}}
	}
	complete := &skeinv1.PushImageRequest{Message: &skeinv1.PushImageRequest_Complete{Complete: true}}
	tests := map[string]struct {
		parts []*skeinv1.PushImageRequest
		want  string // of an error
	}{
		"in pieces":     {parts: []*skeinv1.PushImageRequest{part(1, "01234"), part(1, "56789"), part(3, "abc"), complete}},
		"out of order":  {parts: []*skeinv1.PushImageRequest{part(3, "abc"), complete}, want: "where 1 was wanted"},
		"too little":    {parts: []*skeinv1.PushImageRequest{part(1, "01234"), complete}, want: "unexpected EOF"},
		"too much":      {parts: []*skeinv1.PushImageRequest{part(1, "0123456789x"), part(3, "abc"), complete}, want: "no part of the archive"},
		"and goes away": {parts: []*skeinv1.PushImageRequest{part(1, "0123456789")}, want: "broke off"},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			stream, err := w.images().PushImage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stream.Close() }()
			if err := stream.Send(&skeinv1.PushImageRequest{Message: &skeinv1.PushImageRequest_Start{Start: start}}); err != nil {
				t.Fatal(err)
			}
			needs, err := stream.Receive()
			if err != nil || !slices.Equal(needs.GetNeeds().GetEntries(), []int32{1, 3}) {
				t.Fatalf("it needs %v, %v, want 1 and 3", needs, err)
			}
			for _, p := range tt.parts {
				_ = stream.Send(p) // the answer tells
			}
			_ = stream.CloseSend()
			last, err := stream.Receive()
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, %v, want an error that says %q", last, err, tt.want)
				}
				return
			}
			done := last.GetDone()
			if err != nil || done.GetBytes() != 13 || done.GetImages()[0].GetMediaType() != "map[1:0123456789 2:from n2 3:abc]" {
				t.Errorf("got %v, %v", done, err)
			}
		})
	}
}
