package object

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/skein-dev/skein/consensus/state"
)

func TestEncodeThenDecodeGivesTheSame(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.Name, func(t *testing.T) {
			obj := k.fresh()
			obj.SetName("x")
			obj.SetUID("u")
			obj.SetResourceVersion("99")
			if k.Namespaced {
				obj.SetNamespace("ns")
			}
			o, err := Encode(obj)
			if err != nil {
				t.Fatal(err)
			}
			if obj.GetResourceVersion() != "99" {
				t.Error("Encode changed its argument")
			}
			row := state.RowOf(o)
			row.Version = 7
			got, err := DecodeAny(row)
			if err != nil {
				t.Fatal(err)
			}
			if got.GetResourceVersion() != "7" || Version(got) != 7 || KeyOf(got) != row.Key || row.Key.Kind != k.Name {
				t.Errorf("got version %q of %s", got.GetResourceVersion(), KeyOf(got))
			}
			again, err := Encode(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(o.GetBody()), string(again.GetBody())); diff != "" {
				t.Errorf("body (-first +second):\n%s", diff)
			}
			if gvk := got.GetObjectKind().GroupVersionKind(); gvk.Kind != k.Name || gvk.GroupVersion().String() != k.APIVersion {
				t.Errorf("got %s", gvk)
			}
		})
	}
}

func TestEncodeRefusesWhatCannotBeStored(t *testing.T) {
	tests := map[string]Object{
		"no name":              &corev1.Node{ObjectMeta: metav1.ObjectMeta{UID: "u"}},
		"no uid":               &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
		"no namespace":         &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u"}},
		"a namespace too much": &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", Namespace: "x"}},
		"a kind not stored":    &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", Namespace: "x"}},
	}
	for name, obj := range tests {
		if _, err := Put(obj, 0); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	pod := &state.Row{Key: state.Key{Kind: KindPod, Namespace: "a", Name: "b"}, Body: []byte(`{}`)}
	if _, err := Decode[corev1.Node](pod); err == nil {
		t.Error("a Pod was read as a Node")
	}
	if _, err := Decode[string](pod); err == nil {
		t.Error("a Pod was read as a string")
	}
	if _, err := DecodeAny(&state.Row{Key: state.Key{Kind: "Later"}}); err == nil {
		t.Error("an unknown kind was read")
	}
	if _, err := Decode[corev1.Pod](&state.Row{Key: pod.Key, Body: []byte(`{"spec":7}`)}); err == nil {
		t.Error("a broken body was read")
	}
}

func TestOperationsSayWhatTheyAreBasedOn(t *testing.T) {
	key := state.Key{Kind: KindPod, Namespace: "a", Name: "b"}
	if op := Delete(key, 5); op.GetExpect() != 5 || !op.GetDelete() || op.GetKey().GetName() != "b" {
		t.Errorf("got %v", op)
	}
	if op := Check(key, 0); op.Expect == nil || op.GetExpect() != 0 || !op.GetCheck() {
		t.Errorf("got %v", op)
	}
	if op := Delete(key, AnyVersion); op.Expect != nil {
		t.Errorf("got %v", op)
	}
	op, err := Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "a", UID: "u"}}, 3)
	if err != nil || op.GetExpect() != 3 || op.GetPut().GetUid() != "u" || op.GetPut().GetKey().GetKind() != KindPod {
		t.Errorf("got %v, %v", op, err)
	}
}

