package gossip

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// magic is the first byte of our own datagrams. memberlist's sealed ones begin
// with the version of its encryption, 0 or 1, and its labels with 244.
const magic = 0xb5

// A datagram of ours:
//
//	0      magic
//	1      which gossip key: the first byte of its SHA-256
//	2:10   session, random for every run of the sender
//	10:18  boot epoch of the sender
//	18:26  sequence
//	26     length of the sender's name, then the name
//	…      sealed: kind and payload; the tag's 16 bytes
//
// All before the seal is authenticated with it. The key is derived from the
// gossip key, the sender's name and its session, so that the sequence can be
// the nonce and never repeats, however many nodes share the gossip key.
const (
	headFixed   = 27
	maxName     = 253
	tagSize     = 16
	maxDatagram = 1280 // all of ours, so that no path has to cut one
)

// The number of gossip keys that may be valid at a time.
const maxKeys = 8

// A header is what a datagram says before its seal. Once open has returned it,
// it is as true as the gossip key.
type header struct {
	name       []byte // points into the datagram
	epoch, seq uint64
}

type sealKey struct {
	id     byte
	secret []byte
}

// A seal closes and opens our own datagrams. It is safe for concurrent use.
type seal struct {
	name    string
	epoch   uint64
	session [8]byte
	seq     atomic.Uint64

	mu   sync.RWMutex
	keys []sealKey // the first one closes
	out  cipher.AEAD
	in   map[string]inbound // by sender; only of datagrams that opened
}

// An inbound is the key of one sender in one session.
type inbound struct {
	session [8]byte
	key     byte
	aead    cipher.AEAD
}

func newSeal(name string, epoch uint64, keys [][]byte) (*seal, error) {
	if name == "" || len(name) > maxName {
		return nil, fmt.Errorf("node name of %d bytes: 1 to %d allowed", len(name), maxName)
	}
	s := &seal{name: name, epoch: epoch}
	_, _ = rand.Read(s.session[:]) // never fails
	return s, s.setKeys(keys)
}

// setKeys replaces the gossip keys. The first one closes, all open.
func (s *seal) setKeys(keys [][]byte) error {
	if len(keys) == 0 || len(keys) > maxKeys {
		return fmt.Errorf("%d gossip keys: 1 to %d allowed", len(keys), maxKeys)
	}
	fresh := make([]sealKey, len(keys))
	for i, key := range keys {
		if l := len(key); l != 16 && l != 24 && l != 32 {
			return fmt.Errorf("gossip key of %d bytes: 16, 24 or 32 allowed", l)
		}
		sum := sha256.Sum256(key)
		fresh[i] = sealKey{id: sum[0], secret: bytes.Clone(key)}
	}
	out, err := derive(fresh[0].secret, s.name, s.session)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.out, s.in = fresh, out, map[string]inbound{}
	return nil
}

// nonce is the part of a datagram's head that never repeats under one key.
func nonce(datagram []byte) []byte { return datagram[14:26] }

func derive(secret []byte, name string, session [8]byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, session[:], "skein datagram of "+name, 32)
	if err != nil {
		return nil, fmt.Errorf("derive datagram key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive datagram key: %w", err)
	}
	return cipher.NewGCM(block)
}

// close appends a sealed datagram to dst, which must not share memory with
// plain. With room in dst it allocates nothing.
func (s *seal) close(dst, plain []byte) []byte {
	seq := s.seq.Add(1)
	s.mu.RLock()
	id, aead := s.keys[0].id, s.out
	s.mu.RUnlock()
	start := len(dst)
	dst = append(dst, magic, id)
	dst = append(dst, s.session[:]...)
	dst = binary.BigEndian.AppendUint64(dst, s.epoch)
	dst = binary.BigEndian.AppendUint64(dst, seq)
	dst = append(dst, byte(len(s.name)))
	dst = append(dst, s.name...)
	return aead.Seal(dst, nonce(dst[start:]), plain, dst[start:])
}

var errSeal = errors.New("datagram not sealed by a key of ours")

// open checks a datagram and decrypts it into scratch[:0]. Known decides whose
// datagrams are worth the work; it is not called for senders we have heard.
func (s *seal) open(datagram, scratch []byte, known func(name string) bool) (header, []byte, error) {
	if len(datagram) < headFixed+1+1+tagSize || len(datagram) > maxDatagram || datagram[0] != magic {
		return header{}, nil, errSeal
	}
	end := headFixed + int(datagram[headFixed-1])
	if end == headFixed || len(datagram) < end+1+tagSize {
		return header{}, nil, errSeal
	}
	h := header{
		name:  datagram[headFixed:end],
		epoch: binary.BigEndian.Uint64(datagram[10:]),
		seq:   binary.BigEndian.Uint64(datagram[18:]),
	}
	session := [8]byte(datagram[2:10])

	s.mu.RLock()
	in, ok := s.in[string(h.name)]
	keys := s.keys
	s.mu.RUnlock()
	if ok && in.session == session && in.key == datagram[1] {
		if plain, err := in.aead.Open(scratch[:0], nonce(datagram), datagram[end:], datagram[:end]); err == nil {
			return h, plain, nil
		}
	}
	name := string(h.name)
	if !known(name) {
		return header{}, nil, errSeal
	}
	for _, key := range keys {
		if key.id != datagram[1] {
			continue
		}
		aead, err := derive(key.secret, name, session)
		if err != nil {
			return header{}, nil, err
		}
		plain, err := aead.Open(scratch[:0], nonce(datagram), datagram[end:], datagram[:end])
		if err != nil {
			continue
		}
		s.mu.Lock()
		if len(s.keys) > 0 && &s.keys[0] == &keys[0] { // the keys are still these
			s.in[name] = inbound{session: session, key: key.id, aead: aead}
		}
		s.mu.Unlock()
		return h, plain, nil
	}
	return header{}, nil, errSeal
}

// forget drops the cached keys of all senders but those to keep.
func (s *seal) forget(keep func(name string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.in {
		if !keep(name) {
			delete(s.in, name)
		}
	}
}
