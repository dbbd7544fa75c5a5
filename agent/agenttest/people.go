package agenttest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// A person calls the API of one machine, from a host of their own.
type person struct {
	skeinv1connect.ClusterServiceClient
	transport *http.Transport
}

func (p *person) close() { p.transport.CloseIdleConnections() }

// personToken has root of a machine make a token for an administrator.
func (c *Cluster) personToken(m *Machine) string {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return m.host.Dial(ctx, netip.AddrPortFrom(m.addr.Addr(), socketPort))
	}
	root := skeinv1connect.NewClusterServiceClient(connect.NewClient(
		connecthttp.NewTransport(&http.Client{Transport: transport}, "http://skein")))
	defer transport.CloseIdleConnections()
	var token string
	c.eventually(time.Minute, "root gets a token", func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		res, err := root.CreateToken(ctx, &skeinv1.CreateTokenRequest{Role: "admin"})
		if err != nil {
			return err.Error()
		}
		token = res.GetToken()
		return ""
	})
	return token
}

// person connects a user to a machine by the real port, with TLS and a token.
func (c *Cluster) person(number int, m *Machine) *person {
	host := c.net.Host(netip.AddrFrom4([4]byte{10, 0, 9, byte(number + 1)}))
	transport := &http.Transport{Protocols: new(http.Protocols), TLSHandshakeTimeout: 3 * time.Second}
	transport.Protocols.SetHTTP2(true)
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "skein", InsecureSkipVerify: true} //nolint:gosec // of the model, where nobody lies about this
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		return host.Dial(ctx, m.addr)
	}
	bearer := func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Authorization", "Bearer "+c.admin)
			}
			return next(ctx, spec)
		}
	}
	return &person{transport: transport, ClusterServiceClient: skeinv1connect.NewClusterServiceClient(connect.NewClient(
		connecthttp.NewTransport(&http.Client{Transport: transport}, "https://"+m.addr.String()), bearer))}
}
