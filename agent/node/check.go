package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skein-dev/skein/runtime/container"
)

// A target is what a probe asks: one run of a container, from inside its Pod's
// own network. Nothing in a probe can name another host.
type target struct {
	driver    container.Driver
	pod       *corev1.Pod
	container *corev1.Container
	id        container.ID
	addr      string // the Pod's own; empty: it has its loopback alone, or its node's network
}

// check asks once. The error is the transcript: what was asked and what came.
func (t target) check(ctx context.Context, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, seconds(probe.TimeoutSeconds, 1))
	defer cancel()
	switch {
	case probe.Exec != nil:
		return t.exec(ctx, probe.Exec.Command)
	case probe.HTTPGet != nil:
		return t.httpGet(ctx, probe.HTTPGet)
	case probe.TCPSocket != nil:
		return t.tcp(ctx, probe.TCPSocket.Port)
	case probe.GRPC != nil:
		return t.grpc(ctx, probe.GRPC)
	}
	return errors.New("the probe says nothing to ask")
}

// maxTranscript bounds what is kept of a program's or server's answer, in bytes.
const maxTranscript = 512

// clipped keeps the first bytes that are written to it.
type clipped struct{ bytes.Buffer }

func (c *clipped) Write(p []byte) (int, error) {
	if room := maxTranscript - c.Len(); room > 0 {
		c.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t target) exec(ctx context.Context, command []string) error {
	var out clipped
	code, err := t.driver.Exec(ctx, t.id, container.ExecSpec{Args: command, Stdout: &out, Stderr: &out})
	what := "exec " + strings.Join(command, " ")
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no end within the timeout", what)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case code != 0:
		return fmt.Errorf("%s: exit code %d: %s", what, code, strings.TrimSpace(out.String()))
	}
	return nil
}

func (t target) dial(ctx context.Context, address string) (net.Conn, error) {
	return t.driver.Dial(ctx, string(t.pod.UID), "tcp", address)
}

func (t target) address(port intstr.IntOrString) (string, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		n = 0
		for _, p := range t.container.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
		if n == 0 {
			n, _ = strconv.Atoi(port.StrVal)
		}
	}
	if n < 1 || n > 65535 {
		return "", fmt.Errorf("no port %q", port.String())
	}
	return net.JoinHostPort(cmp.Or(t.addr, "127.0.0.1"), strconv.Itoa(n)), nil
}

func (t target) tcp(ctx context.Context, port intstr.IntOrString) error {
	addr, err := t.address(port)
	if err != nil {
		return err
	}
	conn, err := t.dial(ctx, addr)
	if err != nil {
		return fmt.Errorf("tcp %s: %w", addr, cause(err))
	}
	return conn.Close()
}

func (t target) httpGet(ctx context.Context, get *corev1.HTTPGetAction) error {
	addr, err := t.address(get.Port)
	if err != nil {
		return err
	}
	u := url.URL{Scheme: "http", Host: addr, Path: "/"}
	if path, err := url.Parse(get.Path); err == nil && get.Path != "" {
		u.Path, u.RawQuery = path.Path, path.RawQuery
	}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx, addr) },
		DisableKeepAlives: true,
		// A container's own certificate is for its users to judge; the probe
		// asks whether it answers, as Kubernetes does.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // said above
	}
	if get.Scheme == corev1.URISchemeHTTPS {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	req.Header.Set("User-Agent", "skein-probe")
	req.Header.Set("Accept", "*/*")
	for _, h := range get.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	resp, err := transport.RoundTrip(req) // follows no redirect
	if err != nil {
		return fmt.Errorf("GET %s: %w", u.String(), cause(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 400 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxTranscript)) // what came is only shown
	return fmt.Errorf("GET %s: %s: %s", u.String(), resp.Status, strings.TrimSpace(string(body)))
}

// grpc asks the standard health service (grpc.health.v1.Health/Check). Its two
// messages are small enough to write by hand: service is field 1 of the
// request, status field 1 of the answer, and 1 means serving.
func (t target) grpc(ctx context.Context, g *corev1.GRPCAction) error {
	addr, err := t.address(intstr.FromInt32(g.Port))
	if err != nil {
		return err
	}
	var msg []byte
	if g.Service != nil && *g.Service != "" {
		msg = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), *g.Service)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))) //nolint:gosec // a service name is short
	frame = append(frame, msg...)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx, addr) },
		Protocols:   protocols,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(frame))
	if err != nil {
		return fmt.Errorf("grpc: %w", err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("grpc %s: %w", addr, cause(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTranscript))
	if err != nil {
		return fmt.Errorf("grpc %s: %w", addr, cause(err))
	}
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code = resp.Header.Get("Grpc-Status")
	}
	if code != "" && code != "0" {
		return fmt.Errorf("grpc %s: status %s: %s", addr, code, resp.Trailer.Get("Grpc-Message"))
	}
	if status := healthStatus(body); status != 1 {
		return fmt.Errorf("grpc %s: health status %d, not serving", addr, status)
	}
	return nil
}

// healthStatus reads the status out of a framed HealthCheckResponse, 0 if it
// cannot be read.
func healthStatus(frame []byte) uint64 {
	if len(frame) < 5 {
		return 0
	}
	num, kind, n := protowire.ConsumeTag(frame[5:])
	if n < 0 || num != 1 || kind != protowire.VarintType {
		return 0
	}
	v, m := protowire.ConsumeVarint(frame[5+n:])
	if m < 0 {
		return 0
	}
	return v
}

// cause drops the layers that name addresses which the person has just read.
func cause(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer within the timeout")
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}
