package agent

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/skein-dev/skein/agent/api"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/runc"
)

// pods reaches this machine's Pods for the API.
type pods struct{ agent *Agent }

func (p pods) PodLogs(ctx context.Context, req *skeinv1.PodLogsRequest, send func(*skeinv1.LogsResponse) error) error {
	return found(p.agent.node.PodLogs(ctx, req, send))
}

func (p pods) PodExec(ctx context.Context, req api.ExecRequest) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	spec := container.ExecSpec{
		Args: req.Command, Env: req.Env, TTY: req.TTY, Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr,
		Size: sizeOf(req.Size), Resize: sizesOf(ctx, req.Resize),
	}
	code, err := p.agent.node.PodExec(ctx, req.UID, req.Container, spec)
	return code, found(err)
}

func (p pods) PodAttach(ctx context.Context, req api.AttachRequest) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := p.agent.node.PodAttach(ctx, req.UID, req.Container, container.AttachSpec{
		Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr,
		Size: sizeOf(req.Size), Resize: sizesOf(ctx, req.Resize), Replay: req.Replay,
	})
	return code, found(err)
}

func (p pods) PodCopyOut(ctx context.Context, req *skeinv1.CopyOutRequest, w io.Writer) ([]string, error) {
	notices, err := p.agent.node.PodCopyOut(ctx, req.GetPod().GetName(), req.GetContainer(), req.GetPath(), w)
	return notices, copied(err)
}

func (p pods) PodCopyIn(ctx context.Context, req *skeinv1.CopyInStart, r io.Reader) ([]string, error) {
	spec := container.CopySpec{Path: req.GetPath(), Archive: req.GetArchive()}
	notices, err := p.agent.node.PodCopyIn(ctx, req.GetPod().GetName(), req.GetContainer(), spec, r)
	return notices, copied(err)
}

func (p pods) PodDial(ctx context.Context, uid string, port uint16) (net.Conn, error) {
	conn, err := p.agent.node.PodDial(ctx, uid, port)
	return conn, found(err)
}

func (p pods) Usage(ctx context.Context) ([]*skeinv1.ContainerUsage, error) {
	return p.agent.node.Usage(ctx)
}

// copied says in the API's words why files were not copied.
func copied(err error) error {
	var why *runc.CopyError
	if errors.As(err, &why) {
		return api.CopyError{Err: err}
	}
	return found(err)
}

// sizesOf passes sizes on until ctx ends.
func sizesOf(ctx context.Context, from <-chan *skeinv1.TerminalSize) <-chan container.Size {
	if from == nil {
		return nil
	}
	sizes := make(chan container.Size)
	go func() {
		defer close(sizes)
		for s := range from {
			select {
			case sizes <- sizeOf(s):
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

func sizeOf(s *skeinv1.TerminalSize) container.Size {
	return container.Size{Columns: uint16(min(s.GetColumns(), 1<<16-1)), Rows: uint16(min(s.GetRows(), 1<<16-1))} //nolint:gosec // clamped
}

// found says "not found" in the API's words.
func found(err error) error {
	if errors.Is(err, container.ErrNotFound) {
		return api.NotFound{Err: err}
	}
	return err
}
