package gossip

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
)

// What memberlist sends over streams: one sealed message each way.
const (
	streamSealed = 10        // message type of an encrypted stream
	streamHead   = 5         // type, length in four bytes
	sealHead     = 1 + 12    // version of the encryption, nonce
	msgPing      = 0         // first byte of the plain text …
	msgAck       = 2         //
	msgExchange  = 6         //
	msgError     = 13        // … of what we expect
	streamBase   = 256 << 10 // what a message may measure, in bytes, …
	streamNode   = 1 << 10   // … and for each member more
	minState     = 20        // bytes of one member in an exchange, at the least
	packedFalse  = 0xc2
	packedTrue   = 0xc3
)

var errStream = errors.New("stream is not what memberlist seals, or is too long")

// A guard checks a message before memberlist reads it, which panics on an empty
// one and on a wrong padding, and otherwise takes a peer's word for up to a
// million members and 20 MB: memory for some 100 MB, on every stream.
type guard struct {
	net.Conn
	g       *Gossip
	message []byte // checked, not yet read
	err     error
	checked bool
	once    sync.Once
	closed  func()
}

// Read returns the message once it has been checked, and nothing behind it.
func (c *guard) Read(b []byte) (int, error) {
	if !c.checked {
		c.checked = true
		c.message, c.err = readMessage(c.Conn, c.g.keyring.GetKeys(), c.g.size())
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(c.message) == 0 {
		return c.Conn.Read(b) // the end
	}
	n := copy(b, c.message)
	c.message = c.message[n:]
	return n, nil
}

// readMessage reads one sealed message and refuses what memberlist of ours does
// not send.
func readMessage(from io.Reader, keys [][]byte, members int) ([]byte, error) {
	head := make([]byte, streamHead)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(head[1:]))
	if head[0] != streamSealed || length <= sealHead+tagSize || length > int64(streamBase+streamNode*members) {
		return nil, errStream
	}
	message := append(make([]byte, 0, streamHead+length), head...)[:streamHead+length]
	if _, err := io.ReadFull(from, message[streamHead:]); err != nil {
		return nil, err
	}
	plain := unseal(message, keys)
	if len(plain) == 0 || !slices.Contains([]byte{msgPing, msgAck, msgExchange, msgError}, plain[0]) ||
		plain[0] == msgExchange && !plausible(plain[1:]) {
		return nil, errStream
	}
	return message, nil
}

// unseal decrypts as memberlist does; nil if no key fits.
func unseal(message []byte, keys [][]byte) []byte {
	body := message[streamHead:]
	if body[0] != sealedVersion {
		return nil
	}
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			continue
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			continue
		}
		if plain, err := aead.Open(nil, body[1:sealHead], body[sealHead:], message[:streamHead]); err == nil {
			return plain
		}
	}
	return nil
}

// plausible says whether an exchange is long enough for the members that its
// header promises, and promises nothing of the application's, which we never
// send. The header is a map of three fields, in msgpack and sorted.
func plausible(exchange []byte) bool {
	rest, ok := cutPrefix(exchange, "\x83\xa4Join")
	if !ok || len(rest) == 0 || rest[0] != packedFalse && rest[0] != packedTrue {
		return false
	}
	rest, ok = cutPrefix(rest[1:], "\xa5Nodes")
	if !ok {
		return false
	}
	nodes, rest, ok := packedInt(rest)
	if !ok || nodes > uint64(len(rest)/minState) {
		return false
	}
	rest, ok = cutPrefix(rest, "\xacUserStateLen")
	if !ok {
		return false
	}
	length, _, ok := packedInt(rest)
	return ok && length == 0
}

func cutPrefix(b []byte, prefix string) ([]byte, bool) {
	if len(b) < len(prefix) || string(b[:len(prefix)]) != prefix {
		return nil, false
	}
	return b[len(prefix):], true
}

// packedInt reads one msgpack integer that is not negative.
func packedInt(b []byte) (uint64, []byte, bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	kind, b := b[0], b[1:]
	size := 0
	switch {
	case kind < 0x80:
		return uint64(kind), b, true
	case kind >= 0xcc && kind <= 0xcf: // unsigned, 1 to 8 bytes
		size = 1 << (kind - 0xcc)
	case kind >= 0xd0 && kind <= 0xd3: // signed
		size = 1 << (kind - 0xd0)
	}
	if size == 0 || len(b) < size || kind >= 0xd0 && b[0]&0x80 != 0 {
		return 0, nil, false
	}
	var v uint64
	for _, x := range b[:size] {
		v = v<<8 | uint64(x)
	}
	return v, b[size:], true
}

// Close closes the connection.
func (c *guard) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}
