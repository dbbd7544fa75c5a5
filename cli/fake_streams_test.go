package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Await converges, or not, as the name of the object says.
func (f *fake) Await(ctx context.Context, req *skeinv1.AwaitRequest, stream skeinv1connect.ClusterServiceAwaitServerStream) error {
	name := req.GetObject().GetName()
	say := func(messages ...*skeinv1.AwaitResponse) error {
		for _, message := range messages {
			if err := stream.Send(message); err != nil {
				return err
			}
		}
		return nil
	}
	done := func(code int32, text, hint string) *skeinv1.AwaitResponse {
		return &skeinv1.AwaitResponse{Done: true, ExitCode: code, Error: text, Hint: hint}
	}
	if req.GetGone() {
		return say(&skeinv1.AwaitResponse{Summary: "stopping"}, &skeinv1.AwaitResponse{Summary: "gone", Done: true})
	}
	switch name {
	case "stuck":
		return say(&skeinv1.AwaitResponse{Summary: "0 of 1 ready"}, done(exitNotConverged, "0 of 1 ready after 2m0s", `see why with "skein describe pod/stuck-1"`))
	case "bad":
		return say(done(4, "the new version never became ready, so the old one runs again", ""))
	case "crash":
		return say(&skeinv1.AwaitResponse{Line: "pod/crash-1: container app has ended with exit code 7 (Error)\nlast lines:\n  no such file"}, done(exitFailed, "its Pods end as soon as they start", ""))
	case "flaky": // the leader's machine loses its power in between
		if f.count("flaky") == 0 {
			if err := say(&skeinv1.AwaitResponse{Summary: "0 of 1 ready"}); err != nil {
				return err
			}
			cutOff()
		}
		if f.count("elected") == 0 {
			return leadsNoMore()
		}
	case "late":
		<-ctx.Done()
		return ctx.Err()
	}
	return say(
		&skeinv1.AwaitResponse{Summary: "0 of 1 ready"},
		&skeinv1.AwaitResponse{Line: "pod/" + name + "-1 is ready on n1"},
		&skeinv1.AwaitResponse{Summary: "1 of 1 ready", Done: true},
	)
}

func leadsNoMore() error {
	return refuse(connect.CodeUnavailable, exitNoLeader, "", "this node leads no more")
}

