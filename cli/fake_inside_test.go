package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Attach echoes what is typed, until the end of input or the word "exit".
func (f *fake) Attach(_ context.Context, stream skeinv1connect.InsideServiceAttachServerStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	out := func(format string, args ...any) error {
		return stream.Send(&skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_Stdout{Stdout: fmt.Appendf(nil, format, args...)}})
	}
	exit := func(code int32) error {
		return stream.Send(&skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_ExitCode{ExitCode: code}})
	}
	start := first.GetStart()
	if start.GetPod().GetName() == "deaf" && start.GetStdin() {
		return refuse(connect.CodeFailedPrecondition, exitFailed, "", "attach to deaf: it has no standard input")
	}
	if !start.GetStdin() {
		return errors.Join(out("looking on\n"), exit(0))
	}
	if err := out("size %dx%d\r\n", start.GetSize().GetColumns(), start.GetSize().GetRows()); err != nil {
		return err
	}
	for {
		req, err := stream.Receive()
		switch {
		case err != nil:
			return err
		case req.GetInput().GetStdinClosed():
			return exit(7)
		case len(req.GetInput().GetStdin()) > 0:
			if err := out("got %q\r\n", req.GetInput().GetStdin()); err != nil {
				return err
			}
		}
	}
}

// CopyOut sends a small tree, or what a hostile container might.
func (f *fake) CopyOut(_ context.Context, req *skeinv1.CopyOutRequest, stream skeinv1connect.InsideServiceCopyOutServerStream) error {
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: to}
	}
	folder := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o750} }
	entries := map[string][]tar.Header{
		"/tree":     {folder("tree/"), file("tree/a"), link("tree/b", "a"), folder("tree/sub/"), file("tree/sub/c")},
		"/a":        {file("a")},
		"/dots":     {folder("dots/"), file("dots/../../evil")},
		"/absolute": {file("/evil")},
		"/through":  {folder("through/"), link("through/out", "../.."), file("through/out/evil")},
		"/links":    {folder("links/"), link("links/abs", "/etc/passwd"), link("links/up", "../../evil"), file("links/a")},
		"/swapped":  {link("swapped", "."), file("swapped/evil")},
		"/device":   {folder("device/"), {Name: "device/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		"/deep":     {folder("deep/"), file("deep/" + string(bytes.Repeat([]byte("d/"), 3000)) + "evil")},
	}[req.GetPath()]
	if entries == nil {
		return refuse(connect.CodeFailedPrecondition, exitFailed, "", "copy: %s is not in the container", req.GetPath())
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.ModTime = time.Unix(1700000000, 0)
		if h.Typeflag == tar.TypeReg {
			h.Size = 5
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, "text\n"); err != nil {
				return err
			}
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	for b.Len() > 0 {
		if err := stream.Send(&skeinv1.CopyOutResponse{Chunk: bytes.Clone(b.Next(700))}); err != nil {
			return err
		}
	}
	return stream.Send(&skeinv1.CopyOutResponse{Notice: "tree/socket: is a device, a pipe or a socket"})
}

// CopyIn keeps what it was sent, as lines of "asked".
func (f *fake) CopyIn(_ context.Context, stream skeinv1connect.InsideServiceCopyInServerStream) (*skeinv1.CopyInResponse, error) {
	var all bytes.Buffer
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if msg.GetStart().GetPath() == "/readonly" {
			return nil, refuse(connect.CodeFailedPrecondition, exitFailed, "", "copy: open /readonly: read-only file system")
		}
		all.Write(msg.GetChunk())
	}
	for r := tar.NewReader(&all); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return &skeinv1.CopyInResponse{}, nil
		}
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		f.asked = append(f.asked, fmt.Sprintf("tar %s %s %s %q", h.Name, h.FileInfo().Mode(), h.Linkname, text))
		f.mu.Unlock()
	}
}

// PortForward echoes, in upper case, until both ends are closed; nobody listens
// on port 9.
func (f *fake) PortForward(_ context.Context, stream skeinv1connect.InsideServicePortForwardServerStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	if first.GetPort() == 9 {
		return refuse(connect.CodeFailedPrecondition, exitFailed, "", "nothing listens on port 9 of the Pod")
	}
	if err := stream.Send(&skeinv1.PortForwardResponse{}); err != nil {
		return err
	}
	for {
		msg, err := stream.Receive()
		if err != nil || msg.GetClosed() {
			return stream.Send(&skeinv1.PortForwardResponse{Data: []byte("bye"), Closed: true})
		}
		if err := stream.Send(&skeinv1.PortForwardResponse{Data: bytes.ToUpper(msg.GetData())}); err != nil {
			return err
		}
	}
}

// Top knows two of each.
func (f *fake) Top(_ context.Context, req *skeinv1.TopRequest) (*skeinv1.TopResponse, error) {
	if req.GetKind() == "nodes" {
		return &skeinv1.TopResponse{Table: &skeinv1.Table{
			Columns: []string{"NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"},
			Rows:    []*skeinv1.TableRow{{Key: "n1", Cells: []string{"n1", "12m", "0%", "300Mi", "1%"}}},
		}}, nil
	}
	if req.GetNamespace() == "empty" {
		return &skeinv1.TopResponse{}, nil
	}
	return &skeinv1.TopResponse{
		Table: &skeinv1.Table{
			Columns: []string{"NAME", "CPU(cores)", "MEMORY(bytes)"},
			Rows:    []*skeinv1.TableRow{{Key: "default/web-1", Cells: []string{"web-1", "1m", "2Mi"}}},
		},
		Notices: []string{"node n3 does not tell: node n3 does not answer"},
	}, nil
}
