package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMuxBringsEachProtocolToItsListener(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		for _, proto := range []string{ProtoRaft, ProtoGossip, ProtoNode, ProtoJoin, ProtoPeople} {
			p.echo(proto)
		}
		d := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.2"))
		for _, proto := range []string{ProtoRaft, ProtoGossip, ProtoNode} {
			c, err := d.Dial(t.Context(), "n1", proto, "n1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if want := proto + " is n2"; string(got) != want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			if c.Peer() != "n1" || c.Protocol() != proto || Fingerprint(c.PeerKey()) != Fingerprint(p.id.Public()) {
				t.Errorf("the dialer takes the other end for %s", c.Peer())
			}
			_ = c.Close()
		}
		for _, tt := range []struct {
			offer      []string
			want, alpn string
		}{
			{[]string{ProtoJoin}, "skein-join is somebody", ProtoJoin},
			{[]string{"h2", "http/1.1"}, "people is somebody", "h2"},
			{[]string{"http/1.1", "h2"}, "people is somebody", "h2"},
			{[]string{"http/1.1"}, "people is somebody", "http/1.1"},
			{[]string{"spdy/3", "http/1.1"}, "people is somebody", "http/1.1"},
			{nil, "people is somebody", ""},
		} {
			alpn := "none"
			got, err := p.hear(&tls.Config{RootCAs: rootsOf(p.id), NextProtos: tt.offer, VerifyConnection: func(s tls.ConnectionState) error {
				alpn = s.NegotiatedProtocol
				return nil
			}})
			if got != tt.want || alpn != tt.alpn {
				t.Errorf("offer %q: got %q by %q, %v, want %q by %q", tt.offer, got, alpn, err, tt.want, tt.alpn)
			}
		}
	})
}

func TestMuxRefuses(t *testing.T) {
	pair := func(id *Identity) []tls.Certificate { return []tls.Certificate{*id.cert.Load()} }
	for name, config := range map[string]func(p *port) *tls.Config{
		"raft without a certificate": func(*port) *tls.Config { return &tls.Config{NextProtos: []string{ProtoRaft}} },
		"a node without a certificate": func(*port) *tls.Config {
			return &tls.Config{NextProtos: []string{ProtoNode}}
		},
		"another cluster's node": func(p *port) *tls.Config {
			return &tls.Config{NextProtos: []string{ProtoGossip}, Certificates: pair(newCluster(p.t, "c2").node("n2"))}
		},
		"a node of another cluster with this one's name": func(p *port) *tls.Config {
			return &tls.Config{NextProtos: []string{ProtoGossip}, Certificates: pair(newCluster(p.t, "c1").node("n2"))}
		},
		"a certificate that a node has signed itself": func(p *port) *tls.Config {
			own, err := selfSigned(newKey(p.t), "n1", time.Now())
			if err != nil {
				p.t.Fatal(err)
			}
			return &tls.Config{NextProtos: []string{ProtoRaft}, Certificates: []tls.Certificate{*own}}
		},
		"a key that is not enrolled": func(p *port) *tls.Config {
			stranger := p.node("n2")
			p.node("n2") // enrols another key under this name
			return &tls.Config{NextProtos: []string{ProtoNode}, Certificates: pair(stranger)}
		},
		"an expired certificate": func(p *port) *tls.Config {
			id := p.node("n2")
			time.Sleep(certificateLife + time.Hour) // virtual
			return &tls.Config{NextProtos: []string{ProtoNode}, Certificates: pair(id)}
		},
		"two of our protocols": func(p *port) *tls.Config {
			return &tls.Config{NextProtos: []string{ProtoRaft, ProtoGossip}, Certificates: pair(p.node("n2"))}
		},
		"one of ours and one of people's": func(p *port) *tls.Config {
			return &tls.Config{NextProtos: []string{"h2", ProtoNode}, Certificates: pair(p.node("n2"))}
		},
		"joining beside people's":       func(*port) *tls.Config { return &tls.Config{NextProtos: []string{ProtoJoin, "http/1.1"}} },
		"the same twice":                func(*port) *tls.Config { return &tls.Config{NextProtos: []string{ProtoJoin, ProtoJoin}} },
		"a protocol of ours to come":    func(*port) *tls.Config { return &tls.Config{NextProtos: []string{"skein-later"}} },
		"a protocol of others":          func(*port) *tls.Config { return &tls.Config{NextProtos: []string{"h3"}} },
		"TLS 1.2":                       func(*port) *tls.Config { return &tls.Config{NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12} },
		"the name of people's listener": func(*port) *tls.Config { return &tls.Config{NextProtos: []string{ProtoPeople}} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *port) {
				for _, proto := range []string{ProtoRaft, ProtoGossip, ProtoNode, ProtoJoin, ProtoPeople} {
					p.echo(proto)
				}
				c := config(p)
				c.InsecureSkipVerify = true // it is the server that must refuse
				got, err := p.hear(c)
				var alert *net.OpError
				if got != "" || !errors.As(err, &alert) || alert.Op != "remote error" {
					t.Errorf("got %q, %v, want a TLS alert", got, err)
				}
			})
		})
	}
}

