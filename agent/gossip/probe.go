package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	probeWindow = 250 * time.Millisecond
	probeLate   = 75 * time.Millisecond // woken this much later than asked for: I slept
	probeTries  = 3                     // windows, when I slept in them
)

// An Outcome is what a probe found.
type Outcome int

// The outcomes.
const (
	// Unknown: the probe could not be carried out from here, or was cancelled.
	// It says nothing of the node.
	Unknown Outcome = iota
	// Alive: the node's agent answered.
	Alive
	// AgentGone: the node's kernel answered in place of its agent, which does
	// not run or does not come to answer.
	AgentGone
	// Silent: nothing was heard.
	Silent
)

// String returns the outcome in words.
func (o Outcome) String() string {
	switch o {
	case Alive:
		return "alive"
	case AgentGone:
		return "agent gone"
	case Silent:
		return "silent"
	default:
		return "unknown"
	}
}

// A Result is an Outcome; Epoch is the boot epoch of the agent that answered,
// 0 if none did.
type Result struct {
	Outcome Outcome
	Epoch   uint64
	seq     uint64
}

// Probe tries to reach a node by datagrams from fresh connected sockets: only
// these are told when the node's kernel answers that nobody listens. It takes
// at most 250 ms, or three times that if this process slept meanwhile, and
// returns as soon as the node or its kernel has answered for its agent.
func (g *Gossip) Probe(ctx context.Context, name string, addr netip.AddrPort) Result {
	return g.prober.probe(ctx, name, addr, probeWindow)
}

type prober struct {
	seal  *seal
	dial  func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	knock func(ctx context.Context, addr netip.AddrPort) bool // nil: datagrams alone tell
	known func(name string) bool
}

func (p *prober) probe(ctx context.Context, name string, addr netip.AddrPort, window time.Duration) Result {
	conn, err := p.dial(ctx, addr)
	if err != nil {
		return Result{Outcome: undialled(err)}
	}
	defer func() { _ = conn.Close() }()
	// Is the machine there at all? Its kernel refuses a datagram to a port that
	// nobody listens on, also for an agent that is stopped or starved. Ports
	// above the usual range for outgoing connections are free.
	if closed, err := p.dial(ctx, netip.AddrPortFrom(addr.Addr(), closedPort(addr.Port()))); err == nil {
		defer func() { _ = closed.Close() }()
		conn = &askedConn{Conn: conn, closed: closed}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	challenge := rand.Uint64() // unguessable enough: the pong is sealed
	there := false
	for range probeTries {
		start := time.Now()
		if r := p.ask(ctx, conn, name, challenge, start.Add(window/2)); r.Outcome != Silent {
			return r
		}
		answer := p.knocking(ctx, addr, start.Add(window))
		r := p.ask(ctx, conn, name, challenge, start.Add(window))
		if there = <-answer || there; r.Outcome != Silent {
			return r
		}
		if time.Since(start) < window+probeLate {
			break
		}
	}
	if c, ok := conn.(*askedConn); ok && c.machineAnswers() || there {
		return Result{Outcome: AgentGone}
	}
	return Result{Outcome: Silent}
}

// knocking asks the machine until a time whether it is there by a way other than
// datagrams. A kernel refuses only so many datagrams, after that one a second,
// and the beats of its observers use these up; it refuses every connection.
func (p *prober) knocking(ctx context.Context, addr netip.AddrPort, until time.Time) <-chan bool {
	answer := make(chan bool, 1)
	if p.knock == nil {
		answer <- false
		return answer
	}
	go func() {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		answer <- p.knock(ctx, addr)
	}()
	return answer
}

// ask sends one ping and waits for the answer until a time.
func (p *prober) ask(ctx context.Context, conn net.Conn, name string, challenge uint64, until time.Time) Result {
	_ = conn.SetReadDeadline(until)
	if ctx.Err() != nil {
		return Result{} // before or after the deadline was pulled in: one of the two
	}
	var plain [32]byte
	out := p.seal.close(nil, appendPing(plain[:0], ping{challenge: challenge, target: hashString(name)}))
	if _, err := conn.Write(out); errors.Is(err, syscall.ECONNREFUSED) {
		return Result{Outcome: AgentGone}
	}
	in := make([]byte, maxDatagram)
	for failures := 0; ; {
		n, err := conn.Read(in)
		switch {
		case ctx.Err() != nil:
			return Result{}
		case errors.Is(err, syscall.ECONNREFUSED):
			return Result{Outcome: AgentGone}
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return Result{Outcome: Silent}
		case err != nil: // host unreachable, from a router or our own kernel: proves nothing
			if failures++; failures > 16 {
				return Result{Outcome: Silent}
			}
			continue
		}
		h, body, err := p.seal.open(in[:n], nil, p.known)
		if err != nil || string(h.name) != name || body[0] != kindPong {
			continue
		}
		if m, err := parsePong(body[1:]); err == nil && m.challenge == challenge {
			return Result{Outcome: Alive, Epoch: h.epoch, seq: h.seq}
		}
	}
}

// undialled tells what a failed connect means. A missing route is ours, not the node's.
func undialled(err error) Outcome {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return AgentGone
	case errors.Is(err, syscall.EHOSTUNREACH):
		return Silent
	default:
		return Unknown
	}
}

func closedPort(not uint16) uint16 {
	const low, high = 61000, 65535
	for {
		if port := uint16(low + rand.IntN(high-low)); port != not {
			return port
		}
	}
}

// An askedConn also sends a byte to a closed port with every write,
// and so learns whether the machine answers.
type askedConn struct {
	net.Conn
	closed  net.Conn
	refused bool
}

func (c *askedConn) Write(b []byte) (int, error) {
	c.knock()
	return c.Conn.Write(b)
}

// knock sends to the closed port; the refusal of the one before comes back as
// the error of the next.
func (c *askedConn) knock() {
	if _, err := c.closed.Write([]byte{magic}); errors.Is(err, syscall.ECONNREFUSED) {
		c.refused = true
	}
}

func (c *askedConn) machineAnswers() bool {
	c.knock()
	return c.refused
}
