package api

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/skein-dev/skein/agent/object"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// A Push is an archive of which only those parts come that are not here.
type Push interface {
	// Lacks lists the entries that are to come.
	Lacks() []int
	Take(entry int, r io.Reader) error
	// Finish names what came, the one image that ref means if ref is not empty.
	Finish(ref string) ([]object.ImageSpec, error)
	Close()
}

// pushStream is the callee's end of a push, whichever service it is of.
type pushStream interface {
	Receive() (*skeinv1.PushImageRequest, error)
	Send(msg *skeinv1.PushImageResponse) error
}

const hintArchive = "make one with \"docker save IMAGE -o FILE.tar\", or any OCI layout as a tar"

// PushImage keeps an archive on one node, as far as the cluster lacks its parts,
// and tells the cluster what its images' names mean from now on.
func (c *imager) PushImage(ctx context.Context, stream skeinv1connect.ImageServicePushImageServerStream) error {
	if err := need(ctx, RoleEdit); err != nil {
		return err
	}
	if !c.cfg.Consensus.IsLeader() {
		return errNotLeader
	}
	first, err := stream.Receive()
	if err != nil || first.GetStart() == nil {
		return badRequest("the first message lists what is in the archive")
	}
	var done *skeinv1.ImportImageResponse
	switch node := first.GetStart().GetNode(); node {
	case "", c.cfg.Name:
		done, err = c.pushHere(ctx, first.GetStart(), stream)
	default:
		done, err = c.pushOn(ctx, node, first, stream)
	}
	if err != nil {
		return err
	}
	if err := c.name(ctx, done.GetImages()); err != nil {
		return err
	}
	return stream.Send(&skeinv1.PushImageResponse{Message: &skeinv1.PushImageResponse_Done{Done: done}})
}

// pushOn joins the person's stream with one to another node.
func (c *imager) pushOn(ctx context.Context, node string, first *skeinv1.PushImageRequest, stream pushStream) (*skeinv1.ImportImageResponse, error) {
	if _, ok := c.node(node); !ok {
		return nil, notFound(&skeinv1.ObjectRef{Kind: "node", Name: node})
	}
	remote, err := c.cfg.Peers.Images(node).PushHere(ctx)
	if err != nil {
		return nil, c.unreachable(node, err)
	}
	defer func() { _ = remote.Close() }()
	if err := remote.Send(first); err != nil {
		return nil, c.unreachable(node, err)
	}
	needs, err := remote.Receive()
	if err != nil {
		return nil, c.unreachable(node, err)
	}
	if err := stream.Send(needs); err != nil {
		return nil, err
	}
	for {
		msg, err := stream.Receive()
		if err != nil {
			return nil, badRequest("the archive broke off")
		}
		if err := remote.Send(msg); err != nil || msg.GetComplete() {
			break // the answer says why
		}
	}
	_ = remote.CloseSend()
	last, err := remote.Receive()
	if err != nil {
		return nil, c.unreachable(node, err)
	}
	return last.GetDone(), nil
}

// PushHere keeps an archive here, for the leader, which names what it holds.
func (p *imagePeer) PushHere(ctx context.Context, stream skeinv1connect.ImagePeerServicePushHereServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil || first.GetStart() == nil {
		return badRequest("the first message lists what is in the archive")
	}
	done, err := p.pushHere(ctx, first.GetStart(), stream)
	if err != nil {
		return err
	}
	return stream.Send(&skeinv1.PushImageResponse{Message: &skeinv1.PushImageResponse_Done{Done: done}})
}

