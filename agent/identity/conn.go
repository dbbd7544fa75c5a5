package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
)

// The protocols of the port, as ALPN names them. Those of people, "h2" and
// "http/1.1", come out of one listener.
const (
	ProtoRaft   = "skein-raft"
	ProtoGossip = "skein-gossip"
	ProtoNode   = "skein-node" // HTTP/2, prior knowledge, inside the TLS
	ProtoJoin   = "skein-join" // HTTP/1.1 inside the TLS
	ProtoPeople = "people"     // not an ALPN name: h2, http/1.1, or none offered
)

const (
	alpnH2    = "h2"
	alpnHTTP1 = "http/1.1"
)

// nodeProto tells whether a protocol demands a node's certificate.
func nodeProto(proto string) bool {
	return proto == ProtoRaft || proto == ProtoGossip || proto == ProtoNode
}

// A Conn is a TLS connection whose other end has shown a certificate, or was
// asked for one. It is no *tls.Conn and does not show a ConnectionState, by which
// net/http would know TLS and, for a protocol that is none of its own, hang up.
type Conn struct {
	net.Conn          // a *tls.Conn
	raw      net.Conn // below the TLS
	proto    string
	peer     string           // the node's name; empty on skein-join
	key      crypto.PublicKey // nil where no certificate was shown

	once    sync.Once
	closed  func()
	refused func() // the other end will not speak to this one; set by who dials
}

// newConn reads who the other end is off a finished handshake. closed, which may
// be nil, is called once, when the connection is closed.
func newConn(t *tls.Conn, proto string, closed func()) *Conn {
	c := &Conn{Conn: t, raw: t.NetConn(), proto: proto, closed: closed}
	if g, ok := c.raw.(*guest); ok {
		c.raw = g.Conn
	}
	if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 {
		c.key = certs[0].PublicKey
		if proto != ProtoJoin { // there, nobody has signed for the name
			c.peer = certs[0].Subject.CommonName
		}
	}
	return c
}

// Peer is the node at the other end.
func (c *Conn) Peer() string { return c.peer }

// PeerKey is what the other end has proved to hold.
func (c *Conn) PeerKey() crypto.PublicKey { return c.key }

// Protocol is what was agreed on.
func (c *Conn) Protocol() string { return c.proto }

// cut ends the connection at once, without the farewell of TLS, for which a peer
// that no longer reads would keep us waiting.
func (c *Conn) cut() {
	_ = c.raw.Close()
	_ = c.Close()
}

// Read tells refused when the other end answers with an alert: in TLS 1.3 a
// certificate is refused after the handshake is over for who showed it.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	var op *net.OpError
	if err != nil && c.refused != nil && errors.As(err, &op) && op.Op == "remote error" {
		c.refused()
	}
	return n, err
}

// Close ends the connection. It may be called more than once.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		if c.closed != nil {
			c.closed()
		}
	})
	return err
}

type connKey struct{}

// ConnContext is for http.Server.ConnContext: it makes PeerName and PeerKey work
// in handlers.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if own, ok := c.(*Conn); ok {
		return context.WithValue(ctx, connKey{}, own)
	}
	return ctx
}

// PeerName is the node that makes a request, as its certificate has it; empty
// where it has shown none, or none that was checked.
func PeerName(ctx context.Context) string {
	if c, ok := ctx.Value(connKey{}).(*Conn); ok {
		return c.peer
	}
	return ""
}

// PeerKey is the key that whoever makes a request has proved to hold, on
// skein-node and skein-join; nil for none.
func PeerKey(ctx context.Context) crypto.PublicKey {
	if c, ok := ctx.Value(connKey{}).(*Conn); ok {
		return c.key
	}
	return nil
}

// hostOf is what limits are counted by: an IPv4 address, an IPv6 network of 64
// bits, or whatever a network that is no IP calls its addresses.
func hostOf(addr net.Addr) string {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String()
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
