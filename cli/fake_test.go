package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// fake is a ClusterService that answers by the book. What it does depends on
// the names of objects (an object "stuck" never converges) and on its mode. It
// notes every request, so that a script can check what was sent.
type fake struct {
	skeinv1connect.UnimplementedClusterServiceHandler
	skeinv1connect.UnimplementedInsideServiceHandler
	skeinv1connect.UnimplementedImageServiceHandler

	mu     sync.Mutex
	mode   string
	asked  []string
	counts map[string]int
	calls  chan string // every procedure, as it is called
	token  string
	image  []byte // the last one imported
}

func newFake() *fake {
	return &fake{counts: map[string]int{}, calls: make(chan string, 1000)}
}

func refuse(code connect.Code, exit int32, hint, format string, args ...any) error {
	detail, err := connectproto.NewErrorDetail(&skeinv1.ErrorInfo{Hint: hint, ExitCode: exit})
	if err != nil {
		return err
	}
	return connect.Errorf(code, format, args...).WithDetail(detail)
}

// noted is a stream whose requests are written down.
type noted struct {
	connect.ServerStream
	fake *fake
	name string
}

func (n noted) Receive(msg any) error {
	if err := n.ServerStream.Receive(msg); err != nil {
		return err
	}
	n.fake.note(n.name, msg.(proto.Message)) //nolint:forcetypeassert // all are
	return nil
}

// intercept notes requests and refuses where the mode says so.
func (f *fake) intercept(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		name := spec.Procedure[strings.LastIndex(spec.Procedure, "/")+1:]
		f.calls <- name
		switch f.modeNow() {
		case "denied":
			return refuse(connect.CodePermissionDenied, 0, "", "role view may not do this")
		case "noleader":
			if !slices.Contains([]string{"Get", "Status", "Describe", "Watch", "Version"}, name) {
				return refuse(connect.CodeUnavailable, exitNoLeader, `see which machines are missing with "skein status"`, "no leader: a majority of the voters cannot be reached; nothing was changed")
			}
		case "broken":
			return errors.New("a cause that stays on the server")
		}
		if info, ok := connect.CallInfoForServerContext(ctx); ok && f.modeNow() == "token" && info.RequestHeader().Get("Authorization") != "Bearer "+f.secret() {
			return refuse(connect.CodeUnauthenticated, exitForbidden, "", "the token is not known here")
		}
		return next(ctx, spec, noted{stream, f, name})
	}
}

func (f *fake) modeNow() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mode
}

// secret is the token of a person.
func (f *fake) secret() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.token
}

// count tells how often it was called with key before.
func (f *fake) count(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[key]++
	return f.counts[key] - 1
}

var encodedBytes = regexp.MustCompile(`"(manifest|mergePatch|chunk|stdin)":"([^"]*)"`)

