package gossip

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

const (
	streamSealed = 10 // memberlist's message type of an encrypted stream
	streamHead   = 6  // type, length in four bytes, version of the encryption
	// What an exchange of the membership may measure, in bytes. It is held in
	// memory a few times over.
	streamBase    = 1 << 20
	streamPerNode = 1 << 10
)

var errStream = errors.New("stream is not what memberlist seals, or is too long")

// A guard checks the head of what the other end sends before memberlist reads
// it: memberlist panics on an empty message and on a wrong padding, and takes
// up to 20 MB at a word.
type guard struct {
	net.Conn
	g      *Gossip
	head   []byte // checked, not yet read; nil before the first read
	err    error
	once   sync.Once
	closed func()
}

// Read returns the head once it has been checked, then the rest as it comes.
func (c *guard) Read(b []byte) (int, error) {
	if c.head == nil && c.err == nil {
		c.head = make([]byte, streamHead)
		if _, c.err = io.ReadFull(c.Conn, c.head); c.err == nil {
			c.err = checkHead(c.head, c.g.size())
		}
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// checkHead refuses what memberlist of ours does not send.
func checkHead(head []byte, nodes int) error {
	length := binary.BigEndian.Uint32(head[1:])
	if head[0] != streamSealed || head[5] != sealedVersion ||
		length < minSealed || int64(length) > int64(streamBase+streamPerNode*nodes) {
		return errStream
	}
	return nil
}

// Close closes the connection.
func (c *guard) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}
