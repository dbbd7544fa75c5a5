package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

const (
	defaultSocket    = "/run/skein/skein.sock"
	defaultNamespace = "default"
	// serverName is in every node's certificate, whatever its address is today.
	serverName = "skein"
	// A machine that lost its power sends no FIN: pings tell that it is gone.
	pingEvery   = 5 * time.Second
	dialTimeout = 5 * time.Second
)

// A cluster is one to talk to: the calls, and how we got there.
type cluster struct {
	skeinv1connect.ClusterServiceClient
	skeinv1connect.InsideServiceClient
	skeinv1connect.ImageServiceClient
	server    string // https://host:port or unix:///path
	caPEM     string
	namespace string
}

// connect picks the cluster that flags, variables and contexts name, in this
// order, and prepares to call it. It sends nothing yet.
func (s *session) connect(c *cli.Context) (*cluster, error) {
	target, err := chooseTarget(c)
	if err != nil {
		return nil, err
	}
	if c.IsSet("namespace") {
		target.Namespace = c.String("namespace")
	}
	if target.GetNamespace() == "" {
		target.Namespace = defaultNamespace
	}
	return dial(target)
}

func chooseTarget(c *cli.Context) (*skeinv1.ClientContext, error) {
	if path := c.String("socket"); path != "" {
		return &skeinv1.ClientContext{Server: "unix://" + path, Token: c.String("token")}, nil
	}
	target, err := chooseContext(c)
	if err != nil {
		return nil, err
	}
	if server := c.String("server"); server != "" {
		target.Server = server
	}
	if file := c.String("ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError("", "read the CA: %s", err)
		}
		if string(pem) != target.GetCaPem() {
			target.CaPem, target.Token = string(pem), "" // another cluster must not learn this one's token
		}
	}
	if token := c.String("token"); token != "" {
		target.Token = token
	}
	if target.GetServer() != "" {
		return target, nil
	}
	if _, err := os.Stat(defaultSocket); err != nil {
		return nil, failed("add one with the line that \"skein token create --role admin\" prints on a node; \"skeind lab up\" raises one here",
			"there is no cluster to talk to: no context is selected and %s is not there", defaultSocket)
	}
	target.Server = "unix://" + defaultSocket
	return target, nil
}

// chooseContext returns a copy of the context that is asked for, or an empty one.
func chooseContext(c *cli.Context) (*skeinv1.ClientContext, error) {
	config, err := loadConfig()
	if err != nil {
		return nil, err
	}
	name := c.String("context")
	if name == "" {
		name = config.GetCurrent()
	}
	if name == "" {
		return &skeinv1.ClientContext{}, nil
	}
	found, ok := findContext(config, name)
	if !ok {
		return nil, noSuchContext(config, name)
	}
	return found, nil
}

func dial(target *skeinv1.ClientContext) (*cluster, error) {
	result := &cluster{server: target.GetServer(), caPEM: target.GetCaPem(), namespace: target.GetNamespace()}
	base, transport, err := newTransport(target)
	if err != nil {
		return nil, err
	}
	client := overTransport(base, transport, target)
	result.ClusterServiceClient = skeinv1connect.NewClusterServiceClient(client)
	result.InsideServiceClient = skeinv1connect.NewInsideServiceClient(client)
	result.ImageServiceClient = skeinv1connect.NewImageServiceClient(client)
	return result, nil
}

func overTransport(base string, transport *http.Transport, target *skeinv1.ClientContext) *connect.Client {
	return connect.NewClient(
		connecthttp.NewTransport(&http.Client{Transport: transport}, base, connecthttp.WithReadMaxBytes(0)), // lists are as long as the cluster is large
		bearer(target.GetToken()), explainTransport(target.GetServer()),
	)
}

