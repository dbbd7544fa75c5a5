package api

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// voteless is the agreement as a node sees it that takes no part in it.
type voteless struct{ *agreement }

func (voteless) Members() ([]consensus.Member, uint64, error) { return nil, 0, nil }

// kept is a copy that was last up to date at a time.
type kept struct {
	store *state.Store
	at    time.Time
}

func (k kept) Store() *state.Store { return k.store }
func (k kept) Contact() time.Time  { return k.at }

// outsider makes the world's node one without a vote that reaches nobody, and
// whose copy has its own Node and one Pod.
func outsider(t *testing.T, at time.Time) *world {
	w := newWorld(t)
	w.agreed.lead("")
	store := state.New()
	txn := &logv1.Txn{}
	for _, obj := range []object.Object{
		NewNode("n1", "f1", netip.MustParseAddrPort("192.0.2.1:7373"), "node1", time.Now()),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: "default", UID: "p1"}, Spec: corev1.PodSpec{NodeName: "n1"}},
	} {
		op, err := object.Put(obj, object.AnyVersion)
		if err != nil {
			t.Fatal(err)
		}
		txn.Ops = append(txn.Ops, op)
	}
	if err := store.Apply(1, txn); err != nil {
		t.Fatal(err)
	}
	w.server.cfg.Consensus = voteless{w.agreed}
	w.server.cfg.Copy = kept{store, at}
	w.root = w.client(w.server.Socket(), "")
	return w
}

func TestANodeWithoutAVoteAnswersFromItsCopyWhenNoVoterIsReached(t *testing.T) {
	w := outsider(t, time.Now().Add(-90*time.Second))
	out, err := w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"})
	if err != nil {
		t.Fatal(err)
	}
	if age := out.GetAgeMs(); age < 90_000 || age > 120_000 || len(out.GetTable().GetRows()) != 1 {
		t.Errorf("age %d ms and %d rows, want the one Pod of this node and 90 s", age, len(out.GetTable().GetRows()))
	}
	if !strings.Contains(out.GetNote(), "only those that run here") {
		t.Errorf("note %q does not say that the list is not whole", out.GetNote())
	}
	_, err = w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "deployments"})
	refused(t, err, connect.CodeUnavailable, exitNoLeader)
	_, err = w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "pod", Name: "elsewhere"})
	refused(t, err, connect.CodeUnavailable, exitNoLeader)
	_, err = w.apply(webManifest)
	refused(t, err, connect.CodeUnavailable, exitNoLeader)

	status, err := w.root.Status(t.Context(), &skeinv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no leader", "skeind recover", "the others are not known"} {
		if !strings.Contains(status.GetText(), want) {
			t.Errorf("status does not say %q:\n%s", want, status.GetText())
		}
	}
}

func TestAnAnswerOfUnknownAgeSaysSo(t *testing.T) {
	w := outsider(t, time.Time{})
	out, err := w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "nodes"})
	if err != nil {
		t.Fatal(err)
	}
	if out.GetAgeMs() != -1 {
		t.Errorf("age %d ms, want -1: nobody was heard since the start", out.GetAgeMs())
	}
}

func TestStatusTellsWhatIsHeldBackSinceWhenAndWhy(t *testing.T) {
	w := newWorld(t)
	since := time.Date(2026, 1, 2, 10, 0, 0, 0, time.UTC)
	w.server.cfg.Brakes = func() []Brake {
		return []Brake{{Name: "moves", Since: since, Until: since.Add(time.Minute), Open: true, Why: "40 Pods of lost nodes wait"}}
	}
	out, err := w.root.Status(t.Context(), &skeinv1.StatusRequest{Json: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := "Brake:     40 Pods of lost nodes wait (since 10:00:00, until about 10:01:00)"; !strings.Contains(out.GetText(), want) {
		t.Errorf("status does not have the line %q:\n%s", want, out.GetText())
	}
	if !strings.Contains(string(out.GetJson()), `"name": "moves"`) {
		t.Errorf("nor do programs read it:\n%s", out.GetJson())
	}
}

func TestStatusTellsOfADiskThatCouldNotWriteItDown(t *testing.T) {
	w := newWorld(t)
	w.server.cfg.Pressure = func() map[string]string {
		return map[string]string{string(object.NodeDiskReadOnly): "the disk of /data is read-only"}
	}
	out, err := w.root.Status(t.Context(), &skeinv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "node n1 takes no new Pods (DiskReadOnly): the disk of /data is read-only"; !strings.Contains(out.GetText(), want) {
		t.Errorf("status does not say %q:\n%s", want, out.GetText())
	}
}
