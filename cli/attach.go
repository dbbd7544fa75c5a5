package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

func (s *session) attachCommand() *cli.Command {
	return &cli.Command{
		Name:      "attach",
		Category:  groupInside,
		Usage:     "join the input and output of a container",
		ArgsUsage: "[-it] POD [-c CONTAINER]",
		UsageText: `skein attach web-1                    what it writes from now on
skein attach -it shell-1              with keyboard and terminal; Ctrl-P Ctrl-Q leaves it running
echo hello | skein attach -i reader-1`,
		Description: "Exits with the container's own code. Several can be attached at once. Input needs stdin: true in the container, a terminal tty: true.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "standard input is a terminal, and so is the container's"},
			&cli.StringFlag{Name: "container", Aliases: []string{"c"}, Usage: "the container `NAME`; else the first"},
		},
		Action: s.attach,
	}
}

func (s *session) attach(c *cli.Context) error {
	switch {
	case !c.Args().Present():
		return missing(c, "a Pod")
	case c.NArg() > 1:
		return tooMany(c, c.Args().Get(1))
	}
	kind, name, ok := strings.Cut(c.Args().First(), "/")
	if !ok {
		kind, name = "pod", c.Args().First()
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	tty := c.Bool("tty")
	if tty && c.Bool("stdin") && !s.inTTY {
		fmt.Fprintln(s.stderr, "warning: standard input is no terminal; going on without one")
		tty = false
	}
	return s.runAttach(c.Context, cluster, &skeinv1.AttachStart{
		Pod: &skeinv1.ObjectRef{Kind: kind, Namespace: cluster.namespace, Name: name}, Container: c.String("container"), Stdin: c.Bool("stdin"),
	}, tty)
}

// attachStream is a stream of Attach as one of Exec, once it has begun.
type attachStream struct {
	skeinv1connect.InsideServiceAttachClientStream
}

func (a attachStream) Send(msg *skeinv1.ExecRequest) error {
	return a.InsideServiceAttachClientStream.Send(&skeinv1.AttachRequest{Message: &skeinv1.AttachRequest_Input{Input: msg}})
}

// errDetached says that the person has left what goes on.
var errDetached = errors.New("detached")

func (s *session) runAttach(ctx context.Context, cluster *cluster, start *skeinv1.AttachStart, tty bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		sizes <-chan struct{}
		input <-chan []byte
	)
	if start.GetStdin() {
		input = readInput(ctx, s.stdin)
	}
	if tty {
		start.Size = s.terminalSize()
		sizes = resized(ctx)
		if start.GetStdin() {
			before, err := term.MakeRaw(int(s.stdin.Fd()))
			if err != nil {
				return fmt.Errorf("prepare the terminal: %w", err)
			}
			defer term.Restore(int(s.stdin.Fd()), before) //nolint:errcheck // nothing is left to do about it
			input = watchDetach(ctx, input, func() { cancel(errDetached) })
		}
	}
	stream, err := cluster.Attach(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // what matters was said by Receive
	err = stream.Send(&skeinv1.AttachRequest{Message: &skeinv1.AttachRequest_Start{Start: start}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if tty && start.GetStdin() {
		fmt.Fprint(s.stderr, "If no prompt shows, press Enter. Ctrl-P Ctrl-Q leaves it running.\r\n")
	}
	go s.sendExec(ctx, attachStream{stream}, input, sizes)
	err = s.receiveExec(attachStream{stream})
	if errors.Is(context.Cause(ctx), errDetached) {
		fmt.Fprint(s.stderr, "\r\ndetached; it runs on\r\n")
		return nil
	}
	return err
}

// The keys that leave an attached container: Ctrl-P, Ctrl-Q.
const (
	detachFirst = 0x10
	detachThen  = 0x11
)

// watchDetach passes on what is typed, but for the two keys that leave. The
// first is held back until it is known what follows.
func watchDetach(ctx context.Context, from <-chan []byte, leave func()) <-chan []byte {
	to := make(chan []byte)
	go func() {
		defer close(to)
		held := false
		for {
			var chunk []byte
			select {
			case next, ok := <-from:
				if !ok {
					return
				}
				chunk = next
			case <-ctx.Done():
				return
			}
			var out []byte
			for _, key := range chunk {
				switch {
				case held && key == detachThen:
					leave()
					return
				case held:
					out, held = append(out, detachFirst), key == detachFirst
					if !held {
						out = append(out, key)
					}
				case key == detachFirst:
					held = true
				default:
					out = append(out, key)
				}
			}
			if len(out) == 0 {
				continue
			}
			select {
			case to <- out:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}
