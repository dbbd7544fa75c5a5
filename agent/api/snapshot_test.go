package api

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"connectrpc.com/connect/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/snapshotfile"
)

func (w *world) snapshot() []byte {
	w.t.Helper()
	stream, err := w.root.SaveSnapshot(w.t.Context(), &skeinv1.SaveSnapshotRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return out.Bytes()
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out.Write(msg.GetChunk())
	}
}

func (w *world) restore(file []byte, first *skeinv1.RestoreSnapshotRequest) (*skeinv1.RestoreSnapshotResponse, error) {
	w.t.Helper()
	stream, err := w.root.RestoreSnapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	first.Chunk = file
	if err := stream.Send(first); err != nil && !errors.Is(err, io.EOF) {
		w.t.Fatal(err)
	}
	return stream.CloseAndReceive()
}

func (w *world) replicas(name string) int32 {
	w.t.Helper()
	row, ok := w.agreed.store.Get(state.Key{Kind: object.KindDeployment, Namespace: "default", Name: name})
	if !ok {
		return -1
	}
	var n int32
	if i := bytes.Index(row.Body, []byte(`"replicas":`)); i >= 0 {
		n = int32(row.Body[i+len(`"replicas":`)] - '0')
	}
	return n
}

// A new cluster has no image, and must know from where to have each.
func TestASnapshotSaysWhatImagesMean(t *testing.T) {
	w := newWorld(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	for ref, registry := range map[string]bool{"web:1": true, "pushed:1": false} {
		spec := object.ImageSpec{
			Reference: ref, Digest: digest, Size: 7, Registry: registry, Layers: []object.ImageLayer{{Digest: digest, Size: 5}},
		}
		if err := w.server.Name(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		other := newWorld(t)
		if _, err := other.restore(w.snapshot(), &skeinv1.RestoreSnapshotRequest{}); err != nil {
			t.Fatal(err)
		}
		row, ok := other.agreed.store.Get(state.Key{Kind: object.KindImage, Name: object.ImageName(ref)})
		if !ok {
			t.Fatalf("%s is not there", ref)
		}
		img, err := object.Decode[object.Image](row)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, img.Spec); diff != "" {
			t.Errorf("%s (-before +restored):\n%s", ref, diff)
		}
	}
}

func TestASnapshotBringsBackWhatPeopleAskedFor(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(webManifest); err != nil {
		t.Fatal(err)
	}
	file := w.snapshot()
	for _, manifest := range []string{
		strings.Replace(webManifest, "replicas: 2", "replicas: 5", 1),
		strings.ReplaceAll(webManifest, "web", "later"),
	} {
		if _, err := w.apply(manifest); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.restore(file, &skeinv1.RestoreSnapshotRequest{DryRun: true, Prune: true})
	if err != nil || w.replicas("web") != 5 || w.replicas("later") != 2 {
		t.Fatalf("a dry run has changed something: %v, %v", out, err)
	}
	if out, err = w.restore(file, &skeinv1.RestoreSnapshotRequest{}); err != nil {
		t.Fatal(err)
	}
	if w.replicas("web") != 2 || w.replicas("later") != 2 || len(out.GetKept()) != 1 || out.GetKept()[0].GetName() != "later" {
		t.Errorf("web has %d replicas, want 2; kept %v, want later", w.replicas("web"), out.GetKept())
	}
	if _, err = w.restore(file, &skeinv1.RestoreSnapshotRequest{Prune: true}); err != nil || w.replicas("later") != -1 {
		t.Errorf("what is not in the snapshot was not pruned (%v)", err)
	}

	// Another cluster, which has none of it.
	other := newWorld(t)
	if _, err := other.restore(file, &skeinv1.RestoreSnapshotRequest{}); err != nil || other.replicas("web") != 2 {
		t.Errorf("in a new cluster web has %d replicas (%v), want 2", other.replicas("web"), err)
	}
}

func TestADamagedSnapshotChangesNothing(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(webManifest); err != nil {
		t.Fatal(err)
	}
	file := w.snapshot()
	if _, err := w.apply(strings.Replace(webManifest, "replicas: 2", "replicas: 5", 1)); err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(file)
	altered[len(altered)/2] ^= 1
	for what, bad := range map[string][]byte{"cut": file[:len(file)-20], "altered": altered, "another file": []byte("hello")} {
		_, err := w.restore(bad, &skeinv1.RestoreSnapshotRequest{})
		refused(t, err, connect.CodeInvalidArgument, exitUsage)
		if w.replicas("web") != 5 {
			t.Fatalf("%s: something was changed", what)
		}
	}
}

// The file is searched, packed and unpacked, for what nobody may find in it.
func TestASnapshotHoldsNoKeyMaterial(t *testing.T) {
	w := newWorld(t)
	canaries := map[string][]byte{}
	canary := func(name string) []byte {
		b := []byte("canary-" + name + "-" + rand.Text())[:32]
		canaries[name] = b
		return b
	}
	at := metav1.Time{Time: time.Now()}
	w.put(&object.Keyring{ObjectMeta: metav1.ObjectMeta{Name: object.KeyringName, UID: "k"}, Spec: object.KeyringSpec{Keys: []object.SealKey{{Key: canary("gossip"), Created: at}}}})
	w.put(&object.Authority{ObjectMeta: metav1.ObjectMeta{Name: object.AuthorityName, UID: "a"}, Spec: object.AuthoritySpec{Certificate: []byte("c"), SealedKey: canary("sealed")}})
	issued, err := w.root.CreateToken(t.Context(), &skeinv1.CreateTokenRequest{Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	canaries["token"] = []byte(issued.GetToken())
	rows := w.agreed.store.List(object.KindToken, "", "")
	token, err := object.Decode[object.Token](rows[0])
	if err != nil {
		t.Fatal(err)
	}
	canaries["hash"] = []byte(token.Spec.Hash)
	file := w.snapshot()
	text := bytes.Clone(file)
	header, err := snapshotfile.Read(bytes.NewReader(file), func(o *logv1.Object) error {
		text = append(append(text, o.String()...), o.GetBody()...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range canaries {
		for how, form := range forms(secret) {
			if bytes.Contains(text, form) {
				t.Errorf("the file holds the %s (%s)", name, how)
			}
		}
	}
	if header.GetLeftOut()[object.KindToken] != 1 || header.GetLeftOut()[object.KindKeyring] != 1 || header.GetLeftOut()[object.KindAuthority] != 1 {
		t.Errorf("left out %v, want one of each", header.GetLeftOut())
	}
}

func TestASnapshotTakesAnAdministrator(t *testing.T) {
	w := newWorld(t)
	issued, err := w.root.CreateToken(t.Context(), &skeinv1.CreateTokenRequest{Role: "edit"})
	if err != nil {
		t.Fatal(err)
	}
	editor := w.client(w.server.People(), issued.GetToken())
	stream, err := editor.SaveSnapshot(t.Context(), &skeinv1.SaveSnapshotRequest{})
	if err == nil {
		_, err = stream.Receive()
	}
	refused(t, err, connect.CodePermissionDenied, exitDenied)
}

// forms are the ways in which bytes may lie in a file.
func forms(b []byte) map[string][]byte {
	return map[string][]byte{
		"plain": b, "base64": []byte(base64.StdEncoding.EncodeToString(b)), "hex": []byte(hex.EncodeToString(b)),
	}
}
