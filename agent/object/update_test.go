package object

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

var testNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// rowOf stores an object at a version.
func rowOf(t testing.TB, obj Object, version uint64) *state.Row {
	t.Helper()
	o, err := Encode(obj)
	if err != nil {
		t.Fatal(err)
	}
	row := state.RowOf(o)
	row.Version = version
	return row
}

// stored creates what a manifest says, at version 5.
func stored(t testing.TB, text string) *state.Row {
	t.Helper()
	obj, err := parseOne(t, text).Create("uid-1", testNow)
	if err != nil {
		t.Fatal(err)
	}
	return rowOf(t, obj, 5)
}

func edit(t testing.TB, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("%q is not there", from)
	}
	return strings.Replace(text, from, to, 1)
}

func TestCreateGivesIdentity(t *testing.T) {
	row := stored(t, web)
	d, err := Decode[appsv1.Deployment](row)
	if err != nil {
		t.Fatal(err)
	}
	if d.UID != "uid-1" || d.Generation != 1 || !d.CreationTimestamp.Equal(&metav1.Time{Time: testNow}) || d.ResourceVersion != "5" {
		t.Errorf("got %+v", d.ObjectMeta)
	}
	if strings.Contains(string(row.Body), "resourceVersion") || !strings.Contains(string(row.Body), `"kind":"Deployment","apiVersion":"apps/v1"`) {
		t.Errorf("body is %s", row.Body)
	}
	pod := stored(t, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: 'a:1'}]}}")
	if !strings.Contains(string(pod.Body), `"status":{"phase":"Pending"}`) {
		t.Errorf("body is %s", pod.Body)
	}
}

func TestUpdate(t *testing.T) {
	tests := map[string]struct {
		others string // a merge patch that somebody made meanwhile
		edit   [2]string
		action string
		gen    int64
		has    []string
		hasNot []string
	}{
		"the same again": {action: Unchanged, gen: 1},
		"another image": {
			edit: [2]string{"demo:v1", "demo:v2"}, action: Configured, gen: 2, has: []string{"skein/demo:v2"},
		},
		"an equal quantity": {edit: [2]string{"cpu: 1,", "cpu: 1000m,"}, action: Unchanged, gen: 1},
		"a label less": {
			edit: [2]string{", tier: front", ""}, action: Configured, gen: 1, hasNot: []string{"front"},
		},
		"a label of somebody else stays": {
			others: `{"metadata":{"labels":{"extra":"yes"}}}`, action: Unchanged, gen: 1, has: []string{`"extra":"yes"`},
		},
		"a named label goes back": {
			others: `{"metadata":{"labels":{"tier":"back"}}}`, action: Configured, gen: 1, has: []string{`"tier":"front"`},
		},
		"named replicas go back": {
			others: `{"spec":{"replicas":7}}`, action: Configured, gen: 3, has: []string{`"replicas":3`},
		},
		"replicas that are not named stay": {
			others: `{"spec":{"replicas":7}}`, edit: [2]string{"  replicas: 3\n", ""}, action: Unchanged, gen: 2, has: []string{`"replicas":7`},
		},
		"a pause stays": {
			others: `{"spec":{"paused":true}}`, action: Unchanged, gen: 2, has: []string{`"paused":true`},
		},
		"a restart stays": {
			others: `{"spec":{"template":{"metadata":{"annotations":{"skein.dev/restarted-at":"now"}}}}}`, action: Unchanged, gen: 2,
			has: []string{`"skein.dev/restarted-at":"now"`},
		},
		"an environment variable less": {
			edit: [2]string{"        - name: PORT\n          value: \"8080\"\n", ""}, action: Configured, gen: 2, hasNot: []string{`"PORT"`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			row := stored(t, web)
			if tt.others != "" {
				obj, action, err := MergePatch(row, []byte(tt.others))
				if err != nil || action != Configured {
					t.Fatal(action, err)
				}
				row = rowOf(t, obj, 6)
			}
			text := web
			if tt.edit[0] != "" {
				text = edit(t, text, tt.edit[0], tt.edit[1])
			}
			m := parseOne(t, text)
			got, action, err := m.Update(row)
			if err != nil {
				t.Fatal(err)
			}
			body := string(rowOf(t, got, 7).Body)
			if action != tt.action || got.GetGeneration() != tt.gen {
				t.Errorf("got %s, generation %d; want %s, %d:\nwas %s\nis  %s", action, got.GetGeneration(), tt.action, tt.gen, row.Body, body)
			}
			for _, s := range tt.has {
				if !strings.Contains(body, s) {
					t.Errorf("%s is not in %s", s, body)
				}
			}
			for _, s := range tt.hasNot {
				if strings.Contains(body, s) {
					t.Errorf("%s is in %s", s, body)
				}
			}
			if again, action, err := m.Update(rowOf(t, got, 8)); err != nil || action != Unchanged {
				t.Errorf("again: %s %v %v", action, again, err)
			}
		})
	}
}

