package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// FuzzJoinAnswer reads what a node says to a newcomer. What is no answer of this
// cluster to this key is refused before anything is kept.
func FuzzJoinAnswer(f *testing.F) {
	ca, err := NewAuthority("c1", time.Now(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := ca.Sign(public, "n2", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	for _, res := range []*skeinv1.JoinResponse{
		{Certificate: cert, Ca: ca.Certificate(), ClusterId: "c1", GossipKeys: [][]byte{make([]byte, 32)}, Peers: []*skeinv1.Peer{{Name: "n1", Addr: "192.0.2.1:7373"}}},
		{Certificate: ca.Certificate(), Ca: cert, ClusterId: "c1"},
		{ClusterId: "c2", Peers: []*skeinv1.Peer{{Name: "../n1", Addr: "x"}}},
	} {
		data, err := proto.Marshal(res)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		res := &skeinv1.JoinResponse{}
		if proto.Unmarshal(data, res) != nil {
			return
		}
		m, err := FromJoin("n2", key, res)
		if err != nil {
			return
		}
		id, err := New(m)
		if err != nil {
			return
		}
		if id.Name() != "n2" || !id.Public().Equal(public) || len(id.GossipKeys()) == 0 {
			t.Fatalf("an answer made this node %q", id.Name())
		}
	})
}
