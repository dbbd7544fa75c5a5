package identity

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

func TestMuxDoesNotWaitForSlowHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.echo(ProtoPeople)
		var slow []net.Conn
		for range 5 {
			c, err := p.from("10.0.0.8")(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			slow = append(slow, c)
		}
		start := time.Now()
		if got, err := p.hear(&tls.Config{RootCAs: rootsOf(p.id)}); got == "" {
			t.Errorf("a client behind slow ones was refused: %v", err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("it waited %v", d)
		}
		_, err := slow[0].Read(make([]byte, 1))
		if d := time.Since(start); err == nil || d != handshakeTimeout {
			t.Errorf("a slow client was cut after %v with %v, want %v", d, err, handshakeTimeout)
		}
	})
}

func TestMuxBoundsHandshakesOfOneHost(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.echo(ProtoPeople)
		var flood []net.Conn
		defer func() {
			for _, c := range flood {
				_ = c.Close()
			}
		}()
		for range maxHandshakesHost + 10 {
			c, err := p.from("10.0.0.8")(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			flood = append(flood, c)
		}
		synctest.Wait()
		open := 0
		for _, c := range flood {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			var timeout net.Error
			if _, err := c.Read(make([]byte, 1)); errors.As(err, &timeout) && timeout.Timeout() {
				open++
			}
		}
		if open != maxHandshakesHost {
			t.Errorf("%d handshakes of one host are open, want %d", open, maxHandshakesHost)
		}
		if got, err := p.hear(&tls.Config{RootCAs: rootsOf(p.id)}); got == "" {
			t.Errorf("another host was refused: %v", err)
		}
	})
}

func TestMuxLimitsJoinsOfOneHost(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.echo(ProtoJoin)
		join := func() bool {
			got, _ := p.hear(&tls.Config{RootCAs: rootsOf(p.id), NextProtos: []string{ProtoJoin}})
			return got != ""
		}
		served := 0
		for range 3 * joinBurst {
			if join() {
				served++
			}
		}
		if served != joinBurst {
			t.Errorf("%d of %d joins at once were served, want %d", served, 3*joinBurst, joinBurst)
		}
		time.Sleep(time.Second)
		if !join() {
			t.Error("a second later, a join was refused")
		}
	})
}

func TestBrakeForgetsHosts(t *testing.T) {
	b := brake{hosts: map[string]*rate.Limiter{}}
	now := time.Now()
	for i := range 3 * maxJoinHosts {
		b.allow(string(rune(i)), now)
		if len(b.hosts) > maxJoinHosts {
			t.Fatalf("%d hosts are remembered, want at most %d", len(b.hosts), maxJoinHosts)
		}
	}
}

func TestMuxCutsConnectionsThatNobodyAccepts(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.mux.Listener(ProtoRaft)
		c, err := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", ProtoRaft, "n1")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(start) != handshakeTimeout {
			t.Errorf("cut after %v with %v", time.Since(start), err)
		}
		_ = c.Close()
	})
}

func TestMuxBoundsTheConnectionsOfStrangers(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.mux.guests = newGate(5, 3)
		l := p.mux.Listener(ProtoPeople)
		accepted := make(chan net.Conn, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c
			}
		}()
		dial := func(host string) (net.Conn, error) {
			raw, err := p.from(host)(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(raw, &tls.Config{RootCAs: rootsOf(p.id), ServerName: ServerName})
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = raw.Close() }() // the other end counts until it is closed there
			synctest.Wait()
			select {
			case theirs := <-accepted:
				return theirs, nil
			default:
				return nil, errFull
			}
		}
		var open []net.Conn
		for i, try := range []struct {
			host string
			want bool
		}{{"10.0.0.1", true}, {"10.0.0.1", true}, {"10.0.0.1", true}, {"10.0.0.1", false}, {"10.0.0.2", true}, {"10.0.0.3", true}, {"10.0.0.4", false}} {
			c, err := dial(try.host)
			if (err == nil) != try.want {
				t.Fatalf("connection %d, from %s: %v, want it served: %v", i, try.host, err, try.want)
			}
			if c != nil {
				open = append(open, c)
			}
		}
		_ = open[0].Close()
		if c, err := dial("10.0.0.1"); err != nil {
			t.Errorf("after one was closed, the next was refused: %v", err)
		} else {
			open = append(open, c)
		}
		for _, c := range open {
			_ = c.Close()
		}
		if p.mux.guests.total != 0 || len(p.mux.guests.hosts) != 0 {
			t.Errorf("%d are counted after all were closed", p.mux.guests.total)
		}
		// A node is no stranger: however many those are, it gets in.
		p.mux.guests = newGate(0, 0)
		p.echo(ProtoNode)
		c, err := NewDialer(p.node("n2"), p.verify, p.from("10.0.0.1")).Dial(t.Context(), "n1", ProtoNode, "n1")
		if err != nil {
			t.Fatalf("a node was refused: %v", err)
		}
		_ = c.Close()
	})
}
