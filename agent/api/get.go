package api

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// A selection is what a Get or Watch is after.
type selection struct {
	kind   object.Kind
	ns     string
	name   string
	fields func(*state.Row) bool
	labels func(map[string]string) bool
	req    *skeinv1.GetRequest
}

func (s *Server) selection(req *skeinv1.GetRequest) (*selection, error) {
	kind, err := kindNamed(req.GetKind())
	if err != nil {
		return nil, err
	}
	if err := s.holds(kind); err != nil {
		return nil, err
	}
	sel := &selection{kind: kind, name: nameOf(kind, req.GetName()), req: req}
	if kind.Namespaced && !req.GetAllNamespaces() {
		sel.ns = namespaceOr(req.GetNamespace())
	}
	if sel.name != "" && req.GetAllNamespaces() && kind.Namespaced {
		return nil, badRequest("an object is named within one namespace: leave out -A, or the name")
	}
	if sel.labels, err = object.MatchLabels(req.GetLabelSelector()); err != nil {
		return nil, badRequest("%v", err)
	}
	if sel.fields, err = object.MatchFields(kind.Name, req.GetFieldSelector()); err != nil {
		return nil, badRequest("%v", err)
	}
	return sel, nil
}

// matches tells whether a row is meant.
func (sel *selection) matches(row *state.Row) bool {
	switch {
	case row.Key.Kind != sel.kind.Name, sel.ns != "" && row.Key.Namespace != sel.ns, sel.name != "" && row.Key.Name != sel.name:
		return false
	case sel.req.GetLabelSelector() != "" && !sel.labels(object.Labels(row)):
		return false
	}
	return sel.req.GetFieldSelector() == "" || sel.fields(row)
}

// unknownAge is that of an answer of which nobody can tell how old it is.
const unknownAge = -time.Millisecond

