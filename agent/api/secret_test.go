package api

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

const (
	canary         = "hunter2-canary-91d4"
	secretManifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: " + canary + "}\n"
)

var canary64 = base64.StdEncoding.EncodeToString([]byte(canary))

// as is a caller of a role.
func (w *world) as(role Role) skeinv1connect.ClusterServiceClient {
	w.t.Helper()
	made, err := w.root.CreateToken(w.t.Context(), &skeinv1.CreateTokenRequest{Role: role.String()})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.client(w.server.People(), made.GetToken())
}

func TestASecretShowsItsValuesToWhoMayChangeItAlone(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(secretManifest); err != nil {
		t.Fatal(err)
	}
	row, ok := w.agreed.Store().Get(state.Key{Kind: object.KindSecret, Namespace: "default", Name: "db"})
	if !ok || bytes.Contains(row.Body, []byte(canary)) || bytes.Contains(row.Body, []byte(canary64)) {
		t.Fatalf("stored: %v %s", ok, row.Body)
	}
	again, err := w.apply(secretManifest)
	if err != nil || again.GetApplied()[0].GetAction() != object.Unchanged {
		t.Errorf("applied again: %v, %v; want unchanged", again, err)
	}
	for _, role := range []Role{RoleView, RoleEdit, RoleAdmin} {
		c := w.as(role)
		for _, f := range []skeinv1.Format{skeinv1.Format_FORMAT_JSON, skeinv1.Format_FORMAT_YAML} {
			got, err := c.Get(t.Context(), &skeinv1.GetRequest{Kind: "secret", Name: "db", Format: f})
			watch, werr := c.Watch(t.Context(), &skeinv1.GetRequest{Kind: "secrets", Format: f})
			var seen *skeinv1.WatchResponse
			if werr == nil {
				seen, werr = watch.Receive()
				_ = watch.Close()
			}
			if role == RoleView {
				refused(t, err, connect.CodePermissionDenied, exitDenied)
				refused(t, werr, connect.CodePermissionDenied, exitDenied)
				continue
			}
			if err != nil || !strings.Contains(string(got.GetDocument()), canary64) {
				t.Errorf("%s as %s: %s, %v", f, role, got.GetDocument(), err)
			}
			if werr != nil || !strings.Contains(string(seen.GetDocument()), canary64) {
				t.Errorf("watch of %s as %s: %s, %v", f, role, seen.GetDocument(), werr)
			}
		}
		table, err := c.Get(t.Context(), &skeinv1.GetRequest{Kind: "secrets", Format: skeinv1.Format_FORMAT_WIDE})
		if err != nil || strings.Contains(table.String(), canary) || len(table.GetTable().GetRows()) != 1 {
			t.Errorf("table as %s: %v, %v", role, table, err)
		}
		told, err := c.Describe(t.Context(), &skeinv1.DescribeRequest{Object: &skeinv1.ObjectRef{Kind: "secret", Name: "db"}})
		if err != nil || strings.Contains(told.GetText(), canary) || !strings.Contains(told.GetText(), "password: 19 bytes") {
			t.Errorf("description as %s: %s, %v", role, told.GetText(), err)
		}
	}
}

