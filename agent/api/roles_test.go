package api

import (
	"errors"
	"maps"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/reflect/protoreflect"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

func TestRolesAllowWhatTheySay(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(webManifest); err != nil {
		t.Fatal(err)
	}
	web := &skeinv1.ObjectRef{Kind: "deploy", Name: "web"}
	none := "nothing has this name" // who may, hears this and no refusal
	calls := map[string]roleCall{
		"Version": {role: RoleNone, call: func(c callerOf) error { return errOf(c.Version(t.Context(), &skeinv1.VersionRequest{})) }},
		"Get":     {role: RoleView, call: func(c callerOf) error { return errOf(c.Get(t.Context(), &skeinv1.GetRequest{Kind: "pods"})) }},
		"Status":  {role: RoleView, call: func(c callerOf) error { return errOf(c.Status(t.Context(), &skeinv1.StatusRequest{})) }},
		"Describe": {role: RoleView, call: func(c callerOf) error {
			return errOf(c.Describe(t.Context(), &skeinv1.DescribeRequest{Object: web}))
		}},
		"Watch": {role: RoleView, call: func(c callerOf) error {
			return first(c.Watch(t.Context(), &skeinv1.GetRequest{Kind: "pods"}))
		}},
		"Await": {role: RoleView, fail: true, call: func(c callerOf) error {
			return first(c.Await(t.Context(), &skeinv1.AwaitRequest{Object: &skeinv1.ObjectRef{Kind: "deploy", Name: none}}))
		}},
		"Logs": {role: RoleView, fail: true, call: func(c callerOf) error {
			return first(c.Logs(t.Context(), &skeinv1.LogsRequest{Objects: []*skeinv1.ObjectRef{{Kind: "pod", Name: none}}}))
		}},
		"Apply": {role: RoleEdit, call: func(c callerOf) error {
			return errOf(c.Apply(t.Context(), &skeinv1.ApplyRequest{Manifest: []byte(webManifest), DryRun: true}))
		}},
		"Patch": {role: RoleEdit, call: func(c callerOf) error {
			return errOf(c.Patch(t.Context(), &skeinv1.PatchRequest{Object: web, MergePatch: []byte(`{"spec":{"replicas":2}}`)}))
		}},
		"Patch of a node": {role: RoleAdmin, call: func(c callerOf) error {
			return errOf(c.Patch(t.Context(), &skeinv1.PatchRequest{Object: &skeinv1.ObjectRef{Kind: "node", Name: "n1"}, MergePatch: []byte(`{"spec":{"unschedulable":true}}`)}))
		}},
		"Delete": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			return errOf(c.Delete(t.Context(), &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{{Kind: "pod", Name: none}}}))
		}},
		"Exec": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			stream, err := c.Exec(t.Context())
			if err == nil {
				_ = stream.Send(&skeinv1.ExecRequest{Message: &skeinv1.ExecRequest_Start{Start: &skeinv1.ExecStart{
					Pod: &skeinv1.ObjectRef{Kind: "pod", Name: none}, Command: []string{"id"},
				}}}) // the answer tells
				_ = stream.CloseSend()
			}
			return first(stream, err)
		}},
		"ImportImage": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			stream, err := c.ImportImage(t.Context())
			if err != nil {
				return err
			}
			return errOf(stream.CloseAndReceive())
		}},
		"Drain": {role: RoleAdmin, fail: true, call: func(c callerOf) error {
			return first(c.Drain(t.Context(), &skeinv1.DrainRequest{Node: none}))
		}},
		"RemoveNode": {role: RoleAdmin, fail: true, call: func(c callerOf) error {
			return errOf(c.RemoveNode(t.Context(), &skeinv1.RemoveNodeRequest{Node: none}))
		}},
		"CreateToken": {role: RoleAdmin, call: func(c callerOf) error {
			return errOf(c.CreateToken(t.Context(), &skeinv1.CreateTokenRequest{}))
		}},
		"ListTokens": {role: RoleAdmin, call: func(c callerOf) error { return errOf(c.ListTokens(t.Context(), &skeinv1.ListTokensRequest{})) }},
		"RevokeToken": {role: RoleAdmin, fail: true, call: func(c callerOf) error {
			return errOf(c.RevokeToken(t.Context(), &skeinv1.RevokeTokenRequest{Id: none}))
		}},
		"SaveSnapshot": {role: RoleAdmin, call: func(c callerOf) error {
			return first(c.SaveSnapshot(t.Context(), &skeinv1.SaveSnapshotRequest{}))
		}},
		"RestoreSnapshot": {role: RoleAdmin, fail: true, call: func(c callerOf) error {
			stream, err := c.RestoreSnapshot(t.Context())
			if err != nil {
				return err
			}
			return errOf(stream.CloseAndReceive())
		}},
	}
	maps.Copy(calls, insideCalls(t))
	maps.Copy(calls, imageCalls(t))
	for _, service := range []protoreflect.ServiceDescriptor{
		skeinv1.File_skein_v1_cluster_proto.Services().ByName("ClusterService"), skeinv1.File_skein_v1_inside_proto.Services().ByName("InsideService"),
		skeinv1.File_skein_v1_image_proto.Services().ByName("ImageService"),
	} {
		for i := range service.Methods().Len() {
			if _, tried := calls[string(service.Methods().Get(i).Name())]; !tried {
				t.Errorf("%s is tried by nobody", service.Methods().Get(i).Name())
			}
		}
	}
	for _, role := range []Role{RoleNone, RoleView, RoleEdit, RoleAdmin} {
		token := ""
		if role > RoleNone {
			made, err := w.root.CreateToken(t.Context(), &skeinv1.CreateTokenRequest{Role: role.String()})
			if err != nil {
				t.Fatal(err)
			}
			token = made.GetToken()
		}
		conn := w.dial(w.server.People(), token)
		client := callerOf{skeinv1connect.NewClusterServiceClient(conn), skeinv1connect.NewInsideServiceClient(conn), skeinv1connect.NewImageServiceClient(conn)}
		for name, c := range calls {
			err := c.call(client)
			code := connect.CodeOf(err)
			switch {
			case role == RoleNone && code != connect.CodeUnauthenticated:
				t.Errorf("%s of nobody: %v, want unauthenticated", name, err)
			case role == RoleNone:
			case role < c.role:
				refused(t, err, connect.CodePermissionDenied, exitDenied)
			case c.fail && (err == nil || code == connect.CodePermissionDenied || code == connect.CodeUnauthenticated),
				!c.fail && err != nil:
				t.Errorf("%s as %s: %v", name, role, err)
			}
		}
	}
}

