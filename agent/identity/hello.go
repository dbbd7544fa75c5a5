package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verify tells whether a node of this name and key may speak a protocol, from
// what the cluster knows now: the key is that of its Node object, and raft is for
// members. It is asked in every handshake between nodes, by both ends, after the
// certificate was found good; it must not block.
type Verify func(name string, key crypto.PublicKey, proto string) error

var (
	errSeveral = errors.New("several protocols offered, of which one is skein's: a connection speaks one")
	errUnknown = errors.New("no protocol offered that is spoken here")
	errClosed  = errors.New("this protocol is not served now")
	errEpoch   = errors.New("the other end obeys another epoch of this cluster")
	errFull    = errors.New("too many connections are open already")
	errOften   = errors.New("too many attempts to join from this address")
)

// choose picks the protocol of a connection: the listener it goes to, and the
// ALPN name to answer with, which is empty for a client that offered none. The
// protocols of nodes bear the epoch of those who may speak them.
func choose(offered []string, epoch string) (proto, alpn string, err error) {
	for _, p := range offered {
		bare, _, _ := strings.Cut(p, "@")
		switch {
		case !strings.HasPrefix(p, "skein-"):
		case len(offered) > 1:
			return "", "", errSeveral
		case nodeProto(bare) && p != bare+epoch:
			return "", "", errEpoch
		case nodeProto(bare), p == ProtoJoin:
			return bare, p, nil
		default:
			return "", "", errUnknown
		}
	}
	for _, p := range []string{alpnH2, alpnHTTP1} {
		if slices.Contains(offered, p) {
			return ProtoPeople, p, nil
		}
	}
	if len(offered) == 0 {
		return ProtoPeople, "", nil // old and simple clients speak HTTP/1.1
	}
	return "", "", errUnknown
}

// base is what all of our TLS has in common.
func base() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A resumed session would keep a certificate in use that has since
		// been renewed, or whose node has been removed.
		SessionTicketsDisabled: true,
	}
}

// serverConfig is for connections that have chosen a protocol.
func (id *Identity) serverConfig(proto, alpn string, verify Verify) *tls.Config {
	c := base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.cert.Load(), nil }
	if alpn != "" {
		c.NextProtos = []string{alpn}
	}
	switch {
	case nodeProto(proto):
		c.ClientAuth = tls.RequireAnyClientCert // checkPeer verifies it
		c.VerifyConnection = func(s tls.ConnectionState) error {
			_, err := id.checkPeer(s, x509.ExtKeyUsageClientAuth, proto, verify)
			return err
		}
	case proto == ProtoJoin:
		// It proves which key the newcomer holds, nothing else.
		c.ClientAuth = tls.RequestClientCert
	}
	return c
}

// checkPeer reads the node's name off a certificate that our CA has signed, and
// asks verify.
func (id *Identity) checkPeer(s tls.ConnectionState, usage x509.ExtKeyUsage, proto string, verify Verify) (string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("no certificate of this cluster")
	}
	leaf := s.PeerCertificates[0]
	if err := checkCertificate(leaf, id.ca, usage, id.now()); err != nil {
		return "", err
	}
	name := leaf.Subject.CommonName
	if !slices.Equal(leaf.Subject.Organization, id.ca.Subject.Organization) {
		return "", errors.New("a certificate of another cluster")
	}
	if err := verify(name, leaf.PublicKey, proto); err != nil {
		return "", fmt.Errorf("node %q: %w", name, err)
	}
	return name, nil
}

// clientConfig is for calling another node.
func (id *Identity) clientConfig(proto, want string, verify Verify) *tls.Config {
	c := base()
	c.ServerName = ServerName
	c.InsecureSkipVerify = true // checkPeer verifies it
	alpn := proto + id.Epoch().suffix()
	c.NextProtos = []string{alpn}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.cert.Load(), nil }
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != alpn {
			return fmt.Errorf("the other end agreed to %q, not %q", s.NegotiatedProtocol, alpn)
		}
		name, err := id.checkPeer(s, x509.ExtKeyUsageServerAuth, proto, verify)
		if err == nil && want != "" && name != want {
			err = fmt.Errorf("this is node %q, not %q", name, want)
		}
		return err
	}
	return c
}

// checkChain verifies a server that shows its CA too: both must be good, at now.
// It returns the CA.
func checkChain(certs []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	if len(certs) != 2 {
		return nil, fmt.Errorf("the other end shows %d certificates, not its own and the cluster's", len(certs))
	}
	return certs[1], checkCertificate(certs[0], certs[1], x509.ExtKeyUsageServerAuth, now)
}

// checkCertificate verifies a node's certificate against the cluster's CA. Where
// it is from the future, this machine's clock is behind, as that of a board
// without a battery is when it starts: no certificate is refused for its youth.
func checkCertificate(leaf, ca *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	for _, c := range []*x509.Certificate{leaf, ca} {
		if now.Before(c.NotBefore) {
			now = c.NotBefore
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := leaf.Verify(x509.VerifyOptions{
		DNSName: ServerName, Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return fmt.Errorf("the certificate of the other end: %w", err)
	}
	return nil
}