func TestAPatchOfASecretIsSealed(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(secretManifest); err != nil {
		t.Fatal(err)
	}
	const other = "hunter3-canary-62aa"
	ref := &skeinv1.ObjectRef{Kind: "secret", Name: "db"}
	if _, err := w.root.Patch(t.Context(), &skeinv1.PatchRequest{Object: ref, MergePatch: []byte(`{"stringData":{"token":"` + other + `"}}`)}); err != nil {
		t.Fatal(err)
	}
	row, _ := w.agreed.Store().Get(state.Key{Kind: object.KindSecret, Namespace: "default", Name: "db"})
	s, err := object.OpenSecret(row, vault{})
	if err != nil || string(s.Data["token"]) != other || string(s.Data["password"]) != canary || bytes.Contains(row.Body, []byte(other)) {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestASnapshotKeepsSecretsSealedAndGivesThemBack(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(secretManifest); err != nil {
		t.Fatal(err)
	}
	file := new(bytes.Buffer)
	if _, err := w.server.WriteSnapshot(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	restore := func() *skeinv1.RestoreSnapshotResponse {
		t.Helper()
		stream, err := w.root.RestoreSnapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&skeinv1.RestoreSnapshotRequest{Chunk: file.Bytes()}); err != nil {
			t.Fatal(err)
		}
		out, err := stream.CloseAndReceive()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if _, err := w.root.Delete(t.Context(), &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{{Kind: "secret", Name: "db"}}}); err != nil {
		t.Fatal(err)
	}
	restore()
	row, ok := w.agreed.Store().Get(state.Key{Kind: object.KindSecret, Namespace: "default", Name: "db"})
	if !ok {
		t.Fatal("the secret did not come back")
	}
	if s, err := object.OpenSecret(row, vault{}); err != nil || string(s.Data["password"]) != canary {
		t.Errorf("restored: %v, %v", s, err)
	}
	before := sealingKey
	sealingKey = bytes.Repeat([]byte{8}, len(before))
	defer func() { sealingKey = before }()
	told := ""
	for _, a := range restore().GetApplied() {
		if a.GetObject().GetKind() == "secret" {
			told = a.GetAction()
		}
	}
	if !strings.Contains(told, "another cluster has sealed it") {
		t.Errorf("in another cluster the restoration says %q of it", told)
	}
}

func TestPoliciesAreAdministrators(t *testing.T) {
	w := newWorld(t)
	edit := w.as(RoleEdit)
	const ns = "apiVersion: v1\nkind: Namespace\nmetadata: {name: ops, annotations: {skein.dev/host-path: allow}}\n"
	_, err := edit.Apply(t.Context(), &skeinv1.ApplyRequest{Manifest: []byte(ns)})
	refused(t, err, connect.CodePermissionDenied, exitDenied)
	if _, err := w.apply(ns); err != nil {
		t.Fatal(err)
	}
	_, err = edit.Apply(t.Context(), &skeinv1.ApplyRequest{Manifest: []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: ops}\n")})
	refused(t, err, connect.CodePermissionDenied, exitDenied)
	_, err = edit.Patch(t.Context(), &skeinv1.PatchRequest{
		Object: &skeinv1.ObjectRef{Kind: "ns", Name: "default"}, MergePatch: []byte(`{"metadata":{"annotations":{"skein.dev/host-path":"allow"}}}`),
	})
	refused(t, err, connect.CodePermissionDenied, exitDenied)
	for _, value := range []string{"skein.dev/privileged: allow", "skein.dev/capabilities: NET_ADMIN"} {
		_, err := edit.Apply(t.Context(), &skeinv1.ApplyRequest{Manifest: []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: more, annotations: {" + value + "}}\n")})
		refused(t, err, connect.CodePermissionDenied, exitDenied)
	}
	// Nor may what is allowed be widened.
	if _, err := w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: more, annotations: {skein.dev/capabilities: NET_ADMIN}}\n"); err != nil {
		t.Fatal(err)
	}
	_, err = edit.Patch(t.Context(), &skeinv1.PatchRequest{
		Object: &skeinv1.ObjectRef{Kind: "ns", Name: "more"}, MergePatch: []byte(`{"metadata":{"annotations":{"skein.dev/capabilities":"NET_ADMIN,SYS_TIME"}}}`),
	})
	refused(t, err, connect.CodePermissionDenied, exitDenied)
}

func TestNamespacesAllowWhatCouldHarmTheirMachines(t *testing.T) {
	w := newWorld(t)
	pod := func(ns, spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: " + ns + "}\nspec:\n  containers:\n  - name: c\n    image: web:1\n" + spec
	}
	const privileged = "    securityContext: {privileged: true}\n"
	const both = privileged + "  volumes: [{name: v, hostPath: {path: /etc}}]\n"
	if _, err := w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: ops, annotations: {skein.dev/privileged: allow}}\n"); err != nil {
		t.Fatal(err)
	}
	capability := func(add string) string { return "    securityContext: {capabilities: {add: [" + add + "]}}\n" }
	if _, err := w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: net, annotations: {skein.dev/capabilities: \"NET_ADMIN, SYS_NICE\"}}\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: bad, annotations: {skein.dev/capabilities: \"CAP_NET_ADMIN\"}}\n"); err == nil || !strings.Contains(err.Error(), "NET_ADMIN") {
		t.Errorf("a capability that is written otherwise: %v", err)
	}
	for what, tt := range map[string]struct{ manifest, want string }{
		"elsewhere":                {pod("default", privileged), "spec.containers[0].securityContext.privileged"},
		"one of two":               {pod("ops", both), "spec.volumes[0].hostPath"},
		"a contradiction":          {pod("ops", "    securityContext: {privileged: true, allowPrivilegeEscalation: false}\n"), "cannot be false"},
		"processes of the machine": {pod("net", "  hostPID: true\n"), "spec.hostPID"},
		"its IPC":                  {pod("net", "  hostIPC: true\n"), "spec.hostIPC"},
		"both kinds of processes":  {pod("ops", "  hostPID: true\n  shareProcessNamespace: true\n"), "spec.shareProcessNamespace: cannot be true"},
		"a capability":             {pod("default", capability("CHOWN, SYS_TIME")), "spec.containers[0].securityContext.capabilities.add[1]"},
		"a capability not listed":  {pod("net", capability("SYS_TIME")), "spec.containers[0].securityContext.capabilities.add[0]"},
		"all of them":              {pod("net", capability("ALL")), "capabilities.add[0]"},
		"as init containers":       {pod("default", "") + "  initContainers: [{name: i, image: \"web:1\", securityContext: {privileged: true}}]\n", "spec.initContainers[0].securityContext.privileged"},
	} {
		if _, err := w.apply(tt.manifest); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it refused for %s", what, err, tt.want)
		}
	}
	for _, manifest := range []string{
		pod("ops", privileged), strings.ReplaceAll(pod("ops", capability("SYS_ADMIN")), "name: p,", "name: p2,"), // who may all may this
		strings.ReplaceAll(pod("ops", "  hostPID: true\n  hostIPC: true\n"), "name: p,", "name: p3,"),
		strings.ReplaceAll(pod("default", "  shareProcessNamespace: true\n"), "name: p,", "name: p4,"),
		pod("net", capability("NET_ADMIN, CHOWN")), pod("default", capability("NET_BIND_SERVICE")),
	} {
		if _, err := w.apply(manifest); err != nil {
			t.Errorf("where it is allowed: %v", err)
		}
	}
}

func TestNewKindsWaitForTheLastOldBuild(t *testing.T) {
	w := newWorld(t)
	format := uint32(1)
	w.server.cfg.Format = func() uint32 { return format }
	_, err := w.apply(secretManifest)
	told := refused(t, err, connect.CodeFailedPrecondition, exitFailed)
	if !strings.Contains(err.Error(), "the kind Secret") || told.GetHint() == "" {
		t.Errorf("got %v (%s)", err, told.GetHint())
	}
	format = object.FormatPods
	if _, err := w.apply(secretManifest); err != nil {
		t.Error(err)
	}
}