func TestUpdateKeepsWhatTheClusterWrites(t *testing.T) {
	pod, err := Decode[corev1.Pod](stored(t, "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: y}}, spec: {containers: [{name: c, image: 'a:1'}]}}"))
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.NodeName = "n1"
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.64.0.2"}
	pod.OwnerReferences = []metav1.OwnerReference{Controls(&Revision{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "u"}})}
	row := rowOf(t, pod, 9)
	doc, err := Document([]*state.Row{row}, skeinv1.Format_FORMAT_YAML, true)
	if err != nil {
		t.Fatal(err)
	}
	m := parseOne(t, string(doc))
	next, action, err := m.Update(row)
	if err != nil || action != Unchanged {
		t.Fatalf("its own document: %s, %v", action, err)
	}
	if got := next.(*corev1.Pod); got.Spec.NodeName != "n1" || got.Status.PodIP != "10.64.0.2" || len(got.OwnerReferences) != 1 {
		t.Errorf("got %+v", got)
	}
	if _, _, err := m.Update(rowOf(t, pod, 10)); !errors.As(err, new(*state.ConflictError)) {
		t.Errorf("a document of an old version: got %v", err)
	}
	if _, err := m.Create("u2", testNow); err == nil {
		t.Error("an owned Pod was made by a manifest")
	}
	label := parseOne(t, "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: z}}, spec: {containers: [{name: c, image: 'a:2'}]}}")
	next, action, err = label.Update(row)
	if err != nil || action != Configured || next.GetGeneration() != 2 || next.(*corev1.Pod).Spec.NodeName != "n1" {
		t.Errorf("got %s %v %+v", action, err, next)
	}
}

