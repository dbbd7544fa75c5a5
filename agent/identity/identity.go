// Package identity owns who is who: the cluster's CA, a node's key and
// certificate and how it renews, tokens, and the one port on which everybody
// proves who they are before anything else of theirs is read.
//
// It knows no objects and no log. Whether a node is still in the cluster, whether
// a token was revoked and what a person may do is decided by the functions and
// handlers that are handed in; it makes sure that they are asked.
package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A Peer is another node and where it was last.
type Peer struct {
	Name string         `json:"name"`
	Addr netip.AddrPort `json:"addr"`
}

// Material is what makes a node: all that it must keep.
type Material struct {
	Name        string
	ClusterID   string
	Key         ed25519.PrivateKey
	Certificate []byte   // DER
	CA          []byte   // DER
	GossipKeys  [][]byte // the first one seals
	SealingKey  []byte   // of voters; else empty
	Peers       []Peer
}

// An Identity is a node's own. It is safe for use by many; a renewed certificate
// is used by the next handshake.
type Identity struct {
	dir   string // empty: in memory alone
	name  string
	key   ed25519.PrivateKey
	ca    *x509.Certificate
	cert  atomic.Pointer[tls.Certificate]
	epoch atomic.Pointer[Epoch] // nil: the first one
	now   func() time.Time      // the wall clock

	mu      sync.Mutex // held while writing to disk, too
	gossip  [][]byte
	sealing []byte
	peers   []Peer
}

// New makes an identity that lives in memory alone; see Create.
func New(m Material) (*Identity, error) {
	if err := checkName(m.Name); err != nil {
		return nil, fmt.Errorf("node name %q: %w", m.Name, err)
	}
	if len(m.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("the node has no key")
	}
	ca, err := parseCA(m.CA)
	if err != nil {
		return nil, err
	}
	if got := ca.Subject.Organization[0]; got != m.ClusterID {
		return nil, fmt.Errorf("the certificate authority is of cluster %s, not %s", got, m.ClusterID)
	}
	if len(m.SealingKey) != 0 && len(m.SealingKey) != SealingKeySize {
		return nil, fmt.Errorf("a sealing key has %d bytes, not %d", SealingKeySize, len(m.SealingKey))
	}
	id := &Identity{
		name: m.Name, key: m.Key, ca: ca,
		gossip: m.GossipKeys, sealing: m.SealingKey, peers: m.Peers, now: time.Now,
	}
	cert, err := id.certificate(m.Certificate)
	if err != nil {
		return nil, err
	}
	id.cert.Store(cert)
	return id, nil
}

// certificate checks one that is meant for this node. It may have expired: then
// the node must renew it before anybody listens.
func (id *Identity) certificate(der []byte) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the node's certificate: %w", err)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(id.key.Public()) {
		return nil, errors.New("the certificate is for another key than the node's")
	}
	if leaf.Subject.CommonName != id.name {
		return nil, fmt.Errorf("the certificate names node %q, not %q", leaf.Subject.CommonName, id.name)
	}
	if err := leaf.CheckSignatureFrom(id.ca); err != nil {
		return nil, fmt.Errorf("the certificate is not of this cluster: %w", err)
	}
	if !slices.Equal(leaf.Subject.Organization, id.ca.Subject.Organization) {
		return nil, errors.New("the certificate names another cluster")
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, id.ca.Raw}, PrivateKey: id.key, Leaf: leaf}, nil
}

// FromJoin is the material of a node that has just joined.
func FromJoin(name string, key ed25519.PrivateKey, res *skeinv1.JoinResponse) (Material, error) {
	m := Material{
		Name: name, ClusterID: res.GetClusterId(), Key: key,
		Certificate: res.GetCertificate(), CA: res.GetCa(), GossipKeys: res.GetGossipKeys(),
	}
	for _, p := range res.GetPeers() {
		addr, err := netip.ParseAddrPort(p.GetAddr())
		if err != nil {
			return m, fmt.Errorf("address of node %q: %w", p.GetName(), err)
		}
		m.Peers = append(m.Peers, Peer{Name: p.GetName(), Addr: addr})
	}
	return m, nil
}

// SetClock has certificates judged by another wall clock than time.Now. Call it
// before anything else.
func (id *Identity) SetClock(now func() time.Time) { id.now = now }

// Name is the node's, and its id everywhere.
func (id *Identity) Name() string { return id.name }

// ClusterID tells clusters apart; the CA carries it.
func (id *Identity) ClusterID() string { return id.ca.Subject.Organization[0] }

// CA is the cluster's CA certificate, DER.
func (id *Identity) CA() []byte { return id.ca.Raw }

// Public is the node's key, which the cluster knows it by.
func (id *Identity) Public() ed25519.PublicKey {
	return id.key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // so says crypto/ed25519
}

// Expires is when the certificate in use does.
func (id *Identity) Expires() time.Time { return id.cert.Load().Leaf.NotAfter }

// SetCertificate puts a renewed certificate (DER) into use and on disk.
func (id *Identity) SetCertificate(der []byte) error {
	cert, err := id.certificate(der)
	if err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.cert.Store(cert) // in use even where the disk is full
	return id.saveCertificate(der)
}

// GossipKeys are those that open gossip; the first one seals. Do not modify them.
func (id *Identity) GossipKeys() [][]byte {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.gossip
}

// SetGossipKeys keeps new keys; it writes only when they differ.
func (id *Identity) SetGossipKeys(keys [][]byte) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if slices.EqualFunc(id.gossip, keys, bytes.Equal) {
		return nil
	}
	id.gossip = slices.Clone(keys)
	return id.saveState()
}

// Peers are the nodes to look for after a restart. Do not modify them.
func (id *Identity) Peers() []Peer {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.peers
}

// SetPeers keeps where others are; it writes only when that differs.
func (id *Identity) SetPeers(peers []Peer) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if slices.Equal(id.peers, peers) {
		return nil
	}
	id.peers = slices.Clone(peers)
	return id.saveState()
}

// SealingKey opens what is sealed in the log; empty on a node that never was
// asked to vote. Do not modify it.
func (id *Identity) SealingKey() []byte {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.sealing
}

// SetSealingKey keeps what a voter must hold. When it returns nil, the key is
// safe on disk.
func (id *Identity) SetSealingKey(key []byte) error {
	if len(key) != SealingKeySize {
		return fmt.Errorf("a sealing key has %d bytes, not %d", SealingKeySize, len(key))
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if bytes.Equal(id.sealing, key) {
		return nil
	}
	if err := id.saveSealingKey(key); err != nil {
		return err
	}
	id.sealing = bytes.Clone(key)
	return nil
}

func caSum(der []byte) [sha256.Size]byte { return sha256.Sum256(der) }
