package identity

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A cluster is a CA and what it has enrolled.
type cluster struct {
	t  *testing.T
	ca *Authority

	mu       sync.Mutex
	enrolled map[string]string // name to fingerprint
}

func newCluster(t *testing.T, id string) *cluster {
	t.Helper()
	ca, err := NewAuthority(id, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, ca: ca, enrolled: map[string]string{}}
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (c *cluster) material(name string) Material {
	c.t.Helper()
	key := newKey(c.t)
	der, err := c.ca.Sign(key.Public(), name, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	return Material{
		Name: name, ClusterID: c.ca.ClusterID(), Key: key, Certificate: der, CA: c.ca.Certificate(),
		GossipKeys: [][]byte{make([]byte, 32)},
	}
}

// node makes an identity and enrols it.
func (c *cluster) node(name string) *Identity {
	c.t.Helper()
	id, err := New(c.material(name))
	if err != nil {
		c.t.Fatal(err)
	}
	c.enrol(name, Fingerprint(id.Public()))
	return id
}

func (c *cluster) enrol(name, fingerprint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enrolled[name] = fingerprint
}

var errNotEnrolled = errors.New("not the key that is enrolled")

func (c *cluster) verify(name string, key crypto.PublicKey, _ string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.enrolled[name] != Fingerprint(key) {
		return errNotEnrolled
	}
	return nil
}

// A memNet is a network of one listener, in memory.
type memNet struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

type memAddr string

func (a memAddr) Network() string { return "mem" }
func (a memAddr) String() string  { return string(a) }

type memConn struct {
	net.Conn
	remote memAddr
}

func (c memConn) RemoteAddr() net.Addr { return c.remote }

func newMemNet() *memNet {
	return &memNet{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (n *memNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *memNet) Close() error   { n.once.Do(func() { close(n.done) }); return nil }
func (n *memNet) Addr() net.Addr { return memAddr("10.0.0.1:7373") }

// from dials as a host.
func (n *memNet) from(host string) DialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, server := net.Pipe()
		select {
		case n.conns <- memConn{server, memAddr(host + ":40000")}:
			return memConn{client, "10.0.0.1:7373"}, nil
		case <-n.done:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// A port is a running mux.
type port struct {
	*memNet
	*cluster
	mux  *Mux
	id   *Identity
	stop func() error
}

// bubble runs a test in virtual time with a mux of node n1 in it. What the mux
// leaves running fails the test.
func bubble(t *testing.T, do func(t *testing.T, p *port)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "c1")
		p := &port{memNet: newMemNet(), cluster: c, id: c.node("n1")}
		p.mux = NewMux(p.memNet, p.id, c.verify, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.mux.Run(ctx) }()
		p.stop = sync.OnceValue(func() error { cancel(); return <-done })
		defer func() {
			if err := p.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		do(t, p)
	})
}

// echo answers every connection of a protocol with who it takes the other for.
func (p *port) echo(proto string) {
	l := p.mux.Listener(proto)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				who := "somebody"
				if own, ok := c.(*Conn); ok && own.Peer() != "" {
					who = own.Peer()
				}
				_ = c.SetDeadline(time.Now().Add(time.Second))
				_, _ = fmt.Fprintf(c, "%s is %s", proto, who)
			}()
		}
	}()
}

// hear dials with any configuration and reads what is said.
func (p *port) hear(config *tls.Config) (string, error) {
	raw, err := p.from("10.0.0.9")(p.t.Context(), "", "")
	if err != nil {
		return "", err
	}
	defer func() { _ = raw.Close() }()
	config.ServerName = ServerName
	c := tls.Client(raw, config)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// rootsOf trusts the CA of a node's cluster.
func rootsOf(id *Identity) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(id.ca)
	return roots
}