func TestUpdateRefuses(t *testing.T) {
	pod := "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: 'a:1'}]}}"
	deleted, err := Decode[corev1.Pod](stored(t, pod))
	if err != nil {
		t.Fatal(err)
	}
	deleted.DeletionTimestamp = &metav1.Time{Time: testNow}
	tests := map[string]struct {
		row  *state.Row
		text string
		want string
	}{
		"another selector": {
			stored(t, web), strings.ReplaceAll(web, "app: web", "app: wob"),
			`test.yaml:10: deployment "web": spec.selector: cannot be changed`,
		},
		"another command of a Pod": {
			stored(t, pod), edit(t, pod, "image: 'a:1'", "image: 'a:1', command: [x]"),
			`test.yaml:1: pod "a": spec.containers: of a Pod cannot be changed, only the images of its containers`,
		},
		"another node of a Pod": {
			stored(t, edit(t, pod, "spec: {", "spec: {nodeName: n1, ")), edit(t, pod, "spec: {", "spec: {nodeName: n2, "),
			`test.yaml:1: pod "a": spec.nodeName: of a Pod cannot be changed, only the images of its containers`,
		},
		"what is being deleted": {rowOf(t, deleted, 6), pod, `test.yaml:1: pod "a": is being deleted`},
		"another object of that name": {
			stored(t, pod), edit(t, pod, "{name: a}", "{name: a, uid: other}"),
			`test.yaml:1: pod "a": metadata.uid: the object of this name is another one by now`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := parseOne(t, tt.text).Update(tt.row)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestMergePatch(t *testing.T) {
	node := rowOf(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", Annotations: map[string]string{AnnotationKey: "abc"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.64.0.0/24"},
		Status:     corev1.NodeStatus{Capacity: corev1.ResourceList{}, NodeInfo: corev1.NodeSystemInfo{OSImage: "Debian"}},
	}, 5)
	deployment := stored(t, web)
	tests := map[string]struct {
		row    *state.Row
		patch  string
		action string
		gen    int64
		want   string // in the body, or the error
	}{
		"scale":              {deployment, `{"spec":{"replicas":5}}`, Configured, 2, `"replicas":5`},
		"nothing":            {deployment, `{}`, Unchanged, 1, `"replicas":3`},
		"to what it is":      {deployment, `{"spec":{"replicas":3}}`, Unchanged, 1, `"replicas":3`},
		"null takes away":    {deployment, `{"metadata":{"labels":{"tier":null}}}`, Configured, 1, `"labels":{"app":"web"}`},
		"a default returns":  {deployment, `{"spec":{"replicas":null}}`, Configured, 2, `"replicas":1`},
		"cordon":             {node, `{"spec":{"unschedulable":true}}`, Configured, 1, `"spec":{"podCIDR":"10.64.0.0/24","unschedulable":true}`},
		"never vote":         {node, `{"metadata":{"labels":{"skein.dev/voter":"never"}}}`, Configured, 0, `"skein.dev/voter":"never"`},
		"its own version":    {deployment, `{"metadata":{"resourceVersion":"5"},"spec":{"replicas":5}}`, Configured, 2, `"replicas":5`},
		"an old version":     {deployment, `{"metadata":{"resourceVersion":"4"}}`, "", 0, `Deployment default/web has changed: it is at version 5, 4 was expected`},
		"a typo":             {deployment, `{"spec":{"replcas":5}}`, "", 0, `deployment "web": spec.replcas: unknown field; did you mean replicas?`},
		"a wrong type":       {deployment, `{"spec":{"replicas":"5"}}`, "", 0, `deployment "web": spec.replicas: want a whole number, got the string "5"`},
		"out of bounds":      {deployment, `{"spec":{"replicas":-5}}`, "", 0, `deployment "web": spec.replicas: -5 is less than 0`},
		"not supported":      {deployment, `{"spec":{"template":{"spec":{"volumes":[{"name":"x","nfs":{"server":"x","path":"/"}}]}}}}`, "", 0, `deployment "web": spec.template.spec.volumes[0].nfs: not supported`},
		"a status":           {deployment, `{"status":{"replicas":9}}`, "", 0, `deployment "web": status: cannot be changed: the cluster writes it`},
		"a uid":              {deployment, `{"metadata":{"uid":"x"}}`, "", 0, `deployment "web": metadata.uid: cannot be changed: the cluster writes it`},
		"an owner":           {deployment, `{"metadata":{"ownerReferences":[{"name":"x"}]}}`, "", 0, `deployment "web": metadata.ownerReferences: cannot be changed: the cluster writes it`},
		"a name":             {deployment, `{"metadata":{"name":"x"}}`, "", 0, `deployment "web": metadata.name: cannot be changed`},
		"a kind":             {deployment, `{"kind":"Pod"}`, "", 0, `deployment "web": kind: cannot be changed`},
		"a selector":         {deployment, `{"spec":{"selector":{"matchLabels":{"tier":"front"}},"template":{"metadata":{"labels":{"tier":"front"}}}}}`, "", 0, `deployment "web": spec.selector: cannot be changed`},
		"a node's key":       {node, `{"metadata":{"annotations":{"skein.dev/key":"x"}}}`, "", 0, `node "n1": metadata.annotations["skein.dev/key"]: cannot be changed: the cluster writes it`},
		"a node's block":     {node, `{"spec":{"podCIDR":"10.65.0.0/24"}}`, "", 0, `node "n1": spec.podCIDR: cannot be changed: the cluster writes it`},
		"a node that votes":  {node, `{"metadata":{"labels":{"skein.dev/voter":"true"}}}`, "", 0, `node "n1": metadata.labels["skein.dev/voter"]: labels of skein.dev are the cluster's own`},
		"no object":          {deployment, `[]`, "", 0, `Deployment default/web: want one JSON object as a merge patch`},
		"no JSON":            {deployment, `{`, "", 0, `cannot be read as JSON: it ends too early`},
		"no metadata":        {deployment, `{"metadata":null}`, "", 0, `deployment "web": metadata: cannot be removed`},
		"no spec":            {deployment, `{"spec":null}`, "", 0, `deployment "web": spec.selector: cannot be changed`},
		"the same key twice": {deployment, `{"spec":{"replicas":1,"replicas":2}}`, "", 0, `"replicas" is given twice, first on line 1`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			body := string(tt.row.Body)
			obj, action, err := MergePatch(tt.row, []byte(tt.patch))
			if string(tt.row.Body) != body {
				t.Fatal("the row was modified")
			}
			if tt.action == "" {
				first, _, _ := strings.Cut(errText(err), "\n")
				if first != tt.want {
					t.Errorf("got  %v\nwant %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if action != tt.action || obj.GetGeneration() != tt.gen {
				t.Errorf("got %s, generation %d; want %s, %d", action, obj.GetGeneration(), tt.action, tt.gen)
			}
			if got := string(rowOf(t, obj, 6).Body); !strings.Contains(got, tt.want) {
				t.Errorf("%s is not in %s", tt.want, got)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return "<nil>"
	}
	return err.Error()
}

func TestMergePatchOfWhatIsNotPeoples(t *testing.T) {
	row := rowOf(t, &Image{ObjectMeta: metav1.ObjectMeta{Name: "i", UID: "u"}}, 1)
	if _, _, err := MergePatch(row, []byte(`{"spec":{"digest":"x"}}`)); errText(err) != "Image i: cannot be changed" {
		t.Errorf("got %v", err)
	}
}

// TestMergeIsThatOfTheRFC has the examples of RFC 7386, appendix A.
func TestMergeIsThatOfTheRFC(t *testing.T) {
	tests := [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	}
	for _, tt := range tests {
		var have, patch any
		if err := errors.Join(json.Unmarshal([]byte(tt[0]), &have), json.Unmarshal([]byte(tt[1]), &patch)); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(merge(have, patch))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != tt[2] {
			t.Errorf("%s with %s: got %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

func FuzzMergePatch(f *testing.F) {
	for _, seed := range []string{`{"spec":{"replicas":5}}`, `{"metadata":{"labels":{"a":null}}}`, `{"spec":{"template":null,"strategy":{"type":"Recreate","rollingUpdate":null}}}`, `{"kind":1}`} {
		f.Add([]byte(seed))
	}
	for _, seed := range []string{`{"spec":{"type":"ExternalName","externalName":"a.example"}}`, `{"spec":{"ports":null,"clusterIP":"None"}}`, `{"spec":{"ingress":[null],"policyTypes":[]}}`} {
		f.Add([]byte(seed))
	}
	rows := []*state.Row{stored(f, web), stored(f, front), stored(f, guard)}
	f.Fuzz(func(t *testing.T, patch []byte) {
		for _, row := range rows {
			patchTwice(t, row, patch)
		}
	})
}

// patchTwice checks that what a patch makes is whole: a patch of nothing changes
// nothing of it.
func patchTwice(t *testing.T, row *state.Row, patch []byte) {
	t.Helper()
	next, action, err := MergePatch(row, patch)
	if err != nil {
		return
	}
	again := rowOf(t, next, 6)
	if _, second, err := MergePatch(again, []byte(`{}`)); err != nil || second != Unchanged {
		t.Fatalf("%s after %s: %s, %v", patch, action, second, err)
	}
	if again.UID != row.UID || again.Key != row.Key {
		t.Fatalf("%s made it %s %s", patch, again.Key, again.UID)
	}
}
