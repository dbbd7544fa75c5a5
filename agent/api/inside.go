package api

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Inside reaches into the containers that run on this machine. What is not there
// is an error that wraps NotFound; why files were not copied, a CopyError.
type Inside interface {
	PodAttach(ctx context.Context, req AttachRequest) (int, error)
	PodCopyOut(ctx context.Context, req *skeinv1.CopyOutRequest, w io.Writer) (notices []string, err error)
	PodCopyIn(ctx context.Context, req *skeinv1.CopyInStart, r io.Reader) (notices []string, err error)
	PodDial(ctx context.Context, uid string, port uint16) (net.Conn, error)
	Usage(ctx context.Context) ([]*skeinv1.ContainerUsage, error)
}

// An AttachRequest is what is joined to a container on this machine.
type AttachRequest struct {
	UID       string
	Container string
	Stdin     io.Reader // nil: none
	Stdout    io.Writer
	Stderr    io.Writer
	Size      *skeinv1.TerminalSize
	Resize    <-chan *skeinv1.TerminalSize
	Replay    bool
}

// A CopyError is what a container's file system said of a copy.
type CopyError struct{ Err error }

func (e CopyError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e CopyError) Unwrap() error { return e.Err }

type (
	inside struct {
		*Server
		skeinv1connect.UnimplementedInsideServiceHandler
	}
	insidePeer struct {
		*Server
		skeinv1connect.UnimplementedInsidePeerServiceHandler
	}
)

// within finds the Pod that a person means, on the machine that runs it.
func (s *Server) within(ctx context.Context, ref *skeinv1.ObjectRef, container string) (*corev1.Pod, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	if ref == nil || ref.GetName() == "" {
		return nil, badRequest("the first message must say of which Pod")
	}
	pod, err := s.podNamed(ref)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, refuse(connect.CodeFailedPrecondition, exitFailed, "see why with \"skein describe pod/"+pod.Name+"\"", "pod %q runs on no machine yet", pod.Name)
	}
	return pod, knownContainer(pod, container)
}

func byUID(pod *corev1.Pod) *skeinv1.ObjectRef {
	return &skeinv1.ObjectRef{Kind: "pod", Namespace: pod.Namespace, Name: string(pod.UID)}
}

// Attach finds the Pod's node and joins the two streams.
func (c *inside) Attach(ctx context.Context, stream skeinv1connect.InsideServiceAttachServerStream) error {
	if err := need(ctx, RoleEdit); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	start := first.GetStart()
	pod, err := c.within(ctx, start.GetPod(), start.GetContainer())
	if err != nil {
		return err
	}
	start.Pod = byUID(pod)
	if pod.Spec.NodeName == c.cfg.Name {
		return c.attachHere(ctx, start, stream)
	}
	remote, err := c.cfg.Peers.Inside(pod.Spec.NodeName).PodAttach(ctx)
	if err != nil {
		return c.unreachable(pod.Spec.NodeName, err)
	}
	return splice(c.Server, pod.Spec.NodeName, stream, remote, first)
}

// PodAttach is Attach of a Pod of this machine.
func (p *insidePeer) PodAttach(ctx context.Context, stream skeinv1connect.InsidePeerServicePodAttachServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	if first.GetStart() == nil {
		return badRequest("the first message must say of which Pod")
	}
	return p.attachHere(ctx, first.GetStart(), stream)
}

// attached is a stream of Attach as one of Exec.
type attached struct {
	near[*skeinv1.AttachRequest, *skeinv1.ExecResponse]
}

func (a attached) Receive() (*skeinv1.ExecRequest, error) {
	msg, err := a.near.Receive()
	return msg.GetInput(), err
}

// attachHere joins a container of this machine until it ends or the client goes.
func (s *Server) attachHere(ctx context.Context, start *skeinv1.AttachStart, client near[*skeinv1.AttachRequest, *skeinv1.ExecResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := attached{client}
	t := newTyped(stream, cancel)
	defer t.close()
	req := AttachRequest{
		UID: start.GetPod().GetName(), Container: start.GetContainer(), Replay: start.GetReplay(),
		Size: start.GetSize(), Resize: t.resize, Stdout: t.stdout(), Stderr: t.stderr(),
	}
	if start.GetStdin() {
		req.Stdin = t.stdin
	} else {
		go func() { _, _ = io.Copy(io.Discard, t.stdin) }() // nobody reads it; it ends with the pipe
	}
	code, err := s.cfg.Inside.PodAttach(ctx, req)
	if err != nil {
		return cannotAttach(ctx, err)
	}
	return t.exit(code)
}

func cannotAttach(ctx context.Context, err error) error {
	var missing NotFound
	if errors.As(err, &missing) || ctx.Err() != nil {
		return err
	}
	return refuse(connect.CodeFailedPrecondition, exitFailed, "", "%v", err)
}

// typed is the callee's end of a stream at which somebody types.
type typed struct {
	stream execServer
	cancel context.CancelFunc // ends the call once the client is gone
	stdin  *io.PipeReader
	resize chan *skeinv1.TerminalSize
	mu     sync.Mutex // Send is not for two at once
}

// newTyped begins to read what the client says.
func newTyped(stream execServer, cancel context.CancelFunc) *typed {
	stdin, keys := io.Pipe()
	t := &typed{stream: stream, cancel: cancel, stdin: stdin, resize: make(chan *skeinv1.TerminalSize, 8)}
	go func() {
		defer close(t.resize)
		err := pump(stream, keys, t.resize)
		_ = keys.CloseWithError(io.EOF) // always nil
		if err != nil {
			cancel() // the client is gone: leave nothing running
		}
	}()
	return t
}

func (t *typed) close() { _ = t.stdin.Close() } // always nil

func (t *typed) send(msg *skeinv1.ExecResponse) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stream.Send(msg)
}

func (t *typed) writer(wrap func([]byte) *skeinv1.ExecResponse) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		if err := t.send(wrap(append([]byte(nil), b...))); err != nil {
			t.cancel()
			return 0, err
		}
		return len(b), nil
	})
}

func (t *typed) stdout() io.Writer {
	return t.writer(func(b []byte) *skeinv1.ExecResponse {
		return &skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_Stdout{Stdout: b}}
	})
}

func (t *typed) stderr() io.Writer {
	return t.writer(func(b []byte) *skeinv1.ExecResponse {
		return &skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_Stderr{Stderr: b}}
	})
}

// exit says how the program ended.
func (t *typed) exit(code int) error {
	return t.send(&skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_ExitCode{ExitCode: int32(code)}}) //nolint:gosec // an exit code
}
