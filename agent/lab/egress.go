package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// The nodes of a lab reach each other alone: nothing of this machine's network is
// in their namespaces. To pull images they have a way out all the same, a socket in
// the lab's folder, on which the forwarder answers CONNECT requests (RFC 9110,
// section 9.3.6) with connections of this machine. Containers do not see it.

const (
	egressSocket = "egress.sock"
	// egressConns bounds how many connections go out at the same time.
	egressConns = 256
	// egressWait bounds how long a request may take to come, and a dial to succeed.
	egressWait = 10 * time.Second
)

func (l *Lab) egress() string { return filepath.Join(l.dir, egressSocket) }

// An exit serves a lab's way out.
type exit struct {
	log   *slog.Logger
	slots *semaphore.Weighted
}

// listenEgress makes the socket, which only root can reach.
func listenEgress(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// serve answers on ln until ctx ends.
func (e *exit) serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		if err := e.slots.Acquire(ctx, 1); err != nil {
			return nil
		}
		c, err := ln.Accept()
		if err != nil {
			e.slots.Release(1)
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, net.ErrClosed):
				return err
			}
			e.log.Warn("cannot accept", "err", err)
			pause(ctx, pollEvery)
			continue
		}
		conns.Go(func() {
			defer e.slots.Release(1)
			e.carry(ctx, c)
		})
	}
}

// carry takes one request and then whatever both sides say.
func (e *exit) carry(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	_ = client.SetDeadline(time.Now().Add(egressWait))
	from := bufio.NewReader(client)
	req, err := http.ReadRequest(from)
	if err != nil {
		return // nobody to tell: it broke off
	}
	out, err := e.dial(ctx, req)
	if err != nil {
		_, _ = fmt.Fprintf(client, "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n%s\n", err)
		return
	}
	defer func() { _ = out.Close() }()
	defer context.AfterFunc(ctx, func() { _ = out.Close() })()
	if _, err := fmt.Fprint(client, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		return
	}
	_ = client.SetDeadline(time.Time{})
	var both sync.WaitGroup
	both.Go(func() { pipe(out, buffered{client, from}) })
	both.Go(func() { pipe(client, out) })
	both.Wait()
}

// buffered reads what a reader has taken from a connection already.
type buffered struct {
	net.Conn
	from *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.from.Read(p) }

// CloseWrite tells the other side that no more will come.
func (b buffered) CloseWrite() error {
	half, ok := b.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func (e *exit) dial(ctx context.Context, req *http.Request) (net.Conn, error) {
	host, port, err := net.SplitHostPort(req.RequestURI)
	if req.Method != http.MethodConnect || err != nil {
		return nil, fmt.Errorf("only CONNECT host:port is answered, not %s %.100q", req.Method, req.RequestURI)
	}
	ctx, cancel := context.WithTimeout(ctx, egressWait)
	defer cancel()
	addrs, err := outward(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range addrs {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(addr.String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// outward resolves a host once, to the addresses that may be dialled. Loopback is
// meant by who writes it down, as in localhost:5000/web, and by no name that
// happens to point there.
func outward(ctx context.Context, host string) ([]netip.Addr, error) {
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	_, literal := netip.ParseAddr(host)
	meant := literal == nil || host == "localhost"
	var out []netip.Addr
	for _, a := range all {
		a = a.Unmap()
		if a.IsGlobalUnicast() || a.IsLoopback() && meant {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no address that may be dialled: %v", host, all)
	}
	return out, nil
}

// Egress returns how to dial through the way out of a lab, whose socket is given.
// An error has the other end's words.
func Egress(socket string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (_ net.Conn, err error) {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("reach the way out of the lab: %w", err)
		}
		defer func() {
			if err != nil {
				_ = c.Close()
			}
		}()
		undo := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		defer undo()
		if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr); err != nil {
			return nil, err
		}
		from := bufio.NewReaderSize(c, 4<<10)
		res, err := http.ReadResponse(from, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
		defer res.Body.Close() // of an answer to CONNECT: empty, and not the stream
		if res.StatusCode != http.StatusOK {
			why, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
			return nil, fmt.Errorf("dial %s: %s", addr, bytes.TrimSpace(why))
		}
		return buffered{c, from}, nil
	}
}
