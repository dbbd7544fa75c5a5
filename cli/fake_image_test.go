package cli

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

func (f *fake) ListImages(_ context.Context, req *skeinv1.ListImagesRequest) (*skeinv1.ListImagesResponse, error) {
	nodes := "2"
	if req.GetWide() {
		nodes = "n1,n2"
	}
	return &skeinv1.ListImagesResponse{
		Images: []*skeinv1.ImageEntry{{References: []string{"web:v1"}, Digest: "sha256:0123", Nodes: []string{"n1", "n2"}}}, Silent: []string{"n3"},
		Text: []byte("REFERENCE  DIGEST  SIZE   SHARED  NODES  USED\nweb:v1     0123    2.0MB  1.0MB   " + nodes + "  3h\n"),
	}, nil
}

func (f *fake) PullImage(_ context.Context, req *skeinv1.PullImageRequest, stream skeinv1connect.ImageServicePullImageServerStream) error {
	nodes := req.GetNodes()
	if req.GetAll() {
		nodes = []string{"n1", "n2"}
	}
	if len(nodes) == 0 {
		nodes = []string{"n1"}
	}
	for _, n := range nodes {
		p := &skeinv1.ImagePull{Node: n, Image: req.GetReference(), Layers: 2, Bytes: 2e6, From: []string{"registry.example"}}
		if err := stream.Send(&skeinv1.PullImageResponse{Pull: p}); err != nil {
			return err
		}
		p.Done, p.LayersDone, p.Fetched, p.BytesDone, p.ElapsedMs = true, 2, 2e6, 2e6, 1500
		if strings.HasPrefix(req.GetReference(), "none") {
			p.Error = "registry registry.example: 404 has no such image or tag"
		}
		if err := stream.Send(&skeinv1.PullImageResponse{Pull: p}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) RemoveImage(_ context.Context, req *skeinv1.RemoveImageRequest) (*skeinv1.RemoveImageResponse, error) {
	if strings.HasPrefix(req.GetReference(), "used") && !req.GetForce() {
		return nil, refuse(connect.CodeFailedPrecondition, 5, "delete what uses it first, or take the name away all the same with --force",
			"image %s is used by pod/web", req.GetReference())
	}
	return &skeinv1.RemoveImageResponse{Nodes: []*skeinv1.GivenUp{{Node: "n1"}, {Node: "n2"}}}, nil
}

func (f *fake) PruneImages(_ context.Context, req *skeinv1.PruneImagesRequest) (*skeinv1.PruneImagesResponse, error) {
	if req.GetOlderThanMs() > 0 {
		return &skeinv1.PruneImagesResponse{}, nil
	}
	return &skeinv1.PruneImagesResponse{Nodes: []*skeinv1.GivenUp{{Node: "n1", Images: []*skeinv1.ImageEntry{{References: []string{"old:1"}, Size: 3e6}}}}}, nil
}

// PushImage lacks all files but those whose names begin with "there".
func (f *fake) PushImage(_ context.Context, stream skeinv1connect.ImageServicePushImageServerStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	needs := &skeinv1.PushNeeds{Node: "n1"}
	for i, e := range first.GetStart().GetEntries() {
		if e.GetDigest() != "" && len(e.GetData()) == 0 && !strings.HasPrefix(e.GetName(), "there") {
			needs.Entries = append(needs.Entries, int32(i)) //nolint:gosec // few
		}
	}
	if err := stream.Send(&skeinv1.PushImageResponse{Message: &skeinv1.PushImageResponse_Needs{Needs: needs}}); err != nil {
		return err
	}
	f.mu.Lock()
	f.image = nil
	f.mu.Unlock()
	for {
		msg, err := stream.Receive()
		if err != nil {
			return err
		}
		if msg.GetComplete() {
			break
		}
		f.mu.Lock()
		f.image = append(f.image, msg.GetPart().GetChunk()...)
		f.mu.Unlock()
	}
	return stream.Send(&skeinv1.PushImageResponse{Message: &skeinv1.PushImageResponse_Done{Done: &skeinv1.ImportImageResponse{
		References: []string{first.GetStart().GetReference()}, Node: "n1",
	}}})
}
