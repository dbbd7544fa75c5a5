package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) execCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Category:  groupInside,
		Usage:     "run a program in a container",
		ArgsUsage: "[-it] POD [-c CONTAINER] -- COMMAND [ARG…]",
		UsageText: `skein exec web-1 -- cat /etc/hosts
skein exec -it web-1 -- sh            a shell, on a terminal of its own
tar c . | skein exec -i web-1 -c app -- tar x -C /srv`,
		Description: "Exits with the program's own code.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
			&cli.StringFlag{Name: "container", Aliases: []string{"c"}, Usage: "in the container `NAME`; else the first"},
		},
		Action: s.exec,
	}
}

func (s *session) exec(c *cli.Context) error {
	switch {
	case !c.Args().Present():
		return missing(c, "a Pod")
	case c.NArg() > 1:
		return tooMany(c, c.Args().Get(1))
	case len(s.trailing) == 0:
		return missing(c, "a command")
	}
	kind, name, ok := strings.Cut(c.Args().First(), "/")
	if !ok {
		kind, name = "pod", c.Args().First()
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	start := &skeinv1.ExecStart{
		Pod: &skeinv1.ObjectRef{Kind: kind, Namespace: cluster.namespace, Name: name}, Container: c.String("container"),
		Command: s.trailing, Stdin: c.Bool("stdin"), Tty: c.Bool("tty"),
	}
	if start.GetTty() && start.GetStdin() && !s.inTTY {
		fmt.Fprintln(s.stderr, "warning: standard input is no terminal; going on without one")
		start.Tty = false
	}
	return s.runExec(c.Context, cluster, start)
}

// terminalSize returns nil where there is no terminal.
func (s *session) terminalSize() *skeinv1.TerminalSize {
	for _, file := range []*os.File{s.outFile, s.stdin} {
		if columns, rows, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
			return &skeinv1.TerminalSize{Columns: uint32(columns), Rows: uint32(rows)}
		}
	}
	return nil
}

func (s *session) runExec(ctx context.Context, cluster *cluster, start *skeinv1.ExecStart) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sizes <-chan struct{}
	if start.GetTty() {
		start.Size = s.terminalSize()
		if name := os.Getenv("TERM"); name != "" {
			start.Env = []string{"TERM=" + name}
		}
		sizes = resized(ctx)
		if start.GetStdin() {
			// From here on Ctrl-C is a letter for the program, no signal for us.
			before, err := term.MakeRaw(int(s.stdin.Fd()))
			if err != nil {
				return fmt.Errorf("prepare the terminal: %w", err)
			}
			defer term.Restore(int(s.stdin.Fd()), before) //nolint:errcheck // nothing is left to do about it
		}
	}
	stream, err := cluster.Exec(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // what matters was said by Receive
	if err := stream.Send(&skeinv1.ExecRequest{Message: &skeinv1.ExecRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var input <-chan []byte
	if start.GetStdin() {
		input = readInput(ctx, s.stdin)
	}
	go s.sendExec(ctx, stream, input, sizes)
	return s.receiveExec(stream)
}

// readInput reads chunks until the end, then closes. A read of a terminal cannot
// be called off: at the end of the program one may be left hanging, harmlessly.
func readInput(ctx context.Context, r io.Reader) <-chan []byte {
	chunks := make(chan []byte)
	go func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 32<<10)
			n, err := r.Read(buffer)
			if n > 0 {
				select {
				case chunks <- buffer[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return chunks
}

// An execStream is how one types to a program, and hears it.
type execStream interface {
	Send(*skeinv1.ExecRequest) error
	Receive() (*skeinv1.ExecResponse, error)
	CloseSend() error
}

// sendExec is the only one to send once the program has started. The end of
// input closes that alone: sizes may follow.
func (s *session) sendExec(ctx context.Context, stream execStream, input <-chan []byte, sizes <-chan struct{}) {
	for {
		request := &skeinv1.ExecRequest{}
		select {
		case <-ctx.Done():
			_ = stream.CloseSend() // else whoever receives is not let go
			return
		case chunk, ok := <-input:
			if ok {
				request.Message = &skeinv1.ExecRequest_Stdin{Stdin: chunk}
			} else {
				input = nil
				request.Message = &skeinv1.ExecRequest_StdinClosed{StdinClosed: true}
			}
		case <-sizes:
			size := s.terminalSize()
			if size == nil {
				continue
			}
			request.Message = &skeinv1.ExecRequest_Resize{Resize: size}
		}
		if stream.Send(request) != nil {
			return // whoever receives learns why
		}
	}
}

func (s *session) receiveExec(stream execStream) error {
	for {
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return failed("", "the connection ended before the program did; it may still be running")
		}
		if err != nil {
			return err
		}
		switch message := response.GetMessage().(type) {
		case *skeinv1.ExecResponse_Stdout:
			_, err = s.stdout.Write(message.Stdout)
		case *skeinv1.ExecResponse_Stderr:
			_, err = s.stderr.Write(message.Stderr)
		case *skeinv1.ExecResponse_ExitCode:
			if message.ExitCode == 0 {
				return nil
			}
			return exitStatus(message.ExitCode)
		}
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
}

// containerNames asks for the containers of a Pod, the first one first.
func containerNames(ctx context.Context, cluster *cluster, ref *skeinv1.ObjectRef) ([]string, error) {
	answer, err := cluster.Get(ctx, &skeinv1.GetRequest{
		Kind: "pod", Namespace: ref.GetNamespace(), Name: ref.GetName(), Format: skeinv1.Format_FORMAT_JSON,
	})
	if err != nil {
		return nil, err
	}
	var pod struct {
		Spec struct {
			Containers []struct {
				Name string `json:"name"`
			} `json:"containers"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(answer.GetDocument(), &pod); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	var names []string
	for _, container := range pod.Spec.Containers {
		names = append(names, container.Name)
	}
	return names, nil
}
