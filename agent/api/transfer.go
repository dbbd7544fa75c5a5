package api

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// copyChunk bounds the data of one message of a copy, in bytes.
const copyChunk = 64 << 10

// cannotCopy says why files were not copied.
func cannotCopy(err error) error {
	var why CopyError
	if errors.As(err, &why) {
		return refuse(connect.CodeFailedPrecondition, exitFailed, "", "%v", why.Err)
	}
	return err
}

// CopyOut finds the Pod's node and passes on its answer.
func (c *inside) CopyOut(ctx context.Context, req *skeinv1.CopyOutRequest, stream skeinv1connect.InsideServiceCopyOutServerStream) error {
	pod, err := c.within(ctx, req.GetPod(), req.GetContainer())
	if err != nil {
		return err
	}
	req.Pod = byUID(pod)
	if pod.Spec.NodeName == c.cfg.Name {
		return c.copyOutHere(ctx, req, stream.Send)
	}
	remote, err := c.cfg.Peers.Inside(pod.Spec.NodeName).PodCopyOut(ctx, req)
	if err != nil {
		return c.unreachable(pod.Spec.NodeName, err)
	}
	defer func() { _ = remote.Close() }()
	for {
		msg, err := remote.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.unreachable(pod.Spec.NodeName, err)
		}
		if err := stream.Send(msg); err != nil {
			return err
		}
	}
}

// PodCopyOut is CopyOut of a Pod of this machine.
func (p *insidePeer) PodCopyOut(ctx context.Context, req *skeinv1.CopyOutRequest, stream skeinv1connect.InsidePeerServicePodCopyOutServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	return p.copyOutHere(ctx, req, stream.Send)
}

func (s *Server) copyOutHere(ctx context.Context, req *skeinv1.CopyOutRequest, send func(*skeinv1.CopyOutResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var gone error
	notices, err := s.cfg.Inside.PodCopyOut(ctx, req, writerFunc(func(b []byte) (int, error) {
		for rest := b; len(rest) > 0; {
			n := min(len(rest), copyChunk)
			if gone = send(&skeinv1.CopyOutResponse{Chunk: append([]byte(nil), rest[:n]...)}); gone != nil {
				cancel()
				return 0, gone
			}
			rest = rest[n:]
		}
		return len(b), nil
	}))
	if gone != nil {
		return gone
	}
	for _, n := range notices {
		if err := send(&skeinv1.CopyOutResponse{Notice: n}); err != nil {
			return err
		}
	}
	return cannotCopy(err)
}

// CopyIn finds the Pod's node and passes on what comes.
func (c *inside) CopyIn(ctx context.Context, stream skeinv1connect.InsideServiceCopyInServerStream) (*skeinv1.CopyInResponse, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	first, err := stream.Receive()
	if err != nil {
		return nil, missingFirst(err)
	}
	start := first.GetStart()
	pod, err := c.within(ctx, start.GetPod(), start.GetContainer())
	if err != nil {
		return nil, err
	}
	start.Pod = byUID(pod)
	if pod.Spec.NodeName == c.cfg.Name {
		return c.copyInHere(ctx, first, stream.Receive)
	}
	remote, err := c.cfg.Peers.Inside(pod.Spec.NodeName).PodCopyIn(ctx)
	if err != nil {
		return nil, c.unreachable(pod.Spec.NodeName, err)
	}
	for msg := first; ; {
		if err := remote.Send(msg); err != nil {
			break // the answer tells why
		}
		if msg, err = stream.Receive(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err // ends the other one by its context
		}
	}
	answer, err := remote.CloseAndReceive()
	if err != nil {
		return nil, c.unreachable(pod.Spec.NodeName, err)
	}
	return answer, nil
}

func missingFirst(err error) error {
	if errors.Is(err, io.EOF) {
		return badRequest("the first message must say where to")
	}
	return err
}

// PodCopyIn is CopyIn of a Pod of this machine.
func (p *insidePeer) PodCopyIn(ctx context.Context, stream skeinv1connect.InsidePeerServicePodCopyInServerStream) (*skeinv1.CopyInResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	first, err := stream.Receive()
	if err != nil {
		return nil, missingFirst(err)
	}
	if first.GetStart() == nil {
		return nil, badRequest("the first message must say where to")
	}
	return p.copyInHere(ctx, first, stream.Receive)
}

func (s *Server) copyInHere(ctx context.Context, first *skeinv1.CopyInRequest, receive func() (*skeinv1.CopyInRequest, error)) (*skeinv1.CopyInResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	go func() { // ends with the call, whose stream ends then
		for msg := first; ; {
			if _, err := w.Write(msg.GetChunk()); err != nil {
				return
			}
			var err error
			if msg, err = receive(); err != nil {
				if errors.Is(err, io.EOF) { // it may say more than that
					err = io.EOF
				}
				_ = w.CloseWithError(err) // always nil
				return
			}
		}
	}()
	defer func() { _ = r.Close() }() // always nil
	notices, err := s.cfg.Inside.PodCopyIn(ctx, first.GetStart(), r)
	if err != nil {
		return nil, cannotCopy(err)
	}
	return &skeinv1.CopyInResponse{Notices: notices}, nil
}
