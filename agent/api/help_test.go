package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// agreement is a cluster of one voter whose log is the store itself.
type agreement struct {
	store  *state.Store
	mu     sync.Mutex
	leader string // n1 is this node
	alone  bool   // no quorum confirms it
	moved  chan struct{}
}

func (a *agreement) Store() *state.Store { return a.store }

func (a *agreement) Commit(_ context.Context, txn *logv1.Txn) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leader != "n1" {
		return 0, consensus.ErrNotLeader
	}
	index := a.store.Index() + 1
	return index, a.store.Apply(index, txn)
}

func (a *agreement) lead(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leader = name
	close(a.moved)
	a.moved = make(chan struct{})
}

func (a *agreement) Leader() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leader
}

func (a *agreement) LeaderChanged() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.moved
}

func (a *agreement) CaughtUp() bool { return true }

func (a *agreement) IsLeader() bool { return a.Leader() == "n1" }

func (a *agreement) Confirm(context.Context) error {
	if a.IsLeader() && !a.alone {
		return nil
	}
	return consensus.ErrNotLeader
}

func (a *agreement) Contact() time.Time { return time.Now().Add(-1500 * time.Millisecond) }

func (a *agreement) Members() ([]consensus.Member, uint64, error) {
	return []consensus.Member{{Name: "n1", Voter: true}}, 1, nil
}
func (a *agreement) Remove(context.Context, string, uint64) error     { return nil }
func (a *agreement) TransferLeadership(context.Context, string) error { return nil }

// ears are the leader's duties, which only listen.
type ears struct {
	mu     sync.Mutex
	events []*corev1.Event
	heard  []string
}

func (e *ears) Acked(string, uint64)                                               {}
func (e *ears) Released(context.Context, state.Key, string) ([]string, error)      { return nil, nil }
func (e *ears) Suspect(string, *skeinv1.SuspectRequest)                            {}
func (e *ears) Lease(_ context.Context, _ string, pods []string) ([]string, error) { return pods, nil }
func (e *ears) StreamOpened(string)                                                {}
func (e *ears) StreamClosed(string)                                                {}
func (e *ears) Heard(node string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, node)
}

func (e *ears) Tell(ev *corev1.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, ev)
}

// alone are the peers of a node that has none.
type alone struct{}

func (alone) Client(string) skeinv1connect.PeerServiceClient { return nil }
func (alone) Inside(string) skeinv1connect.InsidePeerServiceClient {
	return nil
}
func (alone) Layers(string) skeinv1connect.LayerServiceClient { return nil }

func (alone) Images(string) skeinv1connect.ImagePeerServiceClient { return nil }
func (alone) Transport() http.RoundTripper                        { return http.DefaultTransport }
func (alone) Addr(string) (netip.AddrPort, bool)                  { return netip.AddrPort{}, false }
func (alone) Votes(string) bool                                   { return false }
func (alone) Health() map[string]Health                           { return map[string]Health{} }
func (alone) Probe(context.Context, string, netip.AddrPort, uint64) skeinv1.ProbeResult {
	return skeinv1.ProbeResult_PROBE_RESULT_SILENT
}

// vault holds a CA in the clear.
type vault struct{ ca *identity.Authority }

func (vault) Accept([]byte) error                                      { return nil }
func (v vault) Authority(context.Context) (*identity.Authority, error) { return v.ca, nil }

var sealingKey = bytes.Repeat([]byte{7}, identity.SealingKeySize)

func (vault) Seal(secret []byte, purpose string) ([]byte, error) {
	return identity.Seal(sealingKey, secret, purpose, rand.Reader)
}

func (vault) Unseal(sealed []byte, purpose string) ([]byte, error) {
	return identity.Unseal(sealingKey, sealed, purpose)
}

// A world is one server and what it stands on.
type world struct {
	t      *testing.T
	agreed *agreement
	ears   *ears
	shelf  *shelf
	server *Server
	ca     *identity.Authority
	root   skeinv1connect.ClusterServiceClient // by the local socket
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ca, err := identity.NewAuthority("c1", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, ears: &ears{}, shelf: &shelf{}, agreed: &agreement{store: state.New(), leader: "n1", moved: make(chan struct{})}}
	w.server = New(Config{
		Name: "n1", Version: "test", Versions: &skeinv1.VersionResponse{Version: "test"},
		Consensus: w.agreed, Duties: w.ears, Peers: alone{}, Holdings: w.shelf, Voting: vault{ca}, Sealer: vault{},
		UID: uuid.NewString, Random: rand.Reader, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Cluster: Cluster{
			ID: "c1", CA: ca.Certificate(), GossipKeys: func() [][]byte { return [][]byte{make([]byte, 32)} },
			Advertise: func() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:7373") },
		},
	})
	w.root = w.client(w.server.Socket(), "")
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "ns"}})
	w.put(NewNode("n1", "f1", netip.MustParseAddrPort("192.0.2.1:7373"), "node1", time.Now()))
	return w
}

// client calls a handler, with a bearer token if there is one.
func (w *world) client(h http.Handler, token string) skeinv1connect.ClusterServiceClient {
	return skeinv1connect.NewClusterServiceClient(w.dial(h, token))
}

func (w *world) dial(h http.Handler, token string) *connect.Client {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true) // as nodes speak; streams both ways need it
	srv.Start()
	w.t.Cleanup(srv.Close)
	base := &http.Transport{Protocols: srv.Config.Protocols}
	w.t.Cleanup(base.CloseIdleConnections)
	transport := &bearerTransport{token: token, base: base}
	return connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: transport}, srv.URL))
}

type bearerTransport struct {
	token string
	base  http.RoundTripper
}

func (b *bearerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.base.RoundTrip(r)
}

// put writes an object, whatever is there.
func (w *world) put(obj object.Object) {
	w.t.Helper()
	op, err := object.Put(obj, object.AnyVersion)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.agreed.Commit(w.t.Context(), &logv1.Txn{Ops: []*logv1.Op{op}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) apply(manifest string) (*skeinv1.ApplyResponse, error) {
	return w.root.Apply(w.t.Context(), &skeinv1.ApplyRequest{Manifest: []byte(manifest), Filename: "t.yaml"})
}

// refused checks an error as a client reads it.
func refused(t *testing.T, err error, code connect.Code, exit int32) *skeinv1.ErrorInfo {
	t.Helper()
	if connect.CodeOf(err) != code {
		t.Fatalf("got %v, want code %s", err, code)
	}
	var e *connect.Error
	if !errors.As(err, &e) || len(e.Details()) != 1 {
		t.Fatalf("%v carries no explanation", err)
	}
	msg, uerr := connectproto.UnmarshalErrorDetail(e.Details()[0])
	if uerr != nil {
		t.Fatal(uerr)
	}
	info, ok := msg.(*skeinv1.ErrorInfo)
	if !ok || info.GetExitCode() != exit {
		t.Fatalf("%v: exit code %d, want %d", err, info.GetExitCode(), exit)
	}
	return info
}
