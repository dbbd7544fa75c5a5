package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// An admission takes everybody in, as the cluster would.
type admission struct {
	skeinv1connect.UnimplementedJoinServiceHandler
	p     *port
	spoil func(*skeinv1.JoinResponse)

	mu    sync.Mutex
	asked []*skeinv1.JoinRequest
	key   crypto.PublicKey // that the last caller held
}

func (a *admission) Join(ctx context.Context, req *skeinv1.JoinRequest) (*skeinv1.JoinResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, req)
	a.key = PeerKey(ctx)
	if req.GetName() == "taken" {
		return nil, connect.Errorf(connect.CodeAlreadyExists, "there is a node of this name")
	}
	key, err := x509.ParsePKIXPublicKey(req.GetPublicKey())
	if err != nil {
		return nil, err
	}
	der, err := a.p.ca.Sign(key, req.GetName(), time.Now())
	if err != nil {
		return nil, err
	}
	res := &skeinv1.JoinResponse{
		Certificate: der, Ca: a.p.ca.Certificate(), ClusterId: a.p.ca.ClusterID(), GossipKeys: [][]byte{make([]byte, 32)},
		Peers: []*skeinv1.Peer{{Name: "n1", Addr: "10.0.0.1:7373"}},
	}
	if a.spoil != nil {
		a.spoil(res)
	}
	return res, nil
}

// admit serves joins on the port.
func (p *port) admit() *admission {
	a := &admission{p: p}
	server := connect.NewServer()
	skeinv1connect.RegisterJoinServiceHandler(server, a)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	s := JoinServer(mux, slog.New(slog.DiscardHandler))
	l := p.mux.Listener(ProtoJoin)
	go func() { _ = s.Serve(l) }()
	p.t.Cleanup(func() { _ = s.Close() })
	return a
}

func (p *port) join(key ed25519.PrivateKey, name, token string) (*skeinv1.JoinResponse, error) {
	return Newcomer{Name: name, Advertise: "10.0.0.2:7373", Key: key, Dial: p.from("10.0.0.2")}.Join(p.t.Context(), "10.0.0.1:7373", token)
}

func TestJoinGivesANodeItsIdentity(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		a := p.admit()
		key := newKey(t)
		token := newToken(t, false, time.Now().Add(time.Hour), p.ca.Certificate()).String()
		res, err := p.join(key, "n2", token)
		if err != nil {
			t.Fatal(err)
		}
		m, err := FromJoin("n2", key, res)
		if err != nil {
			t.Fatal(err)
		}
		id, err := New(m)
		if err != nil {
			t.Fatal(err)
		}
		req := a.asked[0]
		got := []string{req.GetName(), req.GetAdvertise(), req.GetToken()}
		if diff := cmp.Diff([]string{"n2", "10.0.0.2:7373", token}, got); diff != "" {
			t.Errorf("the cluster was asked (-want +got):\n%s", diff)
		}
		if Fingerprint(a.key) != Fingerprint(key.Public()) {
			t.Error("the newcomer did not prove that it holds its key")
		}
		p.enrol("n2", Fingerprint(id.Public()))
		p.echo(ProtoNode)
		c, err := NewDialer(id, p.verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", ProtoNode, "n1")
		if err != nil {
			t.Fatalf("the new node cannot talk: %v", err)
		}
		_ = c.Close()
	})
}

