package consensustest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A conn is one end of a stream.
type conn struct {
	host    *Host
	peer    string
	in, out *half
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

// Close ends both directions: what was written still arrives.
func (c *conn) Close() error {
	c.host.net.mu.Lock()
	delete(c.host.conns, c)
	c.host.net.mu.Unlock()
	c.out.end()
	c.in.fail(net.ErrClosed)
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address(c.host.name) }
func (c *conn) RemoteAddr() net.Addr { return address(c.peer) }

func (c *conn) SetDeadline(t time.Time) error     { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error  { return nil } // writes do not wait
func (c *conn) SetReadDeadline(t time.Time) error { c.in.until(t); return nil }

// A half is one direction of a stream.
type half struct {
	net      *Network
	from, to string

	mu       sync.Mutex
	queue    []segment
	last     time.Time // when the last segment arrives: they keep their order
	ended    bool      // nothing more will be written
	silent   bool      // who writes has no power any more
	err      error     // it is over
	deadline time.Time
	news     chan struct{} // closed when any of this changes
}

type segment struct {
	data []byte
	at   time.Time // when it arrives
}

func newHalf(n *Network, from, to string) *half {
	return &half{net: n, from: from, to: to, news: make(chan struct{})}
}

// set changes the half and wakes who waits.
func (h *half) set(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
	close(h.news)
	h.news = make(chan struct{})
}

func (h *half) end() { h.set(func() { h.ended = !h.silent }) }

func (h *half) silence() { h.set(func() { h.silent = true }) }

func (h *half) fail(err error) {
	h.set(func() {
		if h.err == nil {
			h.err = err
		}
	})
}

func (h *half) until(t time.Time) { h.set(func() { h.deadline = t }) }

func (h *half) write(b []byte) (int, error) {
	at := time.Now().Add(h.net.takes())
	var err error
	h.set(func() {
		switch {
		case h.err != nil:
			err = h.err
		case h.ended, h.silent:
			err = net.ErrClosed
		default:
			if at.Before(h.last) {
				at = h.last
			}
			h.last = at
			h.queue = append(h.queue, segment{append([]byte(nil), b...), at})
		}
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h *half) read(b []byte) (int, error) {
	for {
		whole, changed := h.net.passes(h.from, h.to)
		n, err, due, news := h.take(b, whole)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		var timer *time.Timer
		var ring <-chan time.Time
		if !due.IsZero() {
			timer = time.NewTimer(time.Until(due))
			ring = timer.C
		}
		select {
		case <-news:
		case <-changed:
		case <-ring:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// take returns what has arrived, or when to look again.
func (h *half) take(b []byte, whole bool) (n int, err error, due time.Time, news <-chan struct{}) { //nolint:staticcheck // the error is one of two answers
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	switch {
	case h.err != nil:
		return 0, h.err, due, nil
	case !h.deadline.IsZero() && !now.Before(h.deadline):
		return 0, os.ErrDeadlineExceeded, due, nil
	case whole && len(h.queue) > 0 && !now.Before(h.queue[0].at):
		n = copy(b, h.queue[0].data)
		if h.queue[0].data = h.queue[0].data[n:]; len(h.queue[0].data) == 0 {
			h.queue[0] = segment{}
			h.queue = h.queue[1:]
		}
		return n, nil, due, nil
	case whole && len(h.queue) == 0 && h.ended:
		return 0, io.EOF, due, nil
	}
	due = h.deadline
	if whole && len(h.queue) > 0 && (due.IsZero() || h.queue[0].at.Before(due)) {
		due = h.queue[0].at
	}
	return 0, nil, due, h.news
}