// pushHere takes what this machine lacks, from other machines where they have it,
// else from whoever pushes.
func (s *Server) pushHere(ctx context.Context, start *skeinv1.PushStart, stream pushStream) (*skeinv1.ImportImageResponse, error) {
	push, err := s.cfg.Holdings.BeginPush(ctx, start.GetEntries())
	if err != nil {
		return nil, refuse(connect.CodeInvalidArgument, exitFailed, hintArchive, "push: %v", err)
	}
	defer push.Close()
	needs := &skeinv1.PushNeeds{Node: s.cfg.Name}
	for _, i := range push.Lacks() {
		if s.fromOthers(ctx, push, i, start.GetEntries()[i].GetDigest()) {
			continue
		}
		needs.Entries = append(needs.Entries, int32(i)) //nolint:gosec // bounded by the store
	}
	if err := stream.Send(&skeinv1.PushImageResponse{Message: &skeinv1.PushImageResponse_Needs{Needs: needs}}); err != nil {
		return nil, err
	}
	sent, err := takeParts(push, needs.GetEntries(), stream)
	if err != nil {
		return nil, err
	}
	list, err := push.Finish(start.GetReference())
	if err != nil {
		return nil, refuse(connect.CodeInvalidArgument, exitFailed, hintArchive, "push: %v", err)
	}
	s.cfg.Holdings.Touched()
	return imported(s.cfg.Name, sent, list), nil
}

// takeParts takes what was asked for, in that order, and returns how many bytes
// came.
func takeParts(push Push, wanted []int32, stream pushStream) (int64, error) {
	var sent int64
	parts := &partReader{stream: stream}
	for _, i := range wanted {
		parts.begin(i)
		if err := push.Take(int(i), parts); err != nil {
			if parts.err != nil && !errors.Is(parts.err, io.EOF) {
				return sent, parts.err
			}
			return sent, refuse(connect.CodeInvalidArgument, exitFailed, "", "push: %v", err)
		}
		if sent += parts.n; len(parts.chunk) > 0 {
			return sent, badRequest("that is no part of the archive: entry %d is longer than was said", i)
		}
	}
	for !parts.over {
		if err := parts.next(); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// A partReader reads one entry of a push after the other.
type partReader struct {
	stream pushStream
	entry  int32
	chunk  []byte
	n      int64
	over   bool
	err    error
}

func (p *partReader) begin(entry int32) { p.entry, p.n = entry, 0 }

func (p *partReader) next() error {
	msg, err := p.stream.Receive()
	if err != nil {
		p.err = badRequest("the archive broke off")
		return p.err
	}
	switch {
	case msg.GetComplete():
		p.over = true
	case msg.GetPart() == nil || len(p.chunk) > 0:
		p.err = badRequest("that is no part of the archive")
	case msg.GetPart().GetEntry() != p.entry:
		p.err = badRequest("part %d of the archive came where %d was wanted", msg.GetPart().GetEntry(), p.entry)
	default:
		p.chunk = msg.GetPart().GetChunk()
	}
	return p.err
}

func (p *partReader) Read(b []byte) (int, error) {
	for len(p.chunk) == 0 {
		if p.over {
			return 0, io.ErrUnexpectedEOF
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.chunk)
	p.chunk, p.n = p.chunk[n:], p.n+int64(n)
	return n, nil
}

// fromOthers takes a part from another machine that has it, if there is one.
func (s *Server) fromOthers(ctx context.Context, push Push, entry int, digest string) bool {
	for _, node := range s.cfg.Holdings.Having(digest) {
		r, err := s.cfg.Holdings.ReadFrom(ctx, node, digest)
		if err != nil {
			continue
		}
		err = push.Take(entry, r)
		if cerr := r.Close(); err == nil && cerr == nil {
			return true
		}
		s.log.Debug("another machine did not give a layer", "node", node, "digest", digest, "err", err)
	}
	return false
}

func imported(node string, bytes int64, list []object.ImageSpec) *skeinv1.ImportImageResponse {
	out := &skeinv1.ImportImageResponse{Node: node, Bytes: bytes}
	for _, img := range list {
		out.References = append(out.References, img.Reference)
		out.Images = append(out.Images, ImageMessage(img))
	}
	slices.Sort(out.References)
	return out
}
