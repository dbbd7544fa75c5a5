package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// whoami tells how it was asked, and by which node.
func whoami(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "%s from %q", r.Proto, PeerName(r.Context()))
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNodesSpeakHTTP2OverOneConnection(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		s := NodeServer(http.HandlerFunc(whoami), slog.New(slog.DiscardHandler))
		l := p.mux.Listener(ProtoNode)
		go func() { _ = s.Serve(l) }()
		defer func() { _ = s.Close() }()
		d := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.2"))
		var dials atomic.Int32
		c := NodeClient(func(ctx context.Context, node string) (net.Conn, error) {
			dials.Add(1)
			return d.Dial(ctx, "10.0.0.1:7373", ProtoNode, node)
		})
		defer c.CloseIdleConnections()
		for range 5 {
			if got, want := get(t, c, "http://n1/x"), `HTTP/2.0 from "n2"`; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			// net/http hands a new connection to the request that asked for it
			// first, and only then keeps it for the next one to find.
			synctest.Wait()
		}
		if dials.Load() != 1 {
			t.Errorf("dialled %d times, want once", dials.Load())
		}
		if res, err := c.Get("http://n3/x"); err == nil {
			t.Errorf("node n1 answered for n3: %v", res.Status)
		}
	})
}

// A machine that vanishes answers nothing more, not even that it is gone.
func TestNodeClientNoticesASilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		defer func() { _ = theirs.Close() }()
		c := NodeClient(func(context.Context, string) (net.Conn, error) { return ours, nil })
		start := time.Now()
		if res, err := c.Get("http://n1/stream"); err == nil {
			t.Errorf("an answer from nobody: %v", res.Status)
		}
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("noticed after %v", d)
		}
	})
}

func TestNodeServerTakesNoHTTP1(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		s := NodeServer(http.HandlerFunc(whoami), slog.New(slog.DiscardHandler))
		l := p.mux.Listener(ProtoNode)
		go func() { _ = s.Serve(l) }()
		defer func() { _ = s.Close() }()
		c, err := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", ProtoNode, "n1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: n1\r\n\r\n")
		if got, _ := io.ReadAll(c); strings.Contains(string(got), "from") {
			t.Errorf("got %q", got)
		}
	})
}

// The real network: people's two protocols, and what a connection between nodes
// has set on it.
func TestPortOnLoopback(t *testing.T) {
	c := newCluster(t, "c1")
	id := c.node("n1")
	base, err := ListenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMux(base, id, c.verify, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	people := &http.Server{Handler: http.HandlerFunc(whoami), ReadHeaderTimeout: time.Second}
	go func() { _ = people.Serve(m.Listener(ProtoPeople)) }()
	defer func() { _ = people.Close() }()
	for _, http2 := range []bool{true, false} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: rootsOf(id), ServerName: ServerName}, ForceAttemptHTTP2: http2}
		want := `HTTP/1.1 from ""`
		if http2 {
			want = `HTTP/2.0 from ""`
		}
		if got := get(t, &http.Client{Transport: tr}, "https://"+base.Addr().String()+"/"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		tr.CloseIdleConnections()
	}

	l := m.Listener(ProtoRaft)
	ours, err := NewDialer(c.node("n2"), c.verify, TCPDialer()).Dial(t.Context(), base.Addr().String(), ProtoRaft, "n1")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted, ok := theirs.(*Conn)
	if !ok {
		t.Fatalf("the listener gave a %T", theirs)
	}
	for name, conn := range map[string]*Conn{"dialled": ours, "accepted": accepted} {
		tcp, ok := conn.raw.(*net.TCPConn)
		if !ok {
			t.Fatalf("%s: a %T", name, conn.raw)
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 3000, unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 3} {
			if err := raw.Control(func(fd uintptr) {
				if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); got != want || err != nil {
					t.Errorf("%s: option %d is %d, %v, want %d", name, option, got, err, want)
				}
			}); err != nil {
				t.Error(err)
			}
		}
		_ = conn.Close()
	}
}
