package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// memberOf makes a node of a new cluster, and the cluster's CA.
func memberOf(t *testing.T) (*Identity, *Authority) {
	t.Helper()
	ca, err := NewAuthority("c-"+rand.Text(), time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(pub, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := New(Material{Name: "n1", ClusterID: ca.ClusterID(), Key: key, Certificate: cert, CA: ca.Certificate()})
	if err != nil {
		t.Fatal(err)
	}
	return id, ca
}

func TestAnEpochIsBelievedOnTheWordOfTheCAAlone(t *testing.T) {
	id, ca := memberOf(t)
	_, stranger := memberOf(t)
	first, err := BeginEpoch(ca, Epoch{}, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got, err := id.CheckEpoch(first.Proto())
	if err != nil || got.Generation != 1 || got.Lineage != first.Lineage || got.Node != "n1" {
		t.Errorf("got %+v, %v, want %+v", got, err, first)
	}
	second, err := BeginEpoch(ca, first, "n2", time.Now())
	if err != nil || !second.Newer(first) || first.Newer(second) || first.Newer(first) {
		t.Errorf("%+v does not follow %+v (%v)", second, first, err)
	}
	forged, err := BeginEpoch(stranger, first, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := id.CheckEpoch(forged.Proto()); err == nil {
		t.Error("an epoch signed by another cluster's CA is believed")
	}
	altered := first.Proto()
	altered.Epoch = second.Proto().GetEpoch()
	if _, err := id.CheckEpoch(altered); err == nil {
		t.Error("an epoch with the signature of another is believed")
	}
	if _, err := id.CheckEpoch(&skeinv1.SignedEpoch{}); err == nil {
		t.Error("an empty epoch is believed")
	}
}

func TestAnEpochIsKept(t *testing.T) {
	id, ca := memberOf(t)
	path := filepath.Join(t.TempDir(), "cluster-epoch")
	if got, err := id.LoadEpoch(path); err != nil || got.Generation != 0 {
		t.Errorf("no file: got %+v, %v, want the first epoch", got, err)
	}
	want, err := BeginEpoch(ca, Epoch{Generation: 4}, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveEpoch(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := id.LoadEpoch(path); err != nil || got.Lineage != want.Lineage || !got.At.Equal(want.At) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestNodesOfDifferentEpochsDoNotAgreeOnAProtocol(t *testing.T) {
	const one, other = "@1.AAAA", "@1.BBBB"
	for _, proto := range []string{ProtoRaft, ProtoGossip, ProtoNode} {
		for _, tt := range []struct {
			offered, own string
			agree        bool
		}{
			{proto, "", true},
			{proto + one, one, true},
			{proto, one, false},
			{proto + one, "", false},
			{proto + one, other, false},
			{proto + one + "x", one, false},
		} {
			got, alpn, err := choose([]string{tt.offered}, tt.own)
			if agree := err == nil; agree != tt.agree || agree && (got != proto || alpn != tt.offered) {
				t.Errorf("offered %s to epoch %q: got %q, %q, %v, want agreement: %v", tt.offered, tt.own, got, alpn, err, tt.agree)
			}
		}
	}
	if got, _, err := choose([]string{ProtoJoin}, one); err != nil || got != ProtoJoin {
		t.Errorf("to ask for the epoch and to join is refused in a later one: %q, %v", got, err)
	}
}
