package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

func (s *session) forwardCommand() *cli.Command {
	return &cli.Command{
		Name:      "port-forward",
		Category:  groupInside,
		Usage:     "reach a port of a Pod or Service from this machine",
		ArgsUsage: "POD | deploy/NAME | svc/NAME [LOCAL:]REMOTE…",
		UsageText: `skein port-forward web-1 8080          http://127.0.0.1:8080 is port 8080 of the Pod
skein port-forward deploy/web 9000:80  port 80 of its Pods at ours 9000
skein port-forward svc/web 9000:http   a port of a Service, by number or name
skein port-forward web-1 :5432         at a port that is free`,
		Description: "Goes on until Ctrl-C. Of a Deployment or Service, each connection goes to a Pod that is ready then.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "address", Value: cli.NewStringSlice("127.0.0.1"), Usage: "listen on this `ADDRESS` of this machine; may be given again"},
		},
		Action: s.forward,
	}
}

// A mapping is a port of ours that leads to one of a Pod's or Service's.
type mapping struct{ local, remote uint16 }

// parseMapping reads one; names are ports of the other side that have one.
func parseMapping(text string, names map[string]uint16) (mapping, error) {
	local, remote, both := strings.Cut(text, ":")
	if !both {
		remote = local
	}
	if n, ok := names[remote]; ok {
		remote = strconv.Itoa(int(n))
	}
	if !both {
		local = remote
	}
	var m mapping
	for _, p := range []struct {
		text string
		to   *uint16
		zero bool
	}{{local, &m.local, both}, {remote, &m.remote, false}} {
		if p.text == "" && p.zero {
			continue
		}
		n, err := strconv.ParseUint(p.text, 10, 16)
		if err != nil || n == 0 && !p.zero {
			return m, usageError("", "%q is no port: want REMOTE, LOCAL:REMOTE or :REMOTE, from 1 to 65535", text)
		}
		*p.to = uint16(n)
	}
	return m, nil
}