// note writes a request as JSON, bytes as the text that they are.
func (f *fake) note(name string, msg proto.Message) {
	raw, err := protojson.Marshal(msg)
	var compact bytes.Buffer
	if err == nil {
		err = json.Compact(&compact, raw)
	}
	if err != nil {
		panic(err)
	}
	line := encodedBytes.ReplaceAllStringFunc(compact.String(), func(found string) string {
		parts := encodedBytes.FindStringSubmatch(found)
		text, err := base64.StdEncoding.DecodeString(parts[2])
		if err != nil || len(text) > 4000 {
			return found
		}
		return fmt.Sprintf("%q:<<%s>>", parts[1], text)
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, name+" "+line)
}

func (f *fake) takeAsked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

var (
	manifestName = regexp.MustCompile(`"?name"?: ?"?([a-z0-9-]+)`)
	badField     = "replicsa"
)

func (f *fake) Apply(_ context.Context, req *skeinv1.ApplyRequest) (*skeinv1.ApplyResponse, error) {
	text := string(req.GetManifest())
	for i, line := range strings.Split(text, "\n") {
		if strings.Contains(line, badField) {
			return nil, refuse(connect.CodeInvalidArgument, exitUsage, `did you mean "replicas"?`, "%s:%d: spec.%s: unknown field; nothing was changed", req.GetFilename(), i+1, badField)
		}
	}
	response := &skeinv1.ApplyResponse{}
	for _, document := range strings.Split(strings.TrimPrefix(text, "---\n"), "---\n") {
		name := manifestName.FindStringSubmatch(document)[1]
		if name == "taken" && req.GetCreateOnly() {
			return nil, refuse(connect.CodeAlreadyExists, exitFailed, "", "deployment %q exists already; nothing was changed", name)
		}
		ref := deploy(name)
		if strings.Contains(document, `"kind":"Service"`) {
			ref.Kind = "service"
		}
		response.Applied = append(response.Applied, &skeinv1.Applied{Object: ref, Action: "created", Generation: 1, Awaitable: true})
	}
	return response, nil
}

func deploy(name string) *skeinv1.ObjectRef {
	return &skeinv1.ObjectRef{Kind: "deployment", Namespace: "default", Name: name}
}

func ago(d time.Duration) string { return time.Now().Add(-d).UTC().Format(time.RFC3339) }

var answers = map[string]string{
	"pod":        `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-1","namespace":"default","resourceVersion":"7","labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"skein/demo:v1"}]}}`,
	"single":     `{"kind":"Deployment","metadata":{"name":"single"},"spec":{"replicas":1,"selector":{"matchLabels":{"app":"single"}}}}`,
	"two":        `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"two"},"spec":{"containers":[{"name":"app"},{"name":"sidecar"}]}}`,
	"deployment": `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","resourceVersion":"42"},"spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}},"template":{"spec":{"containers":[{"name":"web","image":"skein/demo:v1","ports":[{"containerPort":8080}]},{"name":"log","image":"x"}]}}}}`,
	"service":    `{"kind":"Service","metadata":{"name":"web","annotations":{"skein.dev/publish":"8080:http, 8443"}},"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80,"protocol":"TCP","nodePort":30080},{"name":"dns","port":53,"protocol":"UDP"}]}}`,
	"bare":       `{"kind":"Service","metadata":{"name":"bare"},"spec":{"ports":[{"port":80}]}}`,
	"many":       `{"kind":"Deployment","metadata":{"name":"many"},"spec":{"selector":{"matchLabels":{"app":"many"}},"template":{"spec":{"containers":[{"name":"a","ports":[{"containerPort":8080,"name":"http"},{"containerPort":53,"protocol":"UDP"},{"containerPort":9,"protocol":"SCTP"}]},{"name":"b","ports":[{"containerPort":9090}]}]}}}}`,
	"portless":   `{"kind":"Deployment","metadata":{"name":"portless"},"spec":{"selector":{"matchLabels":{"app":"portless"}},"template":{"spec":{"containers":[{"name":"a"}]}}}}`,
	"clever":     `{"kind":"Deployment","metadata":{"name":"clever"},"spec":{"selector":{"matchExpressions":[{"key":"app","operator":"Exists"}]},"template":{"spec":{"containers":[{"name":"a"}]}}}}`,
	"idle":       `{"kind":"Service","metadata":{"name":"idle"},"spec":{"selector":{"app":"idle"},"ports":[{"port":80}]}}`,
	"node":       `{"apiVersion":"v1","kind":"List","items":[{"metadata":{"name":"n1","annotations":{"skein.dev/advertise":"192.0.2.1:7373"}}},{"metadata":{"name":"n2","labels":{"skein.dev/leader":"true"},"annotations":{"skein.dev/advertise":"192.0.2.2:7373"}}}]}`,
}

var names = map[string]string{
	"pod": "pod/web-1\npod/web-2\n", "service": "service/web\n", "deployment": "deployment/web\ndeployment/worker\n",
	"node": "node/n1\nnode/n2\n", "namespace": "namespace/default\nnamespace/team-a\n", "image": "image/skein/demo:v1\n",
}

func (f *fake) Get(_ context.Context, req *skeinv1.GetRequest) (*skeinv1.GetResponse, error) {
	kind := kindOf(req.GetKind()).words[0]
	answer := &skeinv1.GetResponse{}
	if f.modeNow() == "noleader" {
		answer.AgeMs = 3200
	}
	switch {
	case strings.HasPrefix(req.GetKind(), "podz"):
		return nil, refuse(connect.CodeInvalidArgument, exitUsage, "did you mean pods?", "there is no kind %q", req.GetKind())
	case req.GetName() == "ghost":
		return nil, refuse(connect.CodeNotFound, exitFailed, `see what there is with "skein get `+kind+`"`, "%s %q not found in namespace %s", kind, req.GetName(), req.GetNamespace())
	}
	switch req.GetFormat() {
	case skeinv1.Format_FORMAT_JSON:
		answer.Document = []byte(answers[kind] + "\n")
		if text, ok := answers[req.GetName()]; ok {
			answer.Document = []byte(text)
		}
	case skeinv1.Format_FORMAT_YAML:
		answer.Document = []byte("apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + req.GetName() + "\n")
	case skeinv1.Format_FORMAT_NAME:
		answer.Document = []byte(names[kind])
		if req.GetLabelSelector() == "app=single" {
			answer.Document = []byte("pod/single-1\n")
		}
		if req.GetLabelSelector() == "app=idle" {
			answer.Document = nil
		}
	default:
		answer.Table = f.table(kind, req)
	}
	return answer, nil
}

func (f *fake) table(kind string, req *skeinv1.GetRequest) *skeinv1.Table {
	if req.GetNamespace() == "empty" {
		return &skeinv1.Table{Columns: []string{"NAME"}}
	}
	row := func(key string, cells ...string) *skeinv1.TableRow { return &skeinv1.TableRow{Key: key, Cells: cells} }
	switch kind {
	case "pod":
		table := &skeinv1.Table{Columns: []string{"NAME", "READY", "STATUS", "RESTARTS", "AGE"}, Rows: []*skeinv1.TableRow{
			row("default/web-1", "web-1", "1/1", "Running", "0", ago(49*time.Hour)),
			row("default/web-22", "web-22", "0/1", "ImagePullBackOff", "12", ago(30*time.Minute)),
		}}
		if req.GetName() != "" {
			table.Rows = table.GetRows()[:1]
		}
		return table
	case "node":
		return &skeinv1.Table{Columns: []string{"NAME", "STATUS", "AGE"}, Rows: []*skeinv1.TableRow{row("/n1", "n1", "Ready", ago(400*24*time.Hour))}}
	case "event":
		return &skeinv1.Table{Columns: []string{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}, Rows: []*skeinv1.TableRow{
			row("default/e1", ago(10*time.Minute), "Warning", "BackOff", "pod/web-22", "evil \x1b[31mred\x07"),
		}}
	default:
		return &skeinv1.Table{Columns: []string{"NAME", "READY", "AGE"}, Rows: []*skeinv1.TableRow{row("default/web", "web", "1/2", ago(9*24*time.Hour))}}
	}
}

func (f *fake) Patch(_ context.Context, req *skeinv1.PatchRequest) (*skeinv1.PatchResponse, error) {
	if f.modeNow() == "conflict" && f.count("conflict") == 0 {
		return nil, refuse(connect.CodeAborted, exitFailed, "try again", "it has changed since it was read; nothing was changed")
	}
	return &skeinv1.PatchResponse{Applied: &skeinv1.Applied{
		Object: &skeinv1.ObjectRef{Kind: kindOf(req.GetObject().GetKind()).words[0], Namespace: req.GetObject().GetNamespace(), Name: req.GetObject().GetName()},
		Action: "configured", Generation: 2, Awaitable: kindOf(req.GetObject().GetKind()).name == "Deployment",
	}}, nil
}

func (f *fake) Delete(_ context.Context, req *skeinv1.DeleteRequest) (*skeinv1.DeleteResponse, error) {
	response := &skeinv1.DeleteResponse{}
	for _, ref := range req.GetObjects() {
		if ref.GetName() == "ghost" {
			if req.GetIgnoreNotFound() {
				continue
			}
			return nil, refuse(connect.CodeNotFound, exitFailed, "", "pod %q not found in namespace default", ref.GetName())
		}
		name := ref.GetName()
		if name == "" {
			name = "web-1"
		}
		response.Deleted = append(response.Deleted, &skeinv1.Applied{
			Object: &skeinv1.ObjectRef{Kind: kindOf(ref.GetKind()).words[0], Namespace: ref.GetNamespace(), Name: name}, Awaitable: true,
		})
	}
	if len(req.GetManifest()) > 0 {
		response.Deleted = append(response.Deleted, &skeinv1.Applied{Object: deploy(manifestName.FindStringSubmatch(string(req.GetManifest()))[1])})
	}
	return response, nil
}

func (f *fake) Describe(_ context.Context, req *skeinv1.DescribeRequest) (*skeinv1.TextResponse, error) {
	if req.GetObject().GetName() == "ghost" {
		return nil, refuse(connect.CodeNotFound, exitFailed, "", "pod %q not found in namespace default", "ghost")
	}
	return &skeinv1.TextResponse{Text: "Name:  " + req.GetObject().GetName() + "\nEvents:  none\n"}, nil
}

func (f *fake) Status(_ context.Context, req *skeinv1.StatusRequest) (*skeinv1.TextResponse, error) {
	answer := &skeinv1.TextResponse{Text: "3 nodes, leader n2, survives the loss of 1\n"}
	if req.GetJson() {
		answer.Json = []byte(`{"leader":"n2"}`)
	}
	if f.modeNow() == "noleader" {
		answer.AgeMs = 65_000
	}
	return answer, nil
}

func (f *fake) Version(context.Context, *skeinv1.VersionRequest) (*skeinv1.VersionResponse, error) {
	return &skeinv1.VersionResponse{Version: "v0.1.0", GoVersion: "go1.26", RuncVersion: "1.5.2", Node: "n1", Leader: "n2"}, nil
}

func (f *fake) RemoveNode(_ context.Context, req *skeinv1.RemoveNodeRequest) (*skeinv1.RemoveNodeResponse, error) {
	if !req.GetForce() {
		return nil, refuse(connect.CodeFailedPrecondition, 5, `move them first with "skein node drain `+req.GetNode()+`", or use --force`, "node %s still has 4 Pods", req.GetNode())
	}
	return &skeinv1.RemoveNodeResponse{Message: "its certificate opens nothing any more"}, nil
}

func (f *fake) CreateToken(_ context.Context, req *skeinv1.CreateTokenRequest) (*skeinv1.CreateTokenResponse, error) {
	response := &skeinv1.CreateTokenResponse{Id: "7f3k9q", Token: f.secret()}
	if req.GetRole() == "" {
		response.JoinCommand = "skeind run --join 192.0.2.2:7373 --token skein1-x"
	}
	return response, nil
}

func (f *fake) ListTokens(context.Context, *skeinv1.ListTokensRequest) (*skeinv1.GetResponse, error) {
	return &skeinv1.GetResponse{Table: &skeinv1.Table{Columns: []string{"ID", "FOR", "EXPIRES"}, Rows: []*skeinv1.TableRow{
		{Key: "7f3k9q", Cells: []string{"7f3k9q", "joining", ago(-47*time.Hour - 30*time.Minute)}},
		{Key: "old", Cells: []string{"old", "people (view)", ago(time.Hour)}},
	}}}, nil
}

func (f *fake) RevokeToken(context.Context, *skeinv1.RevokeTokenRequest) (*skeinv1.RevokeTokenResponse, error) {
	return &skeinv1.RevokeTokenResponse{}, nil
}

func (f *fake) ImportImage(_ context.Context, stream skeinv1connect.ClusterServiceImportImageServerStream) (*skeinv1.ImportImageResponse, error) {
	var image bytes.Buffer
	node := "n1"
	for {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if req.GetNode() != "" {
			node = req.GetNode()
		}
		image.Write(req.GetChunk())
		if bytes.HasPrefix(image.Bytes(), []byte("no image")) {
			return nil, refuse(connect.CodeInvalidArgument, exitUsage, "", "that is neither a docker-save archive nor an OCI layout")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.image = image.Bytes()
	return &skeinv1.ImportImageResponse{References: []string{"web:v1"}, Node: node, Bytes: int64(image.Len())}, nil
}

// cutOff ends a call as a machine that loses its power does, from HTTP's view.
func cutOff() { panic(http.ErrAbortHandler) }
