package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"time"
)

// ServerName is what every node's certificate is good for, so that a client
// needs to know the cluster's CA and no names of machines.
const ServerName = "skein"

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 7 * 24 * time.Hour
	// backdate forgives clocks of machines that differ.
	backdate = 5 * time.Minute
)

// An Authority is the cluster's own CA. Whoever holds it can make any node, so
// its key lives sealed in the log and opened only in the memory of voters.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	rand io.Reader
}

// NewAuthority makes the CA of a new cluster, good for ten years from now.
func NewAuthority(clusterID string, now time.Time, rand io.Reader) (*Authority, error) {
	if clusterID == "" {
		return nil, errors.New("make a certificate authority: no cluster id")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("make the key of the certificate authority: %w", err)
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "skein CA", Organization: []string{clusterID}},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(authorityLife).UTC(),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs nodes, never another CA
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back the certificate authority: %w", err)
	}
	return &Authority{cert: cert, key: key, rand: rand}, nil
}

// ParseAuthority is the way back from Certificate and MarshalKey. It draws its
// serial numbers from rand.
func ParseAuthority(cert, key []byte, rand io.Reader) (*Authority, error) {
	c, err := parseCA(cert)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("parse the key of the certificate authority: %w", err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(c.PublicKey) {
		return nil, errors.New("the key is not that of the certificate authority")
	}
	return &Authority{cert: c, key: private, rand: rand}, nil
}

func parseCA(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate authority: %w", err)
	}
	if !c.IsCA || len(c.Subject.Organization) != 1 {
		return nil, errors.New("the certificate is not of a certificate authority")
	}
	return c, nil
}

// Certificate is the public part, DER.
func (a *Authority) Certificate() []byte { return a.cert.Raw }

// ClusterID tells whose it is.
func (a *Authority) ClusterID() string { return a.cert.Subject.Organization[0] }

// MarshalKey is the private part, PKCS #8 DER. Seal it before it goes anywhere.
func (a *Authority) MarshalKey() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("marshal the key of the certificate authority: %w", err)
	}
	return der, nil
}

// Sign makes the certificate of a node, DER, good for a week from now, with
// which it may both serve and call. That the node may have this name is for the
// caller to know. Node keys are Ed25519; others are refused.
func (a *Authority) Sign(pub crypto.PublicKey, name string, now time.Time) ([]byte, error) {
	if _, ok := pub.(ed25519.PublicKey); !ok {
		return nil, fmt.Errorf("sign node %s: its key is %T, nodes have Ed25519 keys", name, pub)
	}
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("sign node %q: %w", name, err)
	}
	serial, err := newSerial(a.rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name, Organization: a.cert.Subject.Organization},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(certificateLife).UTC(),
		DNSNames:              []string{ServerName, name},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if name == ServerName {
		template.DNSNames = template.DNSNames[:1]
	}
	der, err := x509.CreateCertificate(a.rand, template, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign node %s: %w", name, err)
	}
	return der, nil
}

// Fingerprint tells keys apart: SHA-256 of the PKIX form, in hex. A key that has
// no such form has the fingerprint "", which no node has.
func Fingerprint(pub crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// nodeName is what a DNS name may look like, in lower case.
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// checkName refuses what cannot stand in a certificate; 63 bytes is the most
// that a common name can hold and many tools show.
func checkName(name string) error {
	if len(name) > 63 || !nodeName.MatchString(name) {
		return errors.New("a node's name is 1 to 63 of a-z, 0-9, - and ., and begins and ends with a letter or digit")
	}
	return nil
}

func newSerial(rand io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	b[0] &= 0x7f // positive, also as DER has it
	b[15] |= 1   // never 0
	return new(big.Int).SetBytes(b), nil
}