func TestIndexStrings(t *testing.T) {
	owner := &Revision{ObjectMeta: metav1.ObjectMeta{Name: "web-x", UID: "rev-uid"}}
	meta := metav1.ObjectMeta{
		Name: "x", UID: "u", Namespace: "ns", Labels: map[string]string{"b": "2", "a": ""},
		OwnerReferences: []metav1.OwnerReference{Controls(owner), {Kind: "Other", UID: "not-a-controller"}},
	}
	bare := metav1.ObjectMeta{Name: "x", UID: "u", Labels: map[string]string{"a": "b"}}
	tests := map[string]struct {
		obj  Object
		want []string
	}{
		"a Pod on a node": {
			&corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "n1"}},
			[]string{"node=n1", "owner=rev-uid", "label:a=", "label:b=2"},
		},
		"an unbound Pod": {&corev1.Pod{ObjectMeta: meta}, []string{"node=", "owner=rev-uid", "label:a=", "label:b=2"}},
		"a Deployment":   {&appsv1.Deployment{ObjectMeta: meta}, []string{"owner=rev-uid", "label:a=", "label:b=2"}},
		"an Image":       {&Image{ObjectMeta: bare, Spec: ImageSpec{Digest: "sha256:0"}}, []string{"digest=sha256:0", "label:a=b"}},
		"an Event":       {&corev1.Event{ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{UID: "pod"}}, []string{"about=pod"}},
		"a Node":         {&corev1.Node{ObjectMeta: bare}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, indexOf(tt.obj)); diff != "" {
				t.Errorf("index (-want +got):\n%s", diff)
			}
			labels := Labels(rowOf(t, tt.obj, 1))
			if diff := cmp.Diff(tt.obj.GetLabels(), labels); diff != "" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	for _, word := range []string{"pod", "Pods", "PO", "Pod"} {
		if k, ok := Lookup(word); !ok || k.Name != KindPod {
			t.Errorf("%s: got %s, %v", word, k.Name, ok)
		}
	}
	for word, want := range map[string]string{
		"deploy": KindDeployment, "deployments.apps": KindDeployment, "rev": KindRevision, "no": KindNode,
		"svc": KindService, "netpol": KindNetworkPolicy, "networkpolicies.networking.k8s.io": KindNetworkPolicy, "endpointslice": KindEndpointSlice,
		"ns": KindNamespace, "ev": KindEvent, "img": KindImage, "images": KindImage,
	} {
		if k, ok := Lookup(word); !ok || k.Name != want {
			t.Errorf("%s: got %s, %v", word, k.Name, ok)
		}
	}
	for _, word := range []string{"", "token", "tokens", "keyring", "authority", "selection", "selections", "ds", "pods.apps"} {
		if k, ok := Lookup(word); ok {
			t.Errorf("%s: got %s", word, k.Name)
		}
	}
	for word, want := range map[string]string{"pds": "pods", "deploymnet": "deployments", "nods": "nodes", "zebra": "", "tokens": "", strings.Repeat("x", 1000): ""} {
		if got := Nearest(word); got != want {
			t.Errorf("nearest to %.20s: got %q, want %q", word, got, want)
		}
	}
}

func TestTemplateHash(t *testing.T) {
	template := parseOne(t, web).Object.(*appsv1.Deployment).Spec.Template
	hash := TemplateHash(&template)
	// This very value is in the names of stored Revisions: should it change,
	// every Deployment would be rolled out again by an upgrade.
	if want := "f4srkgl2h5"; hash != want {
		t.Errorf("got %s, want %s", hash, want)
	}
	marked := *template.DeepCopy()
	marked.Labels[LabelTemplateHash] = hash
	if got := TemplateHash(&marked); got != hash {
		t.Errorf("with its own label: got %s, want %s", got, hash)
	}
	if marked.Labels[LabelTemplateHash] != hash {
		t.Error("the template was modified")
	}
	marked.Spec.Containers[0].Image = "other"
	if got := TemplateHash(&marked); got == hash {
		t.Error("another image has the same hash")
	}
}

