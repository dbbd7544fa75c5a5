package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

const webManifest = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: skein/demo:v1
`

func TestApplyCreatesThenChangesThenDoesNothing(t *testing.T) {
	w := newWorld(t)
	for _, step := range []struct{ manifest, action string }{
		{webManifest, "created"},
		{webManifest, "unchanged"},
		{strings.Replace(webManifest, "replicas: 2", "replicas: 3", 1), "configured"},
	} {
		out, err := w.apply(step.manifest)
		if err != nil {
			t.Fatal(err)
		}
		if got := out.GetApplied()[0]; got.GetAction() != step.action || got.GetObject().GetKind() != "deployment" || !got.GetAwaitable() {
			t.Errorf("got %v, want %s", got, step.action)
		}
	}
}

func TestAManifestIsAppliedWholeOrNotAtAll(t *testing.T) {
	w := newWorld(t)
	bad := webManifest + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: nowhere}\nspec: {containers: [{name: c, image: i}]}\n"
	_, err := w.apply(bad)
	refused(t, err, connect.CodeNotFound, exitUsage)
	if rows := w.agreed.store.List(object.KindDeployment, "", ""); len(rows) != 0 {
		t.Errorf("%d Deployments were made by a refused manifest", len(rows))
	}
}

func TestWhatIsNotUnderstoodIsRefusedWithItsLine(t *testing.T) {
	w := newWorld(t)
	_, err := w.apply(strings.Replace(webManifest, "replicas:", "replcas:", 1))
	refused(t, err, connect.CodeInvalidArgument, exitUsage)
	if !strings.Contains(err.Error(), "t.yaml:6") || !strings.Contains(err.Error(), "replcas") {
		t.Errorf("%q does not tell line and field", err)
	}
}

func TestWithoutALeaderWritesAreRefusedAndReadsTellTheirAge(t *testing.T) {
	w := newWorld(t)
	w.agreed.lead("")
	_, err := w.apply(webManifest)
	refused(t, err, connect.CodeUnavailable, exitNoLeader)
	out, err := w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "nodes"})
	if err != nil {
		t.Fatal(err)
	}
	if out.GetAgeMs() < 1000 || len(out.GetTable().GetRows()) != 1 {
		t.Errorf("age %d ms and %d rows, want an answer that is more than a second old", out.GetAgeMs(), len(out.GetTable().GetRows()))
	}
}

func TestALeaderThatNobodyConfirmsTellsTheAgeOfWhatItReads(t *testing.T) {
	w := newWorld(t)
	for _, alone := range []bool{false, true} {
		w.agreed.alone = alone
		out, err := w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "nodes"})
		if err != nil {
			t.Fatal(err)
		}
		if told := out.GetAgeMs() != 0; told != alone {
			t.Errorf("confirmed %v: the age is %d ms", !alone, out.GetAgeMs())
		}
	}
}

func TestDeletingADeploymentTakesItsPodsAlong(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(webManifest); err != nil {
		t.Fatal(err)
	}
	row, _ := w.agreed.store.Get(state.Key{Kind: object.KindDeployment, Namespace: "default", Name: "web"})
	d, err := object.DecodeAny(row)
	if err != nil {
		t.Fatal(err)
	}
	rev := &object.Revision{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "default", UID: "r1", OwnerReferences: []metav1.OwnerReference{object.Controls(d)}}}
	w.put(rev)
	for name, node := range map[string]string{"bound": "n1", "waiting": ""} {
		w.put(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("u-" + name), OwnerReferences: []metav1.OwnerReference{object.Controls(rev)}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
	}
	if _, err := w.root.Delete(t.Context(), &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{{Kind: "deploy", Name: "web"}}, GraceSeconds: 5}); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{object.KindDeployment, object.KindRevision} {
		if rows := w.agreed.store.List(kind, "", ""); len(rows) != 0 {
			t.Errorf("%d %ss are left", len(rows), kind)
		}
	}
	pods := w.agreed.store.List(object.KindPod, "", "")
	if len(pods) != 1 || pods[0].Key.Name != "bound" {
		t.Fatalf("%d Pods are left, want the one that its node must stop first", len(pods))
	}
	pod, err := object.Decode[corev1.Pod](pods[0])
	if err != nil {
		t.Fatal(err)
	}
	if pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 5 {
		t.Errorf("the Pod is to go at %v within %v, want 5 s of grace", pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds)
	}
}

func TestAwaitTellsWhyItIsStillPendingAtItsDeadline(t *testing.T) {
	w := newWorld(t)
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes fit",
		}}},
	})
	last, lines := w.await(&skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "pod", Name: "p"}, TimeoutMs: 50})
	if last.GetExitCode() != exitPending || !strings.Contains(last.GetError(), "0/3 nodes fit") {
		t.Errorf("got %v, want exit code 3 and the reason", last)
	}
	if len(lines) == 0 || !strings.Contains(lines[0], "not placed") {
		t.Errorf("lines %q do not tell it on the way", lines)
	}
}

func TestAwaitEndsWhenThePodIsReady(t *testing.T) {
	w := newWorld(t)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	w.put(pod)
	done := make(chan *skeinv1.AwaitResponse, 1)
	go func() {
		last, _ := w.await(&skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "pod", Name: "p"}, TimeoutMs: 60_000})
		done <- last
	}()
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	w.put(pod)
	if last := <-done; last.GetExitCode() != 0 || !last.GetDone() {
		t.Errorf("got %v, want done with exit code 0", last)
	}
}

// await returns the outcome and the lines before it.
func (w *world) await(req *skeinv1.AwaitRequest) (last *skeinv1.AwaitResponse, lines []string) {
	stream, err := w.root.Await(w.t.Context(), req)
	if err != nil {
		w.t.Error(err)
		return nil, nil
	}
	defer func() { _ = stream.Close() }()
	for {
		msg, err := stream.Receive()
		if err != nil {
			return last, lines
		}
		last = msg
		if msg.GetLine() != "" {
			lines = append(lines, msg.GetLine())
		}
	}
}

func TestATokenThatIsWrongOldOrRevokedOpensNothing(t *testing.T) {
	w := newWorld(t)
	issue := func(req *skeinv1.CreateTokenRequest) *skeinv1.CreateTokenResponse {
		out, err := w.root.CreateToken(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	join := issue(&skeinv1.CreateTokenRequest{})
	short := issue(&skeinv1.CreateTokenRequest{Role: "view", TtlMs: 1})
	gone := issue(&skeinv1.CreateTokenRequest{Role: "admin"})
	if _, err := w.root.RevokeToken(t.Context(), &skeinv1.RevokeTokenRequest{Id: gone.GetId()}); err != nil {
		t.Fatal(err)
	}
	other, err := identity.NewToken(true, time.Now().Add(time.Hour), w.ca.Certificate(), strings.NewReader(strings.Repeat("x", 4096)))
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"none": "", "rubbish": "skein1-x", "one to join with": join.GetToken(), "expired": short.GetToken(),
		"revoked": gone.GetToken(), "never issued": other.String(),
	} {
		_, err := w.client(w.server.People(), token).Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"})
		t.Run(name, func(t *testing.T) { refused(t, err, connect.CodeUnauthenticated, exitDenied) })
	}
}

func TestOnlyALeaderWithAQuorumCallsANodeRemoved(t *testing.T) {
	w := newWorld(t)
	j := &joiner{Server: w.server}
	for name, tt := range map[string]struct {
		node, key, leader string
		want              bool
	}{
		"in the cluster":        {"n1", "f1", "n1", false},
		"removed":               {"n9", "f9", "n1", true},
		"removed and made anew": {"n1", "f0", "n1", true},
		"which a quorum left":   {"n9", "f9", "n2", false},
	} {
		w.agreed.lead(tt.leader)
		if got := j.removed(t.Context(), tt.node, tt.key); got != tt.want {
			t.Errorf("%s: removed %t, want %t", name, got, tt.want)
		}
	}
}

func TestANodeSpeaksOfItselfAndItsOwnPodsAlone(t *testing.T) {
	w := newWorld(t)
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "u-uid"},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
	}
	w.put(pod("mine", "n1"))
	w.put(pod("other", "n2"))
	status, err := json.Marshal(corev1.PodStatus{Phase: corev1.PodRunning})
	if err != nil {
		t.Fatal(err)
	}
	report := func(name string) error {
		return w.server.Reported(t.Context(), "n1", &skeinv1.ReportRequest{
			Pods: []*skeinv1.PodStatus{{Namespace: "default", Name: name, Uid: "u-uid", Status: status}},
		})
	}
	if err := report("mine"); err != nil {
		t.Errorf("its own Pod: %v", err)
	}
	if err := report("other"); err == nil || !strings.Contains(err.Error(), "is not on node n1") {
		t.Errorf("another node's Pod: got %v, want a refusal", err)
	}
	for name, want := range map[string]corev1.PodPhase{"mine": corev1.PodRunning, "other": ""} {
		row, _ := w.agreed.store.Get(state.Key{Kind: object.KindPod, Namespace: "default", Name: name})
		got, err := object.Decode[corev1.Pod](row)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status.Phase != want {
			t.Errorf("Pod %s is %q, want %q", name, got.Status.Phase, want)
		}
	}
}

func TestAReportKeepsTheSchedulersConditionAndTellsEvents(t *testing.T) {
	w := newWorld(t)
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}},
	})
	status, _ := json.Marshal(corev1.PodStatus{Phase: corev1.PodRunning})                                                                                             //nolint:errchkjson // a plain struct
	event, _ := json.Marshal(corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p", UID: "u"}, Reason: "Started"})         //nolint:errchkjson // a plain struct
	foreign, _ := json.Marshal(corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p", UID: "another"}, Reason: "Started"}) //nolint:errchkjson // a plain struct
	err := w.server.Reported(t.Context(), "n1", &skeinv1.ReportRequest{
		Pods:   []*skeinv1.PodStatus{{Namespace: "default", Name: "p", Uid: "u", Status: status}},
		Events: [][]byte{event, foreign, []byte("{")},
	})
	if err != nil {
		t.Fatal(err)
	}
	row, _ := w.agreed.store.Get(state.Key{Kind: object.KindPod, Namespace: "default", Name: "p"})
	pod, err := object.Decode[corev1.Pod](row)
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Status.Conditions) != 1 || pod.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("conditions %v, want the scheduler's kept", pod.Status.Conditions)
	}
	if len(w.ears.events) != 1 || len(w.ears.heard) != 1 {
		t.Errorf("%d events and %d reports were heard, want 1 and 1", len(w.ears.events), len(w.ears.heard))
	}
}

func TestWhatIsNotThereIsToldWithTheNearest(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(webManifest); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ref  *skeinv1.ObjectRef
		hint string
	}{
		"a typo":                 {&skeinv1.ObjectRef{Kind: "deploy", Name: "wbe"}, "did you mean web?"},
		"another namespace":      {&skeinv1.ObjectRef{Kind: "deploy", Name: "web", Namespace: "shop"}, "there is one with -n default"},
		"nothing like it":        {&skeinv1.ObjectRef{Kind: "deploy", Name: "zebra"}, `see what there is with "skein get deployment"`},
		"nothing in a namespace": {&skeinv1.ObjectRef{Kind: "pod", Name: "zebra", Namespace: "shop"}, `see what there is with "skein get pod -n shop"`},
		"a kind for later":       {&skeinv1.ObjectRef{Kind: "ingress", Name: "web"}, "until then write a Service of type NodePort"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.root.Describe(t.Context(), &skeinv1.DescribeRequest{Object: c.ref})
			if got := hintOf(err); got != c.hint {
				t.Errorf("%v: hint %q, want %q", err, got, c.hint)
			}
		})
	}
}

func hintOf(err error) string {
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return ""
	}
	for _, detail := range remote.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if info, ok := message.(*skeinv1.ErrorInfo); err == nil && ok {
			return info.GetHint()
		}
	}
	return ""
}

func TestWithoutALeaderAnUnknownTokenIsNotCalledWrong(t *testing.T) {
	w := newWorld(t)
	other, err := identity.NewToken(true, time.Now().Add(time.Hour), w.ca.Certificate(), strings.NewReader(strings.Repeat("x", 4096)))
	if err != nil {
		t.Fatal(err)
	}
	w.agreed.lead("")
	_, err = w.client(w.server.People(), other.String()).Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"})
	refused(t, err, connect.CodeUnavailable, exitNoLeader)
}

func TestAnImageGoesByItsReference(t *testing.T) {
	w := newWorld(t)
	w.put(&object.Image{ObjectMeta: metav1.ObjectMeta{Name: object.ImageName("skein/demo:v1"), UID: "i"}, Spec: object.ImageSpec{Reference: "skein/demo:v1"}})
	out, err := w.root.Get(t.Context(), &skeinv1.GetRequest{Kind: "img", Name: "skein/demo:v1"})
	if err != nil || len(out.GetTable().GetRows()) != 1 {
		t.Errorf("get: %v, %v", out, err)
	}
	if _, err := w.root.Describe(t.Context(), &skeinv1.DescribeRequest{Object: &skeinv1.ObjectRef{Kind: "image", Name: "skein/demo:v1"}}); err != nil {
		t.Errorf("describe: %v", err)
	}
}

func TestAwaitTellsNoNewsOfWhatWasReadyBefore(t *testing.T) {
	w := newWorld(t)
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	})
	last, lines := w.await(&skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "pod", Name: "p"}})
	if !last.GetDone() || last.GetSummary() != "Running" || strings.Join(lines, "") != "" {
		t.Errorf("got %v after lines %q, want the summary alone", last, lines)
	}
}

func TestDurationsAreSpelledShort(t *testing.T) {
	for d, want := range map[time.Duration]string{2 * time.Minute: "2m", 4999 * time.Millisecond: "5s", time.Hour: "1h", 90 * time.Second: "1m30s"} {
		if got := spell(d); got != want {
			t.Errorf("%v is spelled %s, want %s", d, got, want)
		}
	}
}

func TestANodeDoesNotJudgeWhetherItIsThere(t *testing.T) {
	w := newWorld(t)
	status, err := json.Marshal(corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.Reported(t.Context(), "n1", &skeinv1.ReportRequest{NodeStatus: status}); err != nil {
		t.Fatal(err)
	}
	node, _ := w.server.node("n1")
	got := map[corev1.NodeConditionType]corev1.ConditionStatus{}
	for _, c := range node.Status.Conditions {
		got[c.Type] = c.Status
	}
	if got[corev1.NodeReady] != corev1.ConditionUnknown || got[corev1.NodeDiskPressure] != corev1.ConditionTrue {
		t.Errorf("conditions %v, want the leader's word on Ready and the node's on its disk", got)
	}
}

func TestATroubleThatIsOverIsForgotten(t *testing.T) {
	w := newWorld(t)
	for _, conditions := range [][]corev1.NodeCondition{
		{{Type: object.NodeDiskSlow, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}},
		{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}},
	} {
		status, err := json.Marshal(corev1.NodeStatus{Conditions: conditions})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.server.Reported(t.Context(), "n1", &skeinv1.ReportRequest{NodeStatus: status}); err != nil {
			t.Fatal(err)
		}
		node, _ := w.server.node("n1")
		var got []corev1.NodeConditionType
		for _, c := range node.Status.Conditions {
			if c.Type != corev1.NodeReady {
				got = append(got, c.Type)
			}
		}
		if len(got) != len(conditions) {
			t.Errorf("conditions %v, want those of %v", got, conditions)
		}
	}
}