func (f *fake) Drain(ctx context.Context, req *skeinv1.DrainRequest, stream skeinv1connect.ClusterServiceDrainServerStream) error {
	if req.GetNode() == "n9" {
		return refuse(connect.CodeFailedPrecondition, 5, "", "pod default/lonely belongs to no Deployment; nothing was moved")
	}
	for _, message := range []*skeinv1.AwaitResponse{
		{Line: "node/" + req.GetNode() + " is cordoned"}, {Summary: "2 of 2 Pods still on n1"}, {Line: "pod/web-1 has left"}, {Summary: "0 of 2 Pods still on n1", Done: true},
	} {
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

// Watch breaks once in the middle, and ends with a refusal that stops the watch.
func (f *fake) Watch(ctx context.Context, req *skeinv1.GetRequest, stream skeinv1connect.ClusterServiceWatchServerStream) error {
	row := func(name, ready, status string) *skeinv1.TableRow {
		return &skeinv1.TableRow{Key: "default/" + name, Cells: []string{name, ready, status}}
	}
	columns := []string{"NAME", "READY", "STATUS"}
	table := func(rows ...*skeinv1.TableRow) *skeinv1.Table { return &skeinv1.Table{Columns: columns, Rows: rows} }
	var messages []*skeinv1.WatchResponse
	first := f.count("watch") == 0
	switch {
	case f.modeNow() == "endless":
		messages = []*skeinv1.WatchResponse{{Reset_: true, Table: table(row("web-1", "1/1", "Running"))}, {Synced: true}}
	case req.GetFormat() == skeinv1.Format_FORMAT_JSON:
		messages = []*skeinv1.WatchResponse{{Document: []byte(`{"kind":"Pod","metadata":{"name":"web-1"}}`)}, {Synced: true}, {Document: []byte(`{"kind":"Pod","metadata":{"name":"web-2"}}`)}}
	case first:
		messages = []*skeinv1.WatchResponse{
			{Reset_: true, Table: table(row("web-1", "1/1", "Running"))},
			{Table: table(row("web-22", "0/1", "ContainerCreating"))},
			{Synced: true},
			{Table: table(row("web-22", "1/1", "Running"))},
			{Deleted: []string{"default/web-1"}},
		}
	default: // web-22 is as it was, web-3 is new
		messages = []*skeinv1.WatchResponse{
			{Reset_: true, Table: table(row("web-22", "1/1", "Running"), row("web-3", "0/1", "Pending"))},
			{Synced: true},
		}
	}
	for _, message := range messages {
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	switch {
	case f.modeNow() == "endless":
		f.calls <- "watching"
		<-ctx.Done()
		return ctx.Err()
	case first && req.GetFormat() == skeinv1.Format_FORMAT_UNSPECIFIED:
		return leadsNoMore()
	}
	return refuse(connect.CodePermissionDenied, exitForbidden, "", "the token was revoked")
}

// Logs writes two Pods' lines; one that is followed breaks once and repeats some.
func (f *fake) Logs(_ context.Context, req *skeinv1.LogsRequest, stream skeinv1connect.ClusterServiceLogsServerStream) error {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()
	line := func(pod, container string, offset int64, text string) *skeinv1.LogsResponse {
		return &skeinv1.LogsResponse{Pod: pod, Container: container, TimeUnixNano: at + offset, Line: []byte(text)}
	}
	var lines []*skeinv1.LogsResponse
	again := req.GetFollow() && f.count("logs") > 0
	switch {
	case len(req.GetObjects()) == 1 && req.GetObjects()[0].GetName() == "two":
		lines = append(lines, line("two", "app", 1, "hello"), line("two", "sidecar", 2, "proxying"))
	case len(req.GetObjects()) == 1 && kindOf(req.GetObjects()[0].GetKind()).name == "Pod":
		first := req.GetObjects()[0].GetName()
		if first == "ghost" {
			return refuse(connect.CodeNotFound, exitFailed, `see what there is with "skein get pods"`, "pod %q not found in namespace default", first)
		}
		begin := line(first, "web", 1, "one ")
		begin.Partial = true
		lines = append(lines, begin, line(first, "web", 2, "line"), line(first, "web", 3, "another"))
		lines = append(lines, &skeinv1.LogsResponse{Pod: first, Notice: "3 lines were dropped: the disk was full"})
	case len(req.GetObjects()) == 1 && req.GetObjects()[0].GetName() == "single":
		lines = append(lines, line("single-1", "web", 1, "alone"))
	case req.GetFollow() && !again:
		lines = append(lines, line("web-1", "web", 1, "a"), line("web-1", "web", 1, "b"), line("web-2", "web", 2, "c"))
	case req.GetFollow():
		lines = append(lines, line("web-1", "web", 1, "a"), line("web-1", "web", 1, "b"), line("web-1", "web", 1, "same instant"), line("web-2", "web", 2, "c"), line("web-2", "web", 3, "d"))
	default:
		lines = append(lines, line("web-1", "web", 1, "from one"), line("web-22", "web", 2, "from the other"), line("web-22", "log", 3, "beside it"))
	}
	for _, l := range lines {
		if err := stream.Send(l); err != nil {
			return err
		}
	}
	if req.GetFollow() && !again {
		return leadsNoMore()
	}
	return nil
}

// Exec knows a few programs.
func (f *fake) Exec(_ context.Context, stream skeinv1connect.ClusterServiceExecServerStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	start := first.GetStart()
	out := func(format string, args ...any) error {
		return stream.Send(&skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_Stdout{Stdout: fmt.Appendf(nil, format, args...)}})
	}
	exit := func(code int32) error {
		return stream.Send(&skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_ExitCode{ExitCode: code}})
	}
	switch command := start.GetCommand(); command[0] {
	case "echo":
		return errors.Join(out("%s\n", strings.Join(command[1:], " ")), exit(0))
	case "fail":
		return errors.Join(stream.Send(&skeinv1.ExecResponse{Message: &skeinv1.ExecResponse_Stderr{Stderr: []byte("it went wrong\n")}}), exit(42))
	case "cut":
		return out("half\n")
	case "wc": // counts its input, which must end
		n := 0
		for {
			req, err := stream.Receive()
			if err != nil {
				return fmt.Errorf("input never ended: %w", err)
			}
			n += len(req.GetStdin())
			if req.GetStdinClosed() {
				return errors.Join(out("%d\n", n), exit(0))
			}
		}
	case "size": // a full-screen program: tells its size, and each later one
		if err := out("size %dx%d tty=%t env=%v\r\n", start.GetSize().GetColumns(), start.GetSize().GetRows(), start.GetTty(), start.GetEnv()); err != nil {
			return err
		}
		for {
			req, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				return exit(1)
			}
			if err != nil {
				return err
			}
			if size := req.GetResize(); size != nil {
				return errors.Join(out("resized %dx%d\r\n", size.GetColumns(), size.GetRows()), exit(3))
			}
			if len(req.GetStdin()) > 0 {
				if err := out("key %q\r\n", req.GetStdin()); err != nil {
					return err
				}
			}
		}
	}
	return refuse(connect.CodeFailedPrecondition, exitFailed, "", "exec: %q is not in the container", start.GetCommand()[0])
}