func TestMuxAnswersPlainHTTPWithOneLine(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.echo(ProtoPeople)
		for first, want := range map[string]string{
			"GET / HTTP/1.1\r\nHost: skein\r\n\r\n":    "this port speaks TLS only",
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":         "this port speaks TLS only",
			"SSH-2.0-OpenSSH_9.2\r\n":                  "",
			"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": "",
		} {
			c, err := p.from("10.0.0.9")(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(c, first) }()
			got, _ := io.ReadAll(c)
			if (want == "") != (len(got) == 0) || !strings.Contains(string(got), want) {
				t.Errorf("to %q: got %q, want %q", first, got, want)
			}
			_ = c.Close()
		}
	})
}

func TestMuxRefusesAProtocolWhoseListenerIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		d := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.2"))
		try := func() error {
			c, err := d.Dial(t.Context(), "n1", ProtoRaft, "n1")
			if err != nil {
				return err
			}
			_ = c.Close() // what the other end says is not read
			return nil
		}
		if try() == nil {
			t.Error("raft was served before anybody listened")
		}
		l := p.mux.Listener(ProtoRaft)
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed listener accepts: %v", err)
		}
		if try() == nil {
			t.Error("raft was served after its listener closed")
		}
		p.echo(ProtoRaft)
		if err := try(); err != nil {
			t.Errorf("after listening again: %v", err)
		}
	})
}

func TestRecheckCutsRemovedNodes(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		l := p.mux.Listener(ProtoNode)
		reads := map[string]chan error{}
		for _, name := range []string{"n2", "n3"} {
			ours, err := NewDialer(p.node(name), p.verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", ProtoNode, "n1")
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = theirs.Close(); _ = ours.Close() }()
			reads[name] = make(chan error, 1)
			go func() {
				_, err := ours.Read(make([]byte, 1))
				reads[name] <- err
			}()
		}
		p.enrol("n2", "")
		p.mux.Recheck()
		synctest.Wait()
		if len(reads["n2"]) != 1 {
			t.Error("the connection of a removed node is open")
		}
		if len(reads["n3"]) != 0 {
			t.Errorf("the connection of the other was cut: %v", <-reads["n3"])
		}
	})
}

func TestMuxEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		l := p.mux.Listener(ProtoNode)
		c, err := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", ProtoNode, "n1")
		if err != nil {
			t.Fatal(err)
		}
		held, err := l.Accept() // and never closed by who holds it
		if err != nil {
			t.Fatal(err)
		}
		half, err := p.from("10.0.0.8")(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := p.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("stopping took %v", d)
		}
		for name, conn := range map[string]net.Conn{"a node's connection": c, "its other end": held, "a handshake": half} {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s is open", name)
			}
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("its listener accepts: %v", err)
		}
		if _, err := p.mux.Listener(ProtoRaft).Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a listener made afterwards accepts: %v", err)
		}
		_ = c.Close()
	})
}

// A badNet fails some times before it accepts.
type badNet struct {
	*memNet
	failures int
}

func (n *badNet) Accept() (net.Conn, error) {
	if n.failures > 0 {
		n.failures--
		return nil, errors.New("too many open files")
	}
	return n.memNet.Accept()
}

func TestMuxOutlivesFailuresToAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "c1")
		n := &badNet{memNet: newMemNet(), failures: 12}
		m := NewMux(n, c.node("n1"), c.verify, slog.New(slog.DiscardHandler))
		start := time.Now()
		done := make(chan error)
		go func() { done <- m.Run(t.Context()) }()
		conn, err := n.from("10.0.0.2")(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < time.Second || d > 10*time.Second {
			t.Errorf("12 failures delayed it by %v", d)
		}
		_ = conn.Close()
		_ = n.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run of a port that was closed: got %v, want net.ErrClosed", err)
		}
	})
}

func TestDialRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.echo(ProtoNode)
		n2 := p.node("n2")
		dial := func(id *Identity, verify Verify, proto, want string) error {
			c, err := NewDialer(id, verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", proto, want)
			if err == nil {
				_ = c.Close()
			}
			return err
		}
		other := newCluster(t, "c2")
		for name, tt := range map[string]struct {
			err  error
			want string
		}{
			"another node than wanted":     {dial(n2, p.verify, ProtoNode, "n3"), `this is node "n1", not "n3"`},
			"a node of another cluster":    {dial(other.node("n1"), other.verify, ProtoNode, "n1"), "unknown authority"},
			"a node that is not enrolled":  {dial(n2, newCluster(t, "c1").verify, ProtoNode, "n1"), errNotEnrolled.Error()},
			"a protocol that is not ours":  {dial(n2, p.verify, "h2", "n1"), "no protocol of nodes"},
			"a protocol that nobody takes": {dial(n2, p.verify, ProtoRaft, "n1"), "remote error"},
		} {
			if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %q", name, tt.err, tt.want)
			}
		}
	})
}

func TestDialGivesUpOnSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "c1")
		_, far := net.Pipe()
		defer func() { _ = far.Close() }()
		silent := func(context.Context, string, string) (net.Conn, error) { return far, nil }
		start := time.Now()
		if _, err := NewDialer(c.node("n1"), c.verify, silent).Dial(t.Context(), "n2", ProtoRaft, "n2"); err == nil {
			t.Error("a silent peer was dialled")
		}
		if d := time.Since(start); d != handshakeTimeout {
			t.Errorf("it took %v, want %v", d, handshakeTimeout)
		}
	})
}