func parseMappings(texts []string, names map[string]uint16) ([]mapping, error) {
	var out []mapping
	for _, text := range texts {
		m, err := parseMapping(text, names)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (s *session) forward(c *cli.Context) error {
	if c.NArg() < 2 {
		return missing(c, "a Pod and a port")
	}
	target := c.Args().First()
	kind, _, _ := strings.Cut(target, "/")
	named := kindOf(kind).name == "Service"
	if !named { // tell of a slip before anybody is asked
		if _, err := parseMappings(c.Args().Tail(), nil); err != nil {
			return err
		}
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	end, ports, err := cluster.chosen(c.Context, target)
	if err != nil {
		return err
	}
	mappings, err := parseMappings(c.Args().Tail(), ports)
	if err != nil {
		return err
	}
	t := &tunnel{session: s, cluster: cluster, end: end}
	ctx, cancel := context.WithCancel(c.Context)
	defer t.wait.Wait()
	defer cancel()
	failed := make(chan error, 1)
	for _, m := range mappings {
		for _, address := range c.StringSlice("address") {
			if err := t.listen(ctx, address, m, failed); err != nil {
				return err
			}
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-failed:
		return err
	}
}

// chosen is what a person means, and the ports that go by a name there. Of what
// has several Pods the server chooses one for each connection; that there is one
// now is seen here, so that a mistake is told at once.
func (t *cluster) chosen(ctx context.Context, arg string) (*skeinv1.ObjectRef, map[string]uint16, error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok {
		kind, name = "pod", arg
	}
	ref := &skeinv1.ObjectRef{Kind: kind, Namespace: t.namespace, Name: name}
	if kindOf(kind).name == "Pod" {
		_, err := t.Get(ctx, &skeinv1.GetRequest{Kind: kind, Namespace: t.namespace, Name: name, Format: skeinv1.Format_FORMAT_NAME})
		return ref, nil, err
	}
	object, _, err := t.read(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	path := []string{"spec", "selector", "matchLabels"}
	if kindOf(kind).name == "Service" {
		path = path[:2]
	}
	labels, _ := field(object, path...).(map[string]any)
	var selector []string
	for key, value := range labels {
		selector = append(selector, fmt.Sprintf("%s=%s", key, value))
	}
	if len(selector) == 0 {
		return nil, nil, usageError("name a Pod, deploy/NAME or svc/NAME", "%s has no Pods of its own", arg)
	}
	slices.Sort(selector)
	answer, err := t.Get(ctx, &skeinv1.GetRequest{
		Kind: "pods", Namespace: t.namespace, LabelSelector: strings.Join(selector, ","),
		FieldSelector: "status.phase=Running", Format: skeinv1.Format_FORMAT_NAME,
	})
	if err != nil {
		return nil, nil, err
	}
	if len(answer.GetDocument()) == 0 {
		return nil, nil, failed(fmt.Sprintf("see why with \"skein describe %s\"", arg), "no Pod of %s runs", arg)
	}
	ports := map[string]uint16{}
	list, _ := field(object, "spec", "ports").([]any)
	for _, p := range list {
		if name, _ := field(p, "name").(string); name != "" {
			ports[name] = uint16(portNumber(field(p, "port"))) //nolint:gosec // the server has seen that it is a port
		}
	}
	return ref, ports, nil
}

// A tunnel leads connections that are made here into a Pod.
type tunnel struct {
	session *session
	cluster *cluster
	end     *skeinv1.ObjectRef // a Pod, or what has some
	wait    sync.WaitGroup
	mu      sync.Mutex // held to write to stderr
}

// listen takes connections until ctx ends.
func (t *tunnel) listen(ctx context.Context, address string, m mapping, broken chan<- error) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(m.local))))
	if err != nil {
		return failed("choose another with LOCAL:REMOTE", "listen on port %d of %s: %s", m.local, address, plain(err))
	}
	fmt.Fprintf(t.session.stdout, "Forwarding from %s -> %d\n", l.Addr(), m.remote)
	t.wait.Go(func() {
		<-ctx.Done()
		_ = l.Close()
	})
	t.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				select {
				case broken <- fmt.Errorf("take a connection: %w", err):
				default:
				}
				return
			}
			t.wait.Go(func() {
				if err := t.serve(ctx, conn, m.remote); err != nil && ctx.Err() == nil {
					t.mu.Lock()
					defer t.mu.Unlock()
					fmt.Fprintf(t.session.stderr, "skein: connection to port %d: %s\n", m.remote, clean(explain(err).message))
				}
			})
		}
	})
	return nil
}

// plain is an error without the operation and address that it is about.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// serve leads one connection until both sides have said all.
func (t *tunnel) serve(ctx context.Context, conn net.Conn, port uint16) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	stream, err := t.cluster.PortForward(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // what matters was said by Receive
	if err := stream.Send(&skeinv1.PortForwardRequest{Pod: t.end, Port: uint32(port)}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if _, err := stream.Receive(); err != nil {
		return reset(conn, err)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer func() { _ = conn.Close() }()
	sending.Go(func() {
		if !send(conn, stream) {
			cancel()
		}
	})
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return reset(conn, err)
		}
		if _, err := conn.Write(msg.GetData()); err != nil {
			return nil // our side has gone, which is no fault
		}
		if half, ok := conn.(*net.TCPConn); ok && msg.GetClosed() {
			_ = half.CloseWrite()
		}
	}
}

// send says what comes in here, and its end. It reports whether that was said.
func send(conn net.Conn, stream skeinv1connect.InsideServicePortForwardClientStream) bool {
	defer func() { _ = stream.CloseSend() }() // else whoever receives is not let go
	buffer := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buffer)
		if n > 0 && stream.Send(&skeinv1.PortForwardRequest{Data: append([]byte(nil), buffer[:n]...)}) != nil {
			return true // whoever receives learns why
		}
		if errors.Is(err, io.EOF) {
			_ = stream.Send(&skeinv1.PortForwardRequest{Closed: true})
			return true
		}
		if err != nil {
			return false
		}
	}
}

// reset ends a connection as the other side's has: not as if all had been said.
func reset(conn net.Conn, err error) error {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return err
}