func TestJoinRefuses(t *testing.T) {
	other := func(p *port) []byte { return newCluster(p.t, "c2").ca.Certificate() }
	for name, tt := range map[string]struct {
		token func(p *port) string
		name  string
		spoil func(*skeinv1.JoinResponse)
		want  func(error) bool
		asked int
	}{
		"half a token": {token: func(*port) string { return "skein1-abc" }, want: func(err error) bool { return errors.Is(err, ErrTokenMalformed) }},
		"a person's token": {
			token: func(p *port) string {
				return newToken(p.t, true, time.Now().Add(time.Hour), p.ca.Certificate()).String()
			},
			want: func(err error) bool { return errors.Is(err, ErrTokenKind) },
		},
		"an expired token": {
			token: func(p *port) string {
				return newToken(p.t, false, time.Now().Add(-time.Minute), p.ca.Certificate()).String()
			},
			want: func(err error) bool { var e *ExpiredError; return errors.As(err, &e) },
		},
		"another cluster's token": {
			token: func(p *port) string { return newToken(p.t, false, time.Now().Add(time.Hour), other(p)).String() },
			want:  func(err error) bool { var e *AuthorityError; return errors.As(err, &e) },
		},
		"a name that is no name": {name: "../n2", want: func(err error) bool { return err != nil }},
		"a name that is taken": {
			name: "taken", asked: 1,
			want: func(err error) bool {
				return connect.CodeOf(err) == connect.CodeAlreadyExists && strings.Contains(err.Error(), "there is a node of this name")
			},
		},
		"an answer with another CA": {
			asked: 1, spoil: func(r *skeinv1.JoinResponse) { r.Ca = r.GetCertificate() },
			want: func(err error) bool { return strings.Contains(err.Error(), "another certificate authority") },
		},
		"an answer for another cluster": {
			asked: 1, spoil: func(r *skeinv1.JoinResponse) { r.ClusterId = "c2" },
			want: func(err error) bool { return strings.Contains(err.Error(), "not c2") },
		},
		"an answer without a certificate": {
			asked: 1, spoil: func(r *skeinv1.JoinResponse) { r.Certificate = nil },
			want: func(err error) bool { return strings.Contains(err.Error(), "parse the node's certificate") },
		},
		"an answer with a bad address": {
			asked: 1, spoil: func(r *skeinv1.JoinResponse) { r.GetPeers()[0].Addr = "nowhere" },
			want: func(err error) bool { return strings.Contains(err.Error(), `address of node "n1"`) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *port) {
				a := p.admit()
				a.spoil = tt.spoil
				token := newToken(t, false, time.Now().Add(time.Hour), p.ca.Certificate()).String()
				if tt.token != nil {
					token = tt.token(p)
				}
				if tt.name == "" {
					tt.name = "n2"
				}
				if _, err := p.join(newKey(t), tt.name, token); err == nil || !tt.want(err) {
					t.Errorf("got %v", err)
				}
				if got := len(a.asked); got != tt.asked {
					t.Errorf("the cluster was asked %d times, want %d", got, tt.asked)
				}
			})
		})
	}
}

// An impostor knows the real CA's certificate, which is no secret, but has no
// node's key.
func TestJoinIsNotFooledByACopiedCA(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		impostor := newCluster(t, "c1").node("n1").cert.Load()
		shown := &tls.Certificate{Certificate: [][]byte{impostor.Certificate[0], p.ca.Certificate()}, PrivateKey: impostor.PrivateKey}
		p.id.cert.Store(shown)
		a := p.admit()
		token := newToken(t, false, time.Now().Add(time.Hour), p.ca.Certificate()).String()
		if _, err := p.join(newKey(t), "n2", token); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("got %v, want an unknown authority", err)
		}
		if len(a.asked) != 0 {
			t.Error("the token was shown to an impostor")
		}
	})
}

func TestReattestBringsANodeBack(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		a := p.admit()
		id := p.node("n2")
		time.Sleep(2 * certificateLife) // virtual: the node was off
		fresh, err := p.ca.Sign(p.id.Public(), "n1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.id.SetCertificate(fresh); err != nil {
			t.Fatal(err)
		}
		if err := id.Reattest(t.Context(), "10.0.0.1:7373", "10.0.0.2:7373", p.from("10.0.0.2")); err != nil {
			t.Fatal(err)
		}
		if Fingerprint(a.key) != Fingerprint(id.Public()) || a.asked[0].GetToken() != "" {
			t.Error("the node did not show its key, or showed a token")
		}
		p.echo(ProtoNode)
		c, err := NewDialer(id, p.verify, p.from("10.0.0.2")).Dial(t.Context(), "n1", ProtoNode, "n1")
		if err != nil {
			t.Fatalf("the node cannot talk: %v", err)
		}
		got := make([]byte, 32)
		n, _ := c.Read(got)
		if want := "skein-node is n2"; !bytes.Equal(got[:n], []byte(want)) {
			t.Errorf("got %q, want %q", got[:n], want)
		}
		_ = c.Close()
	})
}