func errOf(_ any, err error) error { return err }

// first is the error of the first message of a stream.
func first[M any, S interface {
	Receive() (M, error)
	Close() error
}](stream S, err error) error {
	if err != nil {
		return err
	}
	_, err = stream.Receive()
	return errors.Join(err, stream.Close())
}

type callerOf struct {
	skeinv1connect.ClusterServiceClient
	skeinv1connect.InsideServiceClient
	skeinv1connect.ImageServiceClient
}

// A roleCall is a call that takes a role, and fails also for whoever has it, or
// not.
type roleCall struct {
	role Role
	fail bool
	call func(c callerOf) error
}

// insideCalls are those of InsideService.
func insideCalls(t *testing.T) map[string]roleCall {
	nobody := &skeinv1.ObjectRef{Kind: "pod", Name: "nothing has this name"}
	return map[string]roleCall{
		"Attach": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			stream, err := c.Attach(t.Context())
			if err == nil {
				_ = stream.Send(&skeinv1.AttachRequest{Message: &skeinv1.AttachRequest_Start{Start: &skeinv1.AttachStart{Pod: nobody}}}) // the answer tells
				_ = stream.CloseSend()
			}
			return first(stream, err)
		}},
		"CopyOut": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			return first(c.CopyOut(t.Context(), &skeinv1.CopyOutRequest{Pod: nobody, Path: "/"}))
		}},
		"CopyIn": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			stream, err := c.CopyIn(t.Context())
			if err != nil {
				return err
			}
			_ = stream.Send(&skeinv1.CopyInRequest{Start: &skeinv1.CopyInStart{Pod: nobody, Path: "/"}}) // the answer tells
			return errOf(stream.CloseAndReceive())
		}},
		"PortForward": {role: RoleEdit, fail: true, call: func(c callerOf) error {
			stream, err := c.PortForward(t.Context())
			if err == nil {
				_ = stream.Send(&skeinv1.PortForwardRequest{Pod: nobody, Port: 80}) // the answer tells
				_ = stream.CloseSend()
			}
			return first(stream, err)
		}},
		"Doctor": {role: RoleView, call: func(c callerOf) error {
			return errOf(c.Doctor(t.Context(), &skeinv1.DoctorRequest{}))
		}},
		"Top": {role: RoleView, call: func(c callerOf) error {
			return errOf(c.Top(t.Context(), &skeinv1.TopRequest{Kind: "nodes"}))
		}},
	}
}

// What a node without a vote asks of another's containers is refused.
func TestOnlyVotersReachInside(t *testing.T) {
	w := newWorld(t)
	p := &insidePeer{Server: w.server}
	calls := map[string]func() error{
		"PodAttach": func() error { return p.PodAttach(t.Context(), skeinv1connect.InsidePeerServicePodAttachServerStream{}) },
		"PodCopyOut": func() error {
			return p.PodCopyOut(t.Context(), nil, skeinv1connect.InsidePeerServicePodCopyOutServerStream{})
		},
		"PodCopyIn": func() error {
			return errOf(p.PodCopyIn(t.Context(), skeinv1connect.InsidePeerServicePodCopyInServerStream{}))
		},
		"PodForward": func() error {
			return p.PodForward(t.Context(), skeinv1connect.InsidePeerServicePodForwardServerStream{})
		},
		"NodeUsage": func() error { return errOf(p.NodeUsage(t.Context(), nil)) },
	}
	methods := skeinv1.File_skein_v1_inside_proto.Services().ByName("InsidePeerService").Methods()
	for i := range methods.Len() {
		name := string(methods.Get(i).Name())
		if calls[name] == nil {
			t.Errorf("%s is tried by nobody", name)
			continue
		}
		var refusal *refusal
		if err := calls[name](); !errors.As(err, &refusal) || refusal.code != connect.CodePermissionDenied {
			t.Errorf("%s of a node without a vote: %v", name, err)
		}
	}
}