func TestNames(t *testing.T) {
	if got := PodName(RevisionName("web", "abc"), 0); got != "web-abc-bbbbb" {
		t.Errorf("got %s", got)
	}
	if got := PodName("w", math.MaxUint64); len(got) != len("w-xxxxx") {
		t.Errorf("got %s", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		ref := rapid.String().Draw(t, "reference")
		name := ImageName(ref)
		var p problems
		p.metadata(&Image{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if len(p.list) > 0 {
			t.Fatalf("%q: %v", name, p.list)
		}
		if other := ref + "x"; ImageName(other) == name {
			t.Fatalf("%q and %q are both %q", ref, other, name)
		}
	})
	for name, ok := range map[string]bool{"n1": true, "db.example.com": true, "N1": false, "": false, "a/b": false, "-": false, strings.Repeat("a", 64): false} {
		if err := ValidName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestValidImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	good := []string{
		"nginx", "nginx:1.27", "skein/demo:v1", "library/nginx@" + digest, "nginx:1.27@" + digest, "localhost/x", "localhost:5000/x:y",
		"registry.example.com/a/b/c:v1.2_3-x", "192.0.2.1:5000/x", "a__b/c-d.e", "a---b", "ghcr.io/o/r:" + strings.Repeat("t", 128),
	}
	bad := []string{
		"", "Nginx", "nginx:", ":x", "a b", "nginx:-x", "nginx@sha256:00", "nginx@md5:" + strings.Repeat("0", 64), "a//b", "/a", "a/", "a..b", "a___b",
		"-a", "a-", "../x", "http://a/b", "bad_host.com/x:y z", "ghcr.io:port/x", "x:" + strings.Repeat("t", 129), strings.Repeat("a", 600), "a\n", "ghcr..io/x",
	}
	for _, ref := range good {
		if err := ValidImage(ref); err != nil {
			t.Errorf("%q: %v", ref, err)
		}
	}
	for _, ref := range bad {
		if ValidImage(ref) == nil {
			t.Errorf("%q was accepted", ref)
		}
	}
	for ref, want := range map[string]bool{"a": true, "a:latest": true, "a:v1": false, "h:5000/a": true, "h:5000/a:b": false, "a@" + digest: false} {
		if latest(ref) != want {
			t.Errorf("%q: got %v", ref, !want)
		}
	}
}

func TestSelectors(t *testing.T) {
	set := map[string]string{"app": "web", "tier": "front", "x/y": ""}
	for selector, want := range map[string]bool{
		"": true, "app=web": true, "app==web": true, "app=db": false, "app!=db": true, "none!=db": true, "app!=web": false, "app": true, "none": false, "!none": true,
		"!app": false, "app in (web,db)": true, "app notin (db)": true, "app notin (web)": false, "app=web,tier=front": true, "app=web,tier=back": false, "x/y=": true,
	} {
		match, err := MatchLabels(selector)
		if err != nil {
			t.Errorf("%q: %v", selector, err)
		} else if match(set) != want {
			t.Errorf("%q: got %v", selector, !want)
		}
	}
	for _, selector := range []string{"app=web=x", "a b", "app in", "=x", "a=b c", strings.Repeat("a,", 5000)} {
		if _, err := MatchLabels(selector); err == nil {
			t.Errorf("%.20q was accepted", selector)
		}
	}
	row := rowOf(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}, 1)
	for selector, want := range map[string]bool{
		"": true, "metadata.name=web-1": true, "metadata.name==web-2": false, "metadata.namespace=ns,spec.nodeName=n1": true, "spec.nodeName!=n1": false,
		"status.phase=Running": true, "status.phase!=Running": false, "status.podIP=": true, " status.phase = Running ": true,
	} {
		match, err := MatchFields(KindPod, selector)
		if err != nil {
			t.Errorf("%q: %v", selector, err)
		} else if match(row) != want {
			t.Errorf("%q: got %v", selector, !want)
		}
	}
	for selector, want := range map[string]string{
		"spec.nodename=n1": "did you mean spec.nodeName?", "spec.nodeName": "has no =", "involvedObject.name=x": "cannot be selected by",
	} {
		if _, err := MatchFields(KindPod, selector); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", selector, err)
		}
	}
	event := rowOf(t, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "ns", UID: "u"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web-1", UID: "p"}, Type: "Warning",
	}, 1)
	match, err := MatchFields(KindEvent, "involvedObject.kind=Pod,involvedObject.name=web-1,type!=Normal")
	if err != nil || !match(event) {
		t.Errorf("got %v", err)
	}
}

