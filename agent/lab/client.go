package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// callTimeout bounds one call to an agent, which may have to find its leader.
const callTimeout = 5 * time.Second

// call asks the agent of a node by its local socket, as root does.
func call[T any](ctx context.Context, l *Lab, n *node, do func(context.Context, skeinv1connect.ClusterServiceClient) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.socket(n))
		},
	}
	defer transport.CloseIdleConnections()
	return do(ctx, skeinv1connect.NewClusterServiceClient(connect.NewClient(
		connecthttp.NewTransport(&http.Client{Transport: transport}, "http://"+n.Name))))
}

// answers tells whether the agent of a node is there, leader or not.
func (l *Lab) answers(ctx context.Context, n *node) bool {
	_, err := call(ctx, l, n, func(ctx context.Context, c skeinv1connect.ClusterServiceClient) (*skeinv1.VersionResponse, error) {
		return c.Version(ctx, &skeinv1.VersionRequest{})
	})
	return err == nil
}

// createToken makes a token as soon as there is a leader. It asks one node after
// the other: root is an administrator on those that vote.
func (l *Lab) createToken(ctx context.Context, role string, watch ...*launch) (*skeinv1.CreateTokenResponse, error) {
	req := &skeinv1.CreateTokenRequest{Role: role, Description: "lab " + l.Name}
	var res *skeinv1.CreateTokenResponse
	var last error
	done := until(ctx, startWait, func() bool {
		for _, w := range watch {
			if w.ended() {
				last = l.notUp(ctx, w)
				return true
			}
		}
		for _, n := range l.Nodes {
			if !n.Joined && len(watch) == 0 || l.removed(n) {
				continue
			}
			res, last = call(ctx, l, n, func(ctx context.Context, c skeinv1connect.ClusterServiceClient) (*skeinv1.CreateTokenResponse, error) {
				return c.CreateToken(ctx, req)
			})
			if last == nil {
				return true
			}
		}
		return false
	})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case done && last == nil && res != nil:
		return res, nil
	case last == nil:
		last = errors.New("no node is a part of the cluster")
	}
	var own *Error
	if errors.As(last, &own) {
		return nil, own
	}
	return nil, fault("look for the cause in "+l.dir+"/*/agent.log", "the cluster of lab %q makes no token: %s", l.Name, plain(last))
}

// plain is what an agent said, without what the client puts before it.
func plain(err error) string {
	var e *connect.Error
	if errors.As(err, &e) && e.Message() != "" {
		return e.Message()
	}
	return err.Error()
}

// readyNodes are the names of the nodes that the cluster calls ready, and whether
// each votes.
func (l *Lab) readyNodes(ctx context.Context) (voters map[string]bool, err error) {
	req := &skeinv1.GetRequest{Kind: "nodes", Format: skeinv1.Format_FORMAT_JSON}
	var errs []error
	for _, n := range l.Nodes {
		if n.Killed || l.removed(n) {
			continue
		}
		res, err := call(ctx, l, n, func(ctx context.Context, c skeinv1connect.ClusterServiceClient) (*skeinv1.GetResponse, error) {
			return c.Get(ctx, req)
		})
		if err == nil {
			return parseReady(res.GetDocument())
		}
		errs = append(errs, fmt.Errorf("node %s: %s", n.Name, plain(err)))
	}
	return nil, errors.Join(errs...)
}

// voterLabel is on the nodes that vote.
const voterLabel = "skein.dev/voter"

func parseReady(doc []byte) (map[string]bool, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, fmt.Errorf("read the list of nodes: %w", err)
	}
	out := map[string]bool{}
	for _, item := range list.Items {
		for _, c := range item.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				out[item.Metadata.Name] = item.Metadata.Labels[voterLabel] == "true"
			}
		}
	}
	return out, nil
}

// What `up` waits for at the end.
const (
	wantVoters = 3 // of as many nodes or more: only then is any of them dispensable
	votersWait = 15 * time.Second
)

// settle waits until the cluster calls every node ready and, where there are
// enough of them, for a while until three vote.
func (l *Lab) settle(ctx context.Context) error {
	var missing []string
	var voters int
	var last error
	look := func() {
		var names map[string]bool
		names, last = l.readyNodes(ctx)
		missing, voters = nil, 0
		for _, n := range l.Nodes {
			votes, ready := names[n.Name]
			if !ready && !l.removed(n) {
				missing = append(missing, n.Name)
			}
			if votes {
				voters++
			}
		}
	}
	ready := until(ctx, readyWait, func() bool {
		look()
		return len(missing) == 0
	})
	switch {
	case ready:
		return l.awaitVoters(ctx, func() int {
			look()
			return voters
		})
	case ctx.Err() != nil:
		return ctx.Err()
	case last != nil:
		return fmt.Errorf("ask for the nodes of lab %s: %w", l.Name, last)
	}
	return fault("look for the cause in "+l.dir+"/*/agent.log", "not ready after %v: %s", readyWait, strings.Join(missing, ", "))
}

// awaitVoters says so and goes on where too few vote: a person may have kept
// nodes from it.
func (l *Lab) awaitVoters(ctx context.Context, count func() int) error {
	left := 0
	for _, n := range l.Nodes {
		if !l.removed(n) {
			left++
		}
	}
	if left < wantVoters {
		return nil
	}
	voters := 0
	until(ctx, votersWait, func() bool {
		voters = count()
		return voters >= wantVoters
	})
	if voters < wantVoters && ctx.Err() == nil {
		l.say("only %d of the nodes vote", voters)
	}
	return ctx.Err()
}
