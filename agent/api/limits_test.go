package api

import (
	"testing"

	"connectrpc.com/connect/v2"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func TestOneIdentityHasSoManyCallsOpenAndNoMore(t *testing.T) {
	w := newWorld(t)
	made := make([]string, 2)
	for i := range made {
		out, err := w.root.CreateToken(t.Context(), &skeinv1.CreateTokenRequest{Role: "view"})
		if err != nil {
			t.Fatal(err)
		}
		made[i] = out.GetToken()
	}
	greedy := w.client(w.server.People(), made[0])
	if _, err := greedy.Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"}); err != nil {
		t.Fatal(err)
	}
	c, err := w.server.holder(made[0])
	if err != nil {
		t.Fatal(err)
	}
	for range maxCalls {
		if !w.server.calls.enter(c.Name) {
			t.Fatal("refused below the limit")
		}
	}
	_, err = greedy.Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"})
	refused(t, err, connect.CodeResourceExhausted, exitFailed)
	if _, err := w.client(w.server.People(), made[1]).Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"}); err != nil {
		t.Errorf("another person is refused for it: %v", err)
	}
	for range maxCalls {
		w.server.calls.leave(c.Name)
	}
	if _, err := greedy.Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"}); err != nil {
		t.Errorf("after all have ended: %v", err)
	}
	if n := len(w.server.calls.open); n > 1 {
		t.Errorf("%d identities are remembered", n)
	}
}

func TestAMessageOfTooMuchIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := w.apply(string(make([]byte, maxMessage+1)))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a message above the limit: %v", err)
	}
	_, err = w.apply(webManifest + "#" + string(make([]byte, 5<<20)))
	refused(t, err, connect.CodeInvalidArgument, exitUsage)
	if rows := w.agreed.store.List(object.KindDeployment, "", ""); len(rows) != 0 {
		t.Errorf("%d Deployments were made", len(rows))
	}
}

// FuzzEnroll joins with anything: nobody gets in, and nothing is written.
func FuzzEnroll(f *testing.F) {
	f.Add([]byte("key"), "n2", "192.0.2.2:7373", "skein1-x")
	f.Add([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, "../n1", "0.0.0.0:0", "")
	f.Fuzz(func(t *testing.T, public []byte, name, addr, token string) {
		w := &Server{cfg: Config{Name: "n1", Consensus: &agreement{store: state.New(), leader: "n1", moved: make(chan struct{})}}}
		res, err := w.enroll(t.Context(), &skeinv1.JoinRequest{PublicKey: public, Name: name, Advertise: addr, Token: token})
		if err == nil || res != nil {
			t.Fatalf("%q joined", name)
		}
		if at := w.cfg.Consensus.Store().Index(); at != 0 {
			t.Fatalf("the log is at %d", at)
		}
	})
}