// newTransport speaks HTTP/2 only: exec needs both directions at once.
func newTransport(target *skeinv1.ClientContext) (string, *http.Transport, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		Protocols:           new(http.Protocols),
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingEvery, PingTimeout: pingEvery},
		TLSHandshakeTimeout: dialTimeout,
	}
	if path, ok := strings.CutPrefix(target.GetServer(), "unix://"); ok {
		transport.Protocols.SetUnencryptedHTTP2(true)
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		return "http://" + serverName, transport, nil
	}
	address, err := serverAddress(target.GetServer())
	if err != nil {
		return "", nil, err
	}
	transport.TLSClientConfig, err = trust("https://"+address, target.GetCaPem(), target.GetToken())
	if err != nil {
		return "", nil, err
	}
	transport.Protocols.SetHTTP2(true)
	transport.DialContext = dialer.DialContext
	transport.Proxy = http.ProxyFromEnvironment
	return "https://" + address, transport, nil
}

// serverAddress takes https://host:port or host:port.
func serverAddress(server string) (string, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return "", usageError("", "%q is no address of an API: want https://HOST:PORT or unix:///PATH", server)
	}
	return u.Host, nil
}

func bearer(token string) connect.ClientInterceptor {
	return func(next connect.ClientFunc) connect.ClientFunc {
		if token == "" {
			return next
		}
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Authorization", "Bearer "+token)
			}
			return next(ctx, spec)
		}
	}
}

// explainTransport turns the errors of network and TLS, which reach us in
// whatever words a library chose, into an unreachableError.
func explainTransport(server string) connect.ClientInterceptor {
	return func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			stream, err := next(ctx, spec)
			if err != nil {
				return nil, transportError(ctx, server, err)
			}
			return explainedStream{ClientStream: stream, ctx: ctx, server: server}, nil
		}
	}
}

type explainedStream struct {
	connect.ClientStream
	ctx    context.Context //nolint:containedctx // a stream lives as long as the context of its call
	server string
}

func (s explainedStream) Send(msg any) error {
	return transportError(s.ctx, s.server, s.ClientStream.Send(msg))
}

func (s explainedStream) Receive(msg any) error {
	return transportError(s.ctx, s.server, s.ClientStream.Receive(msg))
}

func (s explainedStream) SendHeaders() error {
	return transportError(s.ctx, s.server, s.ClientStream.SendHeaders())
}

// transportError leaves alone what the server said and the end of a stream.
func transportError(ctx context.Context, server string, err error) error {
	var answer *connect.Error
	switch {
	case err == nil, errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &answer) && answer.IsRemote():
		return err
	}
	return unreachable(server, err)
}

// An unreachableError is a cluster that did not answer, or stopped in the
// middle: unlike a refusal it is worth another try.
type unreachableError struct {
	failure
	cause error
}

func (e *unreachableError) Unwrap() error { return e.cause }

// As lets it be told like any other failure.
func (e *unreachableError) As(target any) bool {
	f, ok := target.(**failure)
	if ok {
		*f = &e.failure
	}
	return ok
}

func unreachable(server string, err error) error {
	root := err
	for next := errors.Unwrap(root); next != nil; next = errors.Unwrap(root) {
		root = next
	}
	u := &unreachableError{cause: err, failure: failure{
		message: fmt.Sprintf("cannot reach %s: %s", server, strings.TrimPrefix(root.Error(), "unknown: ")),
		code:    exitFailed,
	}}
	local := strings.HasPrefix(server, "unix://")
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		u.message = fmt.Sprintf("cannot trust %s: %s", server, root)
		u.hint = "this context's CA is not that cluster's: add it anew with \"skein ctx add\""
	case local && errors.Is(err, fs.ErrPermission):
		u.code = exitForbidden
		u.hint = "the socket is for root: use sudo, or a token with \"skein ctx add\""
	case local:
		u.hint = "is the agent running? systemctl status skeind; another cluster: skein ctx ls"
	case errors.Is(err, syscall.ECONNREFUSED):
		u.hint = "no agent listens there: try another node with --server, or see \"skein ctx show\""
	default:
		u.hint = "try another node with --server, or see \"skein ctx show\""
	}
	return u
}
