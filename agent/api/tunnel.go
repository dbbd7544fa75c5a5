package api

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// dialPatience is how long a connection into a Pod may take to be made.
const dialPatience = 10 * time.Second

// PortForward finds the Pod's node and joins the two streams.
func (c *inside) PortForward(ctx context.Context, stream skeinv1connect.InsideServicePortForwardServerStream) error {
	if err := need(ctx, RoleEdit); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	pod, port, err := c.tunnelEnd(ctx, first.GetPod(), first.GetPort())
	if err != nil {
		return err
	}
	first.Pod, first.Port = byUID(pod), port
	if pod.Spec.NodeName == c.cfg.Name {
		return c.forwardHere(ctx, first, stream)
	}
	remote, err := c.cfg.Peers.Inside(pod.Spec.NodeName).PodForward(ctx)
	if err != nil {
		return c.unreachable(pod.Spec.NodeName, err)
	}
	return splice(c.Server, pod.Spec.NodeName, stream, remote, first)
}

// PodForward is PortForward into a Pod of this machine.
func (p *insidePeer) PodForward(ctx context.Context, stream skeinv1connect.InsidePeerServicePodForwardServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	return p.forwardHere(ctx, first, stream)
}

// forwardHere is one connection into a Pod of this machine, until both sides
// have said all or one of them is gone.
func (s *Server) forwardHere(ctx context.Context, first *skeinv1.PortForwardRequest, stream near[*skeinv1.PortForwardRequest, *skeinv1.PortForwardResponse]) error {
	port := first.GetPort()
	if port == 0 || port > 65535 {
		return badRequest("%d is no port", port)
	}
	dialing, cancel := context.WithTimeout(ctx, dialPatience)
	conn, err := s.cfg.Inside.PodDial(dialing, first.GetPod().GetName(), uint16(port))
	cancel()
	if err != nil {
		return cannotDial(ctx, port, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := stream.Send(&skeinv1.PortForwardResponse{}); err != nil {
		return err
	}
	poured := make(chan struct{})
	go func() {
		defer close(poured)
		if !pour(stream, conn, first) {
			_ = conn.Close() // the client is gone, or the connection broken
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			if err := stream.Send(&skeinv1.PortForwardResponse{Data: append([]byte(nil), buffer[:n]...)}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF): // the Pod may go on to listen
			if err := stream.Send(&skeinv1.PortForwardResponse{Closed: true}); err != nil {
				return err
			}
			select {
			case <-poured:
			case <-ctx.Done():
			}
			return nil
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return refuse(connect.CodeAborted, exitFailed, "", "the connection to port %d broke: %v", port, err)
		}
	}
}

// pour writes to the Pod what the client sends. It says whether that came to its
// end.
func pour(stream near[*skeinv1.PortForwardRequest, *skeinv1.PortForwardResponse], conn net.Conn, msg *skeinv1.PortForwardRequest) bool {
	for {
		if len(msg.GetData()) > 0 {
			if _, err := conn.Write(msg.GetData()); err != nil {
				return false
			}
		}
		if msg.GetClosed() {
			break
		}
		var err error
		if msg, err = stream.Receive(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return false
		}
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite() == nil
	}
	return true
}

// cannotDial says why there is no connection.
func cannotDial(ctx context.Context, port uint32, err error) error {
	var missing NotFound
	switch {
	case errors.As(err, &missing) || ctx.Err() != nil:
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return refuse(connect.CodeFailedPrecondition, exitFailed, "", "nothing listens on port %d of the Pod", port)
	}
	return refuse(connect.CodeFailedPrecondition, exitFailed, "", "port %d of the Pod: %v", port, err)
}