func FuzzSelectors(f *testing.F) {
	f.Add("a=b,c!=d,!e,f in (g,h)", "metadata.name=x,status.phase!=Running")
	row := &state.Row{Key: state.Key{Kind: KindPod, Name: "x"}, Body: []byte(`{"status":{"phase":[]},"spec":7}`)}
	f.Fuzz(func(t *testing.T, labels, fields string) {
		if match, err := MatchLabels(labels); err == nil {
			match(map[string]string{"a": "b"})
		}
		if match, err := MatchFields(KindPod, fields); err == nil {
			match(row)
		}
	})
}

// TestEditsAreSymmetricAndBounded holds for any two words.
func TestEditsAreSymmetricAndBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.StringMatching(`[a-z]{0,8}`).Draw(t, "a"), rapid.StringMatching(`[a-z]{0,8}`).Draw(t, "b")
		d := edits(a, b)
		if d != edits(b, a) || d > max(len(a), len(b)) || (d == 0) != (a == b) {
			t.Fatalf("%q to %q: %d", a, b, d)
		}
	})
	if got := edits("replcas", "replicas"); got != 1 {
		t.Errorf("got %d", got)
	}
	if got := edits("deploymnet", "deployment"); got != 1 {
		t.Errorf("got %d", got)
	}
}

func TestKindsArePlain(t *testing.T) {
	var names []string
	for _, k := range Kinds() {
		names = append(names, k.Plural)
		if k.Internal {
			t.Errorf("%s is internal", k.Name)
		}
	}
	if want := []string{"pods", "deployments", "revisions", "services", "endpointslices", "networkpolicies", "configmaps", "secrets", "nodes", "namespaces", "events", "images"}; !slices.Equal(names, want) {
		t.Errorf("got %v", names)
	}
	if k, ok := KindNamed(KindAuthority); !ok || k.Plural != "authorities" {
		t.Errorf("got %v", k)
	}
}

func BenchmarkDecodePod(b *testing.B) {
	row := benchPod(b)
	b.SetBytes(int64(len(row.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode[corev1.Pod](row); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodePod(b *testing.B) {
	pod, err := Decode[corev1.Pod](benchPod(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(pod); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("web.yaml", []byte(web), ""); err != nil {
			b.Fatal(err)
		}
	}
}

// benchPod is a running Pod of the Deployment web.
func benchPod(b *testing.B) *state.Row {
	b.Helper()
	template := parseOne(b, web).Object.(*appsv1.Deployment).Spec.Template
	pod := runningPod("web-7wb2hlbkjh-bcdfg", "n1")
	pod.Spec = template.Spec
	pod.Spec.NodeName = "n1"
	return rowOf(b, pod, 12)
}

func TestUnsupportedKindsAreToldByAnyWord(t *testing.T) {
	for word, want := range map[string]string{
		"endpoints": "Endpoints", "ep": "Endpoints", "ds": "DaemonSet", "pvc": "PersistentVolumeClaim", "hpa": "HorizontalPodAutoscaler",
		"statefulsets.apps": "StatefulSet", "ing": "Ingress",
	} {
		msg, hint, ok := Unsupported(word)
		if !ok || !strings.Contains(msg, "the kind "+want+" is") || hint == "" {
			t.Errorf("%s: %q, hint %q, %v; want %s", word, msg, hint, ok, want)
		}
	}
	for _, word := range []string{"", "pods", "deploy", "svc", "networkpolicies", "foo", "s"} {
		if msg, _, ok := Unsupported(word); ok {
			t.Errorf("%q is told as %q", word, msg)
		}
	}
}
