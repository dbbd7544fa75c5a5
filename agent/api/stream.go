package api

import (
	"context"
	"errors"
	"io"
	"strings"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// execServer is the callee's end of an Exec stream, whichever service it is of.
type execServer interface {
	Receive() (*skeinv1.ExecRequest, error)
	Send(*skeinv1.ExecResponse) error
}

// Exec finds the Pod's node and joins the two streams.
func (c *cluster) Exec(ctx context.Context, stream skeinv1connect.ClusterServiceExecServerStream) error {
	if err := need(ctx, RoleEdit); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || start.GetPod() == nil {
		return badRequest("the first message must say what to run, and where")
	}
	pod, err := c.podNamed(start.GetPod())
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return refuse(connect.CodeFailedPrecondition, exitFailed, "see why with \"skein describe pod/"+pod.Name+"\"", "pod %q runs on no machine yet", pod.Name)
	}
	if err := knownContainer(pod, start.GetContainer()); err != nil {
		return err
	}
	start.Pod = &skeinv1.ObjectRef{Kind: "pod", Namespace: pod.Namespace, Name: string(pod.UID)}
	if pod.Spec.NodeName == c.cfg.Name {
		return c.execHere(ctx, start, stream)
	}
	remote, err := c.cfg.Peers.Client(pod.Spec.NodeName).PodExec(ctx)
	if err != nil {
		return c.unreachable(pod.Spec.NodeName, err)
	}
	return splice(c.Server, pod.Spec.NodeName, stream, remote, first)
}

// A near is the callee's end of a stream, a far the caller's.
type near[Q, A any] interface {
	Receive() (Q, error)
	Send(A) error
}

type far[Q, A any] interface {
	Send(Q) error
	Receive() (A, error)
	CloseSend() error
	Close() error
}

// splice joins what a client said, beginning with first, with another node that
// answers. It ends with the answer, or with the context of both.
func splice[Q, A any](s *Server, node string, client near[Q, A], remote far[Q, A], first Q) error {
	defer func() { _ = remote.Close() }()
	if err := remote.Send(first); err != nil && !errors.Is(err, io.EOF) { // after an EOF the answer tells why
		return s.unreachable(node, err)
	}
	go func() {
		for {
			msg, err := client.Receive()
			if err != nil {
				_ = remote.CloseSend() // the answer tells what became of it
				return
			}
			if remote.Send(msg) != nil {
				return
			}
		}
	}()
	for {
		msg, err := remote.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.unreachable(node, err)
		}
		if err := client.Send(msg); err != nil {
			return err
		}
	}
}

// PodExec runs a program in a Pod of this machine, for a voter, which has
// checked that its person may.
func (p *peer) PodExec(ctx context.Context, stream skeinv1connect.PeerServicePodExecServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	if first.GetStart() == nil {
		return badRequest("the first message must say what to run")
	}
	return p.execHere(ctx, first.GetStart(), stream)
}

// execHere runs the program on this machine until it ends or the client goes.
func (s *Server) execHere(ctx context.Context, start *skeinv1.ExecStart, stream execServer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := newTyped(stream, cancel)
	defer t.close()
	var refused holdback
	req := ExecRequest{
		UID: start.GetPod().GetName(), Container: start.GetContainer(),
		Command: start.GetCommand(), Env: start.GetEnv(), TTY: start.GetTty(), Size: start.GetSize(), Resize: t.resize,
		Stdout: t.stdout(), Stderr: t.stderr(),
	}
	if start.GetStdin() {
		req.Stdin = t.stdin
	} else {
		go func() { _, _ = io.Copy(io.Discard, t.stdin) }() // nobody reads it; it ends with the pipe
	}
	refused.to, req.Stderr = req.Stderr, &refused
	code, err := s.cfg.Pods.PodExec(ctx, req)
	if err != nil {
		return cannotExec(err)
	}
	refused.release()
	return t.exit(code)
}

// startFailed begins what the runtime says, on the program's own standard error
// and in its error, when there is no such program.
const startFailed = "exec failed: unable to start container process: "

// cannotExec says why a program did not start. Shells have exit codes for that.
func cannotExec(err error) error {
	_, why, ok := strings.Cut(err.Error(), startFailed)
	if !ok {
		return refuse(connect.CodeFailedPrecondition, exitFailed, "", "exec: %v", err)
	}
	why = strings.TrimPrefix(why, "exec: ")
	code := int32(126)
	if strings.Contains(why, "not found") || strings.Contains(why, "no such file") {
		code = 127
	}
	return refuse(connect.CodeFailedPrecondition, code, "", "cannot start the program: %s", strings.TrimSpace(why))
}

// A holdback keeps what the runtime writes in the program's place until it is
// known that the program wrote it.
type holdback struct {
	to    io.Writer
	begun bool
	kept  []byte
}

func (h *holdback) Write(b []byte) (int, error) {
	if !h.begun && strings.HasPrefix(string(b), startFailed) {
		h.begun, h.kept = true, append(h.kept, b...)
		return len(b), nil
	}
	h.begun = true
	h.release()
	return h.to.Write(b)
}

func (h *holdback) release() {
	if h.kept != nil {
		_, _ = h.to.Write(h.kept) // the client is gone, which ends the call
		h.kept = nil
	}
}

// pump hands on what the client types. It returns nil once the client has said
// that no more input comes, and an error when the client is gone.
func pump(stream execServer, keys *io.PipeWriter, resize chan<- *skeinv1.TerminalSize) error {
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			_ = keys.CloseWithError(io.EOF) // always nil
			return nil
		}
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *skeinv1.ExecRequest_Stdin:
			if _, err := keys.Write(m.Stdin); err != nil {
				continue // the program reads no more; sizes still matter
			}
		case *skeinv1.ExecRequest_StdinClosed:
			_ = keys.CloseWithError(io.EOF) // always nil
		case *skeinv1.ExecRequest_Resize:
			select {
			case resize <- m.Resize:
			default: // a later size follows
			}
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// unreachable says that a node did not answer, unless it did, with an error of
// its own.
func (s *Server) unreachable(node string, err error) error {
	var remote *connect.Error
	if errors.As(err, &remote) && remote.IsRemote() && remote.Code() != connect.CodeUnavailable {
		return err
	}
	s.log.Debug("a node does not answer", "node", node, "err", err)
	return refuse(connect.CodeUnavailable, exitFailed, "see the machines with \"skein node ls\"", "node %s does not answer", node)
}
