package identity

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// joinTimeout bounds a whole exchange: the leader may have to be found first.
const joinTimeout = 20 * time.Second

// An AuthorityError says that whoever answered belongs to another cluster than
// the token, or only pretends.
type AuthorityError struct{ Addr string }

func (e *AuthorityError) Error() string {
	return e.Addr + " is not of the cluster that this token is for: its certificate authority is another"
}

// A Newcomer is a machine that is to join a cluster.
type Newcomer struct {
	Name      string
	Advertise string // ip:port where others reach it
	Key       ed25519.PrivateKey
	Dial      DialFunc
	Now       func() time.Time // the wall clock; nil: time.Now
}

// Join asks the node at addr to take the machine into its cluster, by a token.
// It trusts nobody but holders of the CA that the token names, neither in what
// they are nor in what they answer. Errors: ErrTokenMalformed, ErrTokenKind,
// *ExpiredError, *AuthorityError, and *connect.Error for what the cluster refuses.
func (n Newcomer) Join(ctx context.Context, addr, token string) (*skeinv1.JoinResponse, error) {
	t, err := ParseToken(token)
	if err != nil {
		return nil, err
	}
	if t.Person {
		return nil, ErrTokenKind
	}
	if n.Now == nil {
		n.Now = time.Now
	}
	if err := t.Usable(n.Now()); err != nil {
		return nil, err
	}
	own, err := selfSigned(n.Key, n.Name, n.Now())
	if err != nil {
		return nil, err
	}
	j := joining{addr: addr, key: n.Key, name: n.Name, advertise: n.Advertise, token: t.String(), own: own, ca: t.ca, now: n.Now}
	return j.exchange(ctx, n.Dial)
}

// Reattest gets a new certificate for a node whose own has expired while it was
// off. It joins again without a token: holding the enrolled key is enough.
func (id *Identity) Reattest(ctx context.Context, addr, advertise string, base DialFunc) error {
	j := joining{addr: addr, key: id.key, name: id.name, advertise: advertise, own: id.cert.Load(), ca: caSum(id.ca.Raw), now: id.now}
	res, err := j.exchange(ctx, base)
	if err != nil {
		return fmt.Errorf("attest node %s again: %w", id.name, err)
	}
	return id.SetCertificate(res.GetCertificate())
}

// joining is one attempt.
type joining struct {
	addr, name, advertise, token string

	key ed25519.PrivateKey
	own *tls.Certificate // shows that we hold the key
	ca  [32]byte         // SHA-256 of the CA that we trust
	now func() time.Time
}

func (j joining) exchange(ctx context.Context, base DialFunc) (*skeinv1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	conn, err := dialTLS(ctx, base, j.addr, j.config())
	if err != nil {
		return nil, fmt.Errorf("join by %s: %w", j.addr, err)
	}
	wrapped := newConn(conn, ProtoJoin, nil)
	defer wrapped.cut() // the answer is read whole, or not wanted
	pub, err := x509.MarshalPKIXPublicKey(j.key.Public())
	if err != nil {
		return nil, fmt.Errorf("marshal the node's key: %w", err)
	}
	transport := overOne(wrapped)
	defer transport.CloseIdleConnections()
	client := skeinv1connect.NewJoinServiceClient(connect.NewClient(connecthttp.NewTransport(
		httpOver(transport), "http://"+ServerName, connecthttp.WithReadMaxBytes(1<<20))))
	res, err := client.Join(ctx, &skeinv1.JoinRequest{Token: j.token, Name: j.name, PublicKey: pub, Advertise: j.advertise})
	if err != nil {
		return nil, fmt.Errorf("join by %s: %w", j.addr, err)
	}
	if err := j.check(res, conn.ConnectionState().PeerCertificates[1]); err != nil {
		return nil, fmt.Errorf("join by %s: %w", j.addr, err)
	}
	return res, nil
}

func (j joining) config() *tls.Config {
	c := base()
	c.ServerName = ServerName
	c.NextProtos = []string{ProtoJoin}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return j.own, nil }
	// The CA is not known yet, its fingerprint is. VerifyConnection does all
	// that is left out here.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != ProtoJoin {
			return fmt.Errorf("the other end agreed to %q, not %q", s.NegotiatedProtocol, ProtoJoin)
		}
		if n := len(s.PeerCertificates); n != 2 {
			return &AuthorityError{Addr: j.addr} // not one of ours
		}
		sum := caSum(s.PeerCertificates[1].Raw)
		if subtle.ConstantTimeCompare(sum[:], j.ca[:]) != 1 {
			return &AuthorityError{Addr: j.addr}
		}
		_, err := checkChain(s.PeerCertificates, j.now())
		return err
	}
	return c
}

// check refuses an answer with which this node could not live.
func (j joining) check(res *skeinv1.JoinResponse, ca *x509.Certificate) error {
	if !bytes.Equal(res.GetCa(), ca.Raw) {
		return errors.New("the answer names another certificate authority than its sender has shown")
	}
	m, err := FromJoin(j.name, j.key, res)
	if err != nil {
		return err
	}
	if _, err = New(m); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	return nil
}

func httpOver(t *http.Transport) *http.Client { return &http.Client{Transport: t} }

// overOne carries HTTP/1.1 over one connection that is there already.
func overOne(c net.Conn) *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	conns := make(chan net.Conn, 1)
	conns <- c
	return &http.Transport{
		Protocols: p, DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-conns:
				return c, nil
			default:
				return nil, errors.New("the connection has broken")
			}
		},
	}
}

// selfSigned is a certificate that says nothing but which key its holder has.
func selfSigned(key ed25519.PrivateKey, name string, now time.Time) (*tls.Certificate, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("node name %q: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-backdate), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	template.Subject.CommonName = name
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign with the node's key: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
