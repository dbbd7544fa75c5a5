package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
)

// A Dialer calls other nodes.
type Dialer struct {
	id     *Identity
	verify Verify
	base   DialFunc

	// Refused is told of every address where somebody answers and refuses to
	// speak to this node: it may obey another epoch, or know that this node was
	// removed. It must not block. Optional.
	Refused func(addr string)
}

// NewDialer returns a dialer over a network; verify is asked about the other end
// as Mux asks about callers.
func NewDialer(id *Identity, verify Verify, base DialFunc) *Dialer {
	return &Dialer{id: id, verify: verify, base: base}
}

// Dial reaches the node wantName at addr for one of the protocols of nodes. It
// fails where another answers, however good its certificate; wantName may be
// empty where any node of the cluster will do. That the other end
// refuses us shows only when we first read: TLS 1.3 has it so.
func (d *Dialer) Dial(ctx context.Context, addr, proto, wantName string) (*Conn, error) {
	if !nodeProto(proto) {
		return nil, fmt.Errorf("dial node %s: %q is no protocol of nodes", wantName, proto)
	}
	answered := false
	base := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.base(ctx, network, addr)
		answered = err == nil
		return c, err
	}
	t, err := dialTLS(ctx, base, addr, d.id.clientConfig(proto, wantName, d.verify))
	if err != nil {
		if answered && d.Refused != nil && ctx.Err() == nil {
			d.Refused(addr)
		}
		return nil, fmt.Errorf("dial node %s at %s: %w", wantName, addr, err)
	}
	c := newConn(t, proto, nil)
	if d.Refused != nil {
		c.refused = func() { d.Refused(addr) }
	}
	return c, nil
}

func dialTLS(ctx context.Context, base DialFunc, addr string, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c, err := base(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, config)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close() // the handshake's error is the one to tell
		return nil, err
	}
	return t, nil
}

var _ net.Conn = (*Conn)(nil)
