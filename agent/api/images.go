package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// importStream is the callee's end of an import, whichever service it is of.
type importStream interface {
	Receive() (*skeinv1.ImportImageRequest, error)
}

// ImportImage keeps an archive's images on one node, from where the others
// take them, and tells the cluster what their names mean from now on.
func (c *cluster) ImportImage(ctx context.Context, stream skeinv1connect.ClusterServiceImportImageServerStream) (*skeinv1.ImportImageResponse, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	if !c.cfg.Consensus.IsLeader() {
		return nil, errNotLeader
	}
	first, err := stream.Receive()
	if err != nil {
		return nil, badRequest("the archive is empty")
	}
	node := first.GetNode()
	if node == "" || node == c.cfg.Name {
		return c.importHere(ctx, first, stream)
	}
	if _, ok := c.node(node); !ok {
		return nil, notFound(&skeinv1.ObjectRef{Kind: "node", Name: node})
	}
	remote, err := c.cfg.Peers.Client(node).PeerImport(ctx)
	if err != nil {
		return nil, c.unreachable(node, err)
	}
	for msg := first; ; {
		if err := remote.Send(msg); err != nil {
			break // the answer says why
		}
		if msg, err = stream.Receive(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	out, err := remote.CloseAndReceive()
	if err != nil {
		return nil, c.unreachable(node, err)
	}
	if err := c.name(ctx, out.GetImages()); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *cluster) importHere(ctx context.Context, first *skeinv1.ImportImageRequest, stream importStream) (*skeinv1.ImportImageResponse, error) {
	out, err := c.take(ctx, first, stream)
	if err != nil {
		return nil, err
	}
	return out, c.name(ctx, out.GetImages())
}

// PeerImport keeps an archive here, for the leader, which names what it holds.
func (p *peer) PeerImport(ctx context.Context, stream skeinv1connect.PeerServicePeerImportServerStream) (*skeinv1.ImportImageResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	first, err := stream.Receive()
	if err != nil {
		return nil, badRequest("the archive is empty")
	}
	return p.take(ctx, first, stream)
}

// take reads an archive into this machine's store.
func (s *Server) take(ctx context.Context, first *skeinv1.ImportImageRequest, stream importStream) (*skeinv1.ImportImageResponse, error) {
	r := &chunks[*skeinv1.ImportImageRequest]{stream: stream, rest: first.GetChunk()}
	list, err := s.cfg.Images.Import(ctx, r)
	if err != nil {
		return nil, refuse(connect.CodeInvalidArgument, exitFailed, "make one with \"docker save IMAGE -o FILE.tar\", or any OCI layout as a tar", "import: %v", err)
	}
	return imported(s.cfg.Name, r.read, list), nil
}

// chunks reads a stream of messages as the bytes they carry.
type chunks[M interface{ GetChunk() []byte }] struct {
	stream interface{ Receive() (M, error) }
	rest   []byte
	read   int64
}

func (c *chunks[M]) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		msg, err := c.stream.Receive()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF // readers know the bare one only
		}
		if err != nil {
			return 0, err
		}
		c.rest = msg.GetChunk()
	}
	n := copy(b, c.rest)
	c.rest, c.read = c.rest[n:], c.read+int64(n)
	return n, nil
}

// name writes what references mean, for every node to agree on.
func (s *Server) name(ctx context.Context, list []*skeinv1.ImportedImage) error {
	for _, img := range list {
		if err := s.Name(ctx, ImageOf(img)); err != nil {
			return fmt.Errorf("name image %s: %w", img.GetReference(), err)
		}
	}
	return nil
}

