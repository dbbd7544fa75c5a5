package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSignedCertificateServesAndCallsForAWeek(t *testing.T) {
	c := newCluster(t, "c1")
	now := time.Now()
	der, err := c.ca.Sign(newKey(t).Public(), "n7", now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.CommonName != "n7" || !slices.Equal(leaf.DNSNames, []string{"skein", "n7"}) || !slices.Equal(leaf.Subject.Organization, []string{"c1"}) {
		t.Errorf("names are %q, %q, %q", leaf.Subject.CommonName, leaf.DNSNames, leaf.Subject.Organization)
	}
	roots := x509.NewCertPool()
	ca, err := x509.ParseCertificate(c.ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(ca)
	at := func(d time.Duration, use x509.ExtKeyUsage) error {
		_, err := leaf.Verify(x509.VerifyOptions{DNSName: "skein", Roots: roots, CurrentTime: now.Add(d), KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	week := 7 * 24 * time.Hour
	for d, good := range map[time.Duration]bool{-10 * time.Minute: false, -4 * time.Minute: true, 0: true, week - time.Minute: true, week + time.Minute: false} {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if err := at(d, use); (err == nil) != good {
				t.Errorf("%v from its signing, for use %v: got %v, want good=%v", d, use, err, good)
			}
		}
	}
	if err := at(0, x509.ExtKeyUsageCodeSigning); err == nil {
		t.Error("the certificate may sign code")
	}
}

func TestSignRefuses(t *testing.T) {
	c := newCluster(t, "c1")
	key := newKey(t).Public()
	weak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		key  crypto.PublicKey
		name string
	}{
		"an empty name":       {key, ""},
		"a path":              {key, "../n1"},
		"upper case":          {key, "N1"},
		"a wildcard":          {key, "*"},
		"64 letters":          {key, strings.Repeat("a", 64)},
		"a dot at the end":    {key, "n1."},
		"another kind of key": {weak.Public(), "n1"},
		"no key":              {nil, "n1"},
	} {
		if _, err := c.ca.Sign(tt.key, tt.name, time.Now()); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
}

func TestAuthorityGoesThroughStorage(t *testing.T) {
	c := newCluster(t, "c1")
	key, err := c.ca.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(c.ca.Certificate(), key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if again.ClusterID() != "c1" {
		t.Errorf("cluster is %q, want c1", again.ClusterID())
	}
	m := c.material("n1")
	if m.Certificate, err = again.Sign(m.Key.Public(), "n1", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := New(m); err != nil {
		t.Errorf("what it signs is not good: %v", err)
	}
	if _, err := ParseAuthority(newCluster(t, "c1").ca.Certificate(), key, rand.Reader); err == nil {
		t.Error("another authority's certificate was taken with this key")
	}
	if _, err := ParseAuthority(m.Certificate, key, rand.Reader); err == nil {
		t.Error("a node's certificate was taken for an authority's")
	}
}

func TestSealOpensOnlyWithKeyAndPurpose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
		secret := rapid.SliceOf(rapid.Byte()).Draw(t, "secret")
		sealed, err := Seal(key, secret, "authority", rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Unseal(key, sealed, "authority"); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("got %x, %v, want %x", got, err, secret)
		}
		if _, err := Unseal(key, sealed, "secret"); !errors.Is(err, ErrUnseal) {
			t.Errorf("another purpose: got %v, want ErrUnseal", err)
		}
		at := rapid.IntRange(0, len(sealed)-1).Draw(t, "at")
		bad := bytes.Clone(sealed)
		bad[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if _, err := Unseal(key, bad, "authority"); !errors.Is(err, ErrUnseal) {
			t.Errorf("byte %d changed: got %v, want ErrUnseal", at, err)
		}
		if _, err := Unseal(key, sealed[:at], "authority"); !errors.Is(err, ErrUnseal) {
			t.Errorf("cut to %d bytes: got %v, want ErrUnseal", at, err)
		}
		key[0] ^= 1
		if _, err := Unseal(key, sealed, "authority"); !errors.Is(err, ErrUnseal) {
			t.Errorf("another key: got %v, want ErrUnseal", err)
		}
	})
}