// freshness makes sure that a read sees every write acknowledged before it, or
// tells how old the answer may be.
func (s *Server) freshness(ctx context.Context) (time.Duration, error) {
	asked := time.Now()
	if s.cfg.Consensus.IsLeader() {
		confirm, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if s.cfg.Consensus.Confirm(confirm) == nil {
			return 0, nil
		}
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	heard := s.cfg.Consensus.Contact()
	if heard.IsZero() {
		return unknownAge, nil // it has not heard a leader since it started
	}
	if heard.After(asked) { // a leader hears itself, which says nothing if nobody confirms it
		heard = asked
	}
	return max(time.Since(heard), time.Millisecond), nil
}

// Get answers with one object or a list.
func (c *cluster) Get(ctx context.Context, req *skeinv1.GetRequest) (*skeinv1.GetResponse, error) {
	if err := need(ctx, RoleView); err != nil {
		return nil, err
	}
	sel, err := c.selection(req)
	if err != nil {
		return nil, err
	}
	age, err := c.freshness(ctx)
	if err != nil {
		return nil, err
	}
	out := &skeinv1.GetResponse{AgeMs: age.Milliseconds(), Note: c.partial()}
	var rows []*state.Row
	c.cfg.Consensus.Store().Read(func(v state.View) {
		out.Index = v.Index()
		if sel.name != "" {
			if row, ok := v.Get(state.Key{Kind: sel.kind.Name, Namespace: sel.ns, Name: sel.name}); ok {
				rows = append(rows, row)
			}
			return
		}
		rows = v.List(sel.kind.Name, sel.ns, "")
	})
	if sel.name != "" && len(rows) == 0 {
		return nil, c.missing(sel.kind, &skeinv1.ObjectRef{Kind: sel.kind.Singular, Namespace: sel.ns, Name: req.GetName()})
	}
	kept := rows[:0:0]
	for _, row := range rows {
		if sel.matches(row) {
			kept = append(kept, c.shown(row))
		}
	}
	if drawn(req.GetFormat()) {
		out.Table, err = object.Table(sel.kind.Name, kept, c.tableOptions(sel))
		return out, err
	}
	if kept, err = c.readable(ctx, sel, kept); err != nil {
		return nil, err
	}
	out.Document, err = object.Document(kept, req.GetFormat(), sel.name != "")
	return out, err
}

// tableOptions tells how to draw a table, and counts what it shows of others.
func (s *Server) tableOptions(sel *selection) object.TableOptions {
	opt := object.TableOptions{
		Wide: sel.req.GetFormat() == skeinv1.Format_FORMAT_WIDE, Now: s.cfg.Now(),
		Namespaces: sel.kind.Namespaced && sel.ns == "",
		PodsOn: func(node string) int {
			return len(s.cfg.Consensus.Store().List(object.KindPod, "", object.NodeIndex(node)))
		},
	}
	if sel.kind.Name == object.KindImage {
		holders := s.imageHolders()
		opt.Holders = func(img *object.Image) int { return holders[img.Spec.Digest] }
	}
	return opt
}

// imageHolders counts the nodes that hold each image, by digest.
func (s *Server) imageHolders() map[string]int {
	out := map[string]int{}
	for _, row := range s.cfg.Consensus.Store().List(object.KindNode, "", "") {
		node, err := object.Decode[corev1.Node](row)
		if err != nil {
			continue // it shows in the nodes' own table
		}
		for _, img := range node.Status.Images {
			for _, name := range img.Names {
				out[name]++
			}
		}
	}
	return out
}

func drawn(f skeinv1.Format) bool {
	return f == skeinv1.Format_FORMAT_UNSPECIFIED || f == skeinv1.Format_FORMAT_WIDE
}

// Watch answers like Get, and then with every change.
func (c *cluster) Watch(ctx context.Context, req *skeinv1.GetRequest, stream skeinv1connect.ClusterServiceWatchServerStream) error {
	if err := need(ctx, RoleView); err != nil {
		return err
	}
	sel, err := c.selection(req)
	if err != nil {
		return err
	}
	if _, err := c.readable(ctx, sel, nil); err != nil {
		return err
	}
	ctx, cancel := c.whileLed(ctx)
	defer cancel()
	shown := map[string]bool{}
	sels := []state.Selector{{Kind: sel.kind.Name, Namespace: sel.ns}}
	for batch, err := range c.cfg.Consensus.Store().Follow(ctx, 0, "", sels) {
		if err != nil {
			return err
		}
		if err := c.sendBatch(ctx, sel, batch, shown, stream.Send); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// sendBatch sends what of a batch is meant, and takes back what no longer is.
func (c *cluster) sendBatch(ctx context.Context, sel *selection, batch state.Batch, shown map[string]bool, send func(*skeinv1.WatchResponse) error) error {
	out := &skeinv1.WatchResponse{Reset_: batch.Reset, Synced: !batch.More}
	if batch.Reset {
		clear(shown)
	}
	var rows []*state.Row
	for _, row := range batch.Puts {
		key := row.Key.Namespace + "/" + row.Key.Name
		switch {
		case sel.matches(row):
			shown[key] = true
			rows = append(rows, c.shown(row))
		case shown[key]:
			delete(shown, key)
			out.Deleted = append(out.Deleted, key)
		}
	}
	for _, k := range batch.Deletes {
		if key := k.Namespace + "/" + k.Name; shown[key] {
			delete(shown, key)
			out.Deleted = append(out.Deleted, key)
		}
	}
	if drawn(sel.req.GetFormat()) {
		var err error
		if out.Table, err = object.Table(sel.kind.Name, rows, c.tableOptions(sel)); err != nil {
			return err
		}
		return send(out)
	}
	rows, err := c.readable(ctx, sel, rows)
	if err != nil {
		return err
	}
	for _, row := range rows {
		doc, err := object.Document([]*state.Row{row}, sel.req.GetFormat(), true)
		if err != nil {
			return err
		}
		if err := send(&skeinv1.WatchResponse{Reset_: out.GetReset_(), Document: doc}); err != nil {
			return err
		}
		out.Reset_ = false
	}
	return send(out)
}

// shown is a row as people see it: a Node bears the labels that say who votes
// and who leads.
func (s *Server) shown(row *state.Row) *state.Row {
	if row.Key.Kind != object.KindNode {
		return row
	}
	node, err := object.Decode[corev1.Node](row)
	if err != nil {
		return row
	}
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	delete(node.Labels, object.LabelLeader)
	if node.Name == s.cfg.Consensus.Leader() {
		node.Labels[object.LabelLeader] = "true"
	}
	if s.votes(node.Name) {
		node.Labels[object.LabelVoter] = "true"
	}
	enc, err := object.Encode(node)
	if err != nil {
		return row
	}
	out := *row
	out.Body = enc.GetBody()
	return &out
}

// Describe tells an object's story.
func (c *cluster) Describe(ctx context.Context, req *skeinv1.DescribeRequest) (*skeinv1.TextResponse, error) {
	if err := need(ctx, RoleView); err != nil {
		return nil, err
	}
	age, err := c.freshness(ctx)
	if err != nil {
		return nil, err
	}
	row, kind, err := c.row(req.GetObject())
	if err != nil {
		return nil, err
	}
	text, err := object.Describe(c.shown(row), c.related(kind, row), c.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", row.Key, err)
	}
	return &skeinv1.TextResponse{Text: text, AgeMs: age.Milliseconds(), Note: c.partial()}, nil
}
