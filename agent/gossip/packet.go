package gossip

import (
	"encoding/binary"
	"errors"
)

// Kinds of our own datagrams, the first sealed byte.
const (
	kindBeat  = 1
	kindPing  = 2
	kindPong  = 3
	kindClaim = 4
	kindLeave = 5 // no payload: the sender stops on purpose
	kindHint  = 6 // as in a rumour
)

// A beat says "I live" to an observer.
type beat struct {
	view uint64 // hash of the sender's ring
	// farewell says that the sender does not count the receiver among its
	// observers any more, and will fall silent to it.
	farewell bool
}

// A ping asks a node to answer; the pong carries the challenge back, so that
// no recorded one will do. Target is the hash of the name that is asked for:
// another node at that address stays silent.
type ping struct{ challenge, target uint64 }

type pong struct{ challenge uint64 }

var errPacket = errors.New("datagram cut short")

func appendBeat(b []byte, m beat) []byte {
	b = append(b, kindBeat, 0)
	if m.farewell {
		b[len(b)-1] = 1
	}
	return binary.BigEndian.AppendUint64(b, m.view)
}

func parseBeat(b []byte) (beat, error) {
	if len(b) < 9 {
		return beat{}, errPacket
	}
	return beat{farewell: b[0]&1 != 0, view: binary.BigEndian.Uint64(b[1:])}, nil
}

func appendPing(b []byte, m ping) []byte {
	b = binary.BigEndian.AppendUint64(append(b, kindPing), m.challenge)
	return binary.BigEndian.AppendUint64(b, m.target)
}

func parsePing(b []byte) (ping, error) {
	if len(b) < 16 {
		return ping{}, errPacket
	}
	return ping{challenge: binary.BigEndian.Uint64(b), target: binary.BigEndian.Uint64(b[8:])}, nil
}

func appendPong(b []byte, m pong) []byte {
	return binary.BigEndian.AppendUint64(append(b, kindPong), m.challenge)
}

func parsePong(b []byte) (pong, error) {
	if len(b) < 8 {
		return pong{}, errPacket
	}
	return pong{challenge: binary.BigEndian.Uint64(b)}, nil
}

// A claim is an observer's word that it misses the beats of a node, or has
// them again. It travels as news: sealed, and signed by the observer, because
// whoever holds the gossip key could write it in another's name.
type claim struct {
	observer string
	epoch    uint64 // the observer's boot epoch; with seq it orders its claims
	seq      uint64
	node     string
	boot     uint64 // the node's boot epoch as the observer knows it
	what     claimed
	sig      []byte // over all the rest
}

// claimed is what an observer says of a node.
type claimed byte

const (
	claimCleared claimed = iota // the beats are back
	claimSilent                 // no beat, and no answer either
	claimGone                   // no beat, but its kernel answers: only the agent is gone
)

const (
	claimVersion = 1
	maxSignature = 256
	signedPrefix = "skein claim\x00"
)

func appendClaim(b []byte, c claim) []byte {
	b = append(b, claimVersion, byte(c.what))
	b = binary.BigEndian.AppendUint64(b, c.epoch)
	b = binary.BigEndian.AppendUint64(b, c.seq)
	b = binary.BigEndian.AppendUint64(b, c.boot)
	b = append(append(b, byte(len(c.observer))), c.observer...)
	return append(append(b, byte(len(c.node))), c.node...)
}

// parseClaim returns the claim and the bytes that its signature covers.
func parseClaim(b []byte) (claim, []byte, error) {
	if len(b) < 28 || len(b) > 28+2*maxName+maxSignature || b[0] != claimVersion || b[1] > byte(claimGone) {
		return claim{}, nil, errPacket
	}
	c := claim{
		what:  claimed(b[1]),
		epoch: binary.BigEndian.Uint64(b[2:]),
		seq:   binary.BigEndian.Uint64(b[10:]),
		boot:  binary.BigEndian.Uint64(b[18:]),
	}
	rest := b[26:]
	for _, to := range []*string{&c.observer, &c.node} {
		if len(rest) == 0 || rest[0] == 0 || int(rest[0]) > maxName || len(rest) < 1+int(rest[0]) {
			return claim{}, nil, errPacket
		}
		*to, rest = string(rest[1:1+rest[0]]), rest[1+rest[0]:]
	}
	if len(rest) > maxSignature {
		return claim{}, nil, errPacket
	}
	c.sig = rest
	return c, b[:len(b)-len(rest)], nil
}
