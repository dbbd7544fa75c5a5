package cli

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A person's token names the CA of its cluster, so that address and token are
// all that a person has to be given. These are the places in its bytes.
const (
	personPrefix = "skeinp1-"
	pinStart     = 5 + 16 // behind id and secret
	pinEnd       = pinStart + sha256.Size
	tokenBytes   = pinEnd + 5 + 2 // expiry, checksum
)

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// A pin is the SHA-256 of a CA certificate in DER.
type pin [sha256.Size]byte

// pinOf reads the pin out of a person's token. It is false for what is no token,
// or not all of one.
func pinOf(token string) (pin, bool) {
	body, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(token)), personPrefix)
	if !ok {
		return pin{}, false
	}
	raw, err := tokenText.DecodeString(body)
	if err != nil || len(raw) != tokenBytes {
		return pin{}, false
	}
	sum := sha256.Sum256(append([]byte(personPrefix), raw[:tokenBytes-2]...))
	if !bytes.Equal(sum[:2], raw[tokenBytes-2:]) {
		return pin{}, false
	}
	return pin(raw[pinStart:pinEnd]), true
}

// verify accepts a server that shows the pinned CA, and a certificate by it.
func (p pin) verify(state tls.ConnectionState) error {
	at := slices.IndexFunc(state.PeerCertificates, func(c *x509.Certificate) bool { return sha256.Sum256(c.Raw) == p })
	if at < 0 {
		return &tls.CertificateVerificationError{
			UnverifiedCertificates: state.PeerCertificates, Err: errors.New("it is not of the cluster that the token is for"),
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(state.PeerCertificates[at])
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: serverName, Roots: roots})
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}

// trust says whom to believe: the CA that is kept, else the one that the token
// names.
func trust(server, caPEM, token string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName}
	if caPEM != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(caPEM)) {
			return nil, failed("", "the CA that is kept for %s is no certificate in PEM", server)
		}
		return config, nil
	}
	pinned, ok := pinOf(token)
	if !ok {
		hint := fmt.Sprintf("a person's token begins with %q and names the CA; copy all of it, or add --ca FILE", personPrefix)
		return nil, failed(hint, "cannot trust %s: its cluster's CA is not known here", server)
	}
	config.InsecureSkipVerify = true //nolint:gosec // verify below does it all, against the pinned CA
	config.VerifyConnection = pinned.verify
	return config, nil
}
