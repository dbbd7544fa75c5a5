package api

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// namingPod is a Pod on a node that names Secrets and ConfigMaps in every way.
func namingPod(name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "uid"}}
	p.Spec = corev1.PodSpec{
		NodeName:         node,
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		Volumes: []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}},
			{Name: "b", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected"}}},
			}}}},
		},
		Containers: []corev1.Container{{
			Name:    "main",
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "all"}}}},
			Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "one"}, Key: "k",
			}}}},
		}},
		InitContainers: []corev1.Container{{
			Name: "init", EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
		}},
	}
	return p
}

// A listener hears what a node is told, and gives up when it has heard enough.
type listener struct {
	have    map[string]string
	said    int
	enough  func(have map[string]string) bool
	stopped error
}

var errEnough = errors.New("enough")

func (l *listener) hear(msg *skeinv1.SourcesResponse) error {
	if src := msg.GetPut(); src != nil {
		l.said++
		l.have[src.GetKey().GetKind()+"/"+src.GetKey().GetName()] = string(src.GetData()["k"])
	}
	if key := msg.GetDelete(); key != nil {
		delete(l.have, key.GetKind()+"/"+key.GetName())
	}
	if msg.GetSynced() && l.enough(l.have) {
		return errEnough
	}
	return nil
}

func (w *world) told(node string, enough func(map[string]string) bool) *listener {
	w.t.Helper()
	l := &listener{have: map[string]string{}, enough: enough}
	if l.stopped = w.server.SourcesOf(w.t.Context(), node, l.hear); !errors.Is(l.stopped, errEnough) {
		w.t.Fatal(l.stopped)
	}
	return l
}

func names(have map[string]string) string {
	var out []string
	for k := range have {
		out = append(out, k)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestANodeIsToldWhatItsOwnPodsNameAndNothingElse(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"pull", "mounted", "projected", "all", "one", "other"} {
		if _, err := w.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData: {k: %s}\n", name, canary+name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {k: v}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: apart}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: mounted, namespace: apart}\nstringData: {k: apart}\n"); err != nil {
		t.Fatal(err)
	}
	w.put(namingPod("web", "n1"))
	atOnce := func(map[string]string) bool { return true }
	got := w.told("n1", atOnce)
	if want := "ConfigMap/conf Secret/all Secret/mounted Secret/one Secret/projected Secret/pull"; names(got.have) != want || got.have["Secret/mounted"] != canary+"mounted" {
		t.Errorf("n1 is told %v, want %s", got.have, want)
	}
	for _, liar := range []string{"n2", "", "n1 ", "n"} { // whatever it says, its certificate names it
		if got := w.told(liar, atOnce); len(got.have) > 0 || got.said > 0 {
			t.Errorf("%q, which runs no Pod, is told %v", liar, got.have)
		}
	}
	moved := false
	last := w.told("n1", func(have map[string]string) bool {
		if !moved {
			moved = true
			go w.move(w.t.Context()) // it comes while the node listens
			return false
		}
		return len(have) == 0
	})
	if len(last.have) > 0 {
		t.Errorf("n1, whose Pod has moved, holds %v", last.have)
	}
	if got := w.told("n2", atOnce); len(got.have) != 6 {
		t.Errorf("n2, which has the Pod now, is told %v", got.have)
	}
}

// move has the Pod run on another node.
func (w *world) move(context.Context) { w.put(namingPod("web", "n2")) }

func TestASourceThatCannotBeOpenedHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: all}\nstringData: {k: v}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {k: v}\n"); err != nil {
		t.Fatal(err)
	}
	w.put(namingPod("web", "n1"))
	w.server.cfg.Sealer = nil
	if got := w.told("n1", func(map[string]string) bool { return true }); names(got.have) != "ConfigMap/conf" {
		t.Errorf("told %v", got.have)
	}
}

// The kinds that a follow stream gives are a list of their own: Secrets are none.
func TestNoNodeFollowsSecrets(t *testing.T) {
	for _, kind := range []string{object.KindSecret, object.KindConfigMap} {
		for _, index := range []string{"", object.NodeIndex("n1")} {
			if err := mayFollow("n1", &skeinv1.Selector{Kind: kind, Index: index}); err == nil {
				t.Errorf("n1 may follow %s %q", kind, index)
			}
		}
	}
}

// What nodes are told is behind no door that people reach.
func TestPeopleReachNoSources(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w.server.Socket())
	defer srv.Close()
	stream, err := skeinv1connect.NewSourceServiceClient(connect.NewClient(connecthttp.NewTransport(srv.Client(), srv.URL))).Sources(t.Context(), &skeinv1.SourcesRequest{})
	if err := first(stream, err); err == nil || connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("root, by the local socket: %v, want unimplemented", err)
	}
}