// NameImage keeps what a node has learned of a reference at its registry, and tells
// what it means in this cluster.
func (p *peer) NameImage(ctx context.Context, req *skeinv1.NameImageRequest) (*skeinv1.NameImageResponse, error) {
	if !p.cfg.Consensus.IsLeader() {
		return nil, errNotLeader
	}
	want := ImageOf(req.GetImage())
	if !validImage(want) {
		return nil, badRequest("that names no image")
	}
	want.Registry = true
	got, err := p.agree(ctx, want, func(have object.ImageSpec) bool {
		if have.Digest == want.Digest {
			return have.Size < want.Size || saysMore(want, have)
		}
		return req.GetMoved() && have.Registry
	})
	if err != nil {
		return nil, err
	}
	return &skeinv1.NameImageResponse{Image: ImageMessage(got)}, nil
}

// ImageOf reads an image that came as a message. It does not say whether it came
// from a registry.
func ImageOf(img *skeinv1.ImportedImage) object.ImageSpec {
	out := object.ImageSpec{Reference: img.GetReference(), Digest: img.GetDigest(), MediaType: img.GetMediaType(), Size: img.GetSize()}
	for _, l := range img.GetLayers() {
		out.Layers = append(out.Layers, object.ImageLayer{Digest: l.GetDigest(), Size: l.GetSize()})
	}
	return out
}

// ImageMessage is an image as others are told of it.
func ImageMessage(img object.ImageSpec) *skeinv1.ImportedImage {
	out := &skeinv1.ImportedImage{Reference: img.Reference, Digest: img.Digest, MediaType: img.MediaType, Size: img.Size}
	for _, l := range img.Layers {
		out.Layers = append(out.Layers, &skeinv1.ImageLayer{Digest: l.Digest, Size: l.Size})
	}
	return out
}

func validImage(img object.ImageSpec) bool {
	return object.ValidImage(img.Reference) == nil && validDigest(img.Digest) && len(img.MediaType) <= 128 && img.Size >= 0 &&
		len(img.Layers) <= object.MaxLayers &&
		!slices.ContainsFunc(img.Layers, func(l object.ImageLayer) bool { return !validDigest(l.Digest) || l.Size < 0 })
}

// saysMore tells whether the one says what an image is made of, and the other not.
func saysMore(a, b object.ImageSpec) bool { return len(b.Layers) == 0 && len(a.Layers) > 0 }

func validDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// Name makes a reference mean a digest in the whole cluster.
func (s *Server) Name(ctx context.Context, img object.ImageSpec) error {
	_, err := s.agree(ctx, img, func(have object.ImageSpec) bool { return have.Digest != img.Digest || saysMore(img, have) })
	return err
}

// agree writes what a reference means, unless it means something already that is
// not to be replaced, and returns what holds.
func (s *Server) agree(ctx context.Context, img object.ImageSpec, replace func(have object.ImageSpec) bool) (object.ImageSpec, error) {
	for range conflictTries {
		obj := &object.Image{
			TypeMeta: metav1.TypeMeta{APIVersion: object.Group, Kind: object.KindImage},
			ObjectMeta: metav1.ObjectMeta{
				Name: object.ImageName(img.Reference), UID: types.UID(s.cfg.UID()),
				CreationTimestamp: metav1.Time{Time: s.cfg.Now().Truncate(time.Second)},
			},
			Spec: img,
		}
		expect := uint64(0)
		if row, ok := s.cfg.Consensus.Store().Get(state.Key{Kind: object.KindImage, Name: obj.Name}); ok {
			have, err := object.Decode[object.Image](row)
			if err != nil {
				return object.ImageSpec{}, err
			}
			if !replace(have.Spec) {
				return have.Spec, nil
			}
			obj.ObjectMeta, expect = have.ObjectMeta, row.Version
		}
		op, err := object.Put(obj, expect)
		if err != nil {
			return object.ImageSpec{}, err
		}
		_, err = s.cfg.Consensus.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{op}})
		var conflict *state.ConflictError
		if !errors.As(err, &conflict) {
			return obj.Spec, err
		}
	}
	return object.ImageSpec{}, refuse(connect.CodeAborted, exitFailed, "try again", "image %s keeps changing", img.Reference)
}
