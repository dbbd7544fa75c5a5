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
			if !n.Joined && len(watch) == 0 {
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

// readyNodes are the names of the nodes that the cluster calls ready.
func (l *Lab) readyNodes(ctx context.Context) (map[string]bool, error) {
	req := &skeinv1.GetRequest{Kind: "nodes", Format: skeinv1.Format_FORMAT_JSON}
	var errs []error
	for _, n := range l.Nodes {
		if n.Killed {
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

func parseReady(doc []byte) (map[string]bool, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
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
				out[item.Metadata.Name] = true
			}
		}
	}
	return out, nil
}

// settle waits until the cluster calls every node ready.
func (l *Lab) settle(ctx context.Context) error {
	var missing []string
	var last error
	ready := until(ctx, readyWait, func() bool {
		var names map[string]bool
		names, last = l.readyNodes(ctx)
		missing = nil
		for _, n := range l.Nodes {
			if !names[n.Name] {
				missing = append(missing, n.Name)
			}
		}
		return len(missing) == 0
	})
	switch {
	case ready:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case last != nil:
		return fmt.Errorf("ask for the nodes of lab %s: %w", l.Name, last)
	}
	return fault("look for the cause in "+l.dir+"/*/agent.log", "not ready after %v: %s", readyWait, strings.Join(missing, ", "))
}
