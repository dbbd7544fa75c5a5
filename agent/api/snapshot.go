package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"connectrpc.com/connect/v2"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
	"github.com/skein-dev/skein/proto/snapshotfile"
)

// WriteSnapshot writes the objects of the cluster as they are in this node's
// copy, all at one index. What only the cluster itself has a use for stays out,
// because it holds keys or what opens doors: its CA, the gossip keys, tokens.
func (s *Server) WriteSnapshot(ctx context.Context, w io.Writer) (*skeinv1.SnapshotHeader, error) {
	if !s.voter() {
		return nil, refuse(connect.CodeFailedPrecondition, exitFailed, "ask a voter", "node %s has no vote, and so no copy of everything", s.cfg.Name)
	}
	age, err := s.freshness(ctx)
	if err != nil {
		return nil, err
	}
	header := &skeinv1.SnapshotHeader{
		ClusterId: s.cfg.Cluster.ID, TimeUnix: s.cfg.Now().Unix(), Version: s.cfg.Versions.GetVersion(), Node: s.cfg.Name,
		AgeMs: age.Milliseconds(), Counts: map[string]uint64{}, LeftOut: map[string]uint64{},
	}
	var rows []*state.Row
	s.cfg.Consensus.Store().Read(func(v state.View) {
		header.Index, header.Epoch = v.Index(), v.Epoch()
		rows = v.List(state.AllKinds, "", "")
	})
	kept := rows[:0:0]
	for _, row := range rows {
		if kind, known := object.KindNamed(row.Key.Kind); !known || kind.Internal {
			header.LeftOut[row.Key.Kind]++
			continue
		}
		header.Counts[row.Key.Kind]++
		kept = append(kept, row)
	}
	out, err := snapshotfile.NewWriter(w, header)
	if err != nil {
		return nil, err
	}
	for _, row := range kept {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := out.Add(row.Object()); err != nil {
			return nil, err
		}
	}
	return header, out.Close()
}

// SaveSnapshot streams a snapshot. Without a leader it is that of this node's
// own copy, which may be old and says so.
func (c *cluster) SaveSnapshot(ctx context.Context, _ *skeinv1.SaveSnapshotRequest, stream skeinv1connect.ClusterServiceSaveSnapshotServerStream) error {
	if err := need(ctx, RoleAdmin); err != nil {
		return err
	}
	_, err := c.WriteSnapshot(ctx, snapshotStream(func(b []byte) error {
		return stream.Send(&skeinv1.SaveSnapshotResponse{Chunk: b})
	}))
	return err
}

// snapshotStream cuts what is written to it into messages.
type snapshotStream func([]byte) error

func (send snapshotStream) Write(b []byte) (int, error) {
	for part := range slices.Chunk(b, blobChunk) {
		if err := send(part); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// A restoration is what a snapshot says of people's objects.
type restoration struct {
	manifests []object.Manifest
	images    []object.ImageSpec
	named     map[state.Key]bool
	sealed    []*skeinv1.ObjectRef // Secrets that another cluster has sealed
	opened    func(*state.Row) (*state.Row, error)
}

// RestoreSnapshot makes the objects of people what they are in a snapshot. What
// the cluster makes of them by itself, its nodes and its keys stay as they are;
// so does what is not in the snapshot, unless it is to be pruned.
func (c *cluster) RestoreSnapshot(ctx context.Context, stream skeinv1connect.ClusterServiceRestoreSnapshotServerStream) (*skeinv1.RestoreSnapshotResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	if !c.cfg.Consensus.IsLeader() {
		return nil, errNotLeader
	}
	first, err := stream.Receive()
	if err != nil {
		return nil, badRequest("the snapshot is empty")
	}
	want := &restoration{named: map[state.Key]bool{}}
	body := &chunks[*skeinv1.RestoreSnapshotRequest]{stream: stream, rest: first.GetChunk()}
	want.opened = c.opened
	header, err := snapshotfile.Read(body, want.add)
	if err != nil {
		return nil, badRequest("%v; nothing was changed", err)
	}
	out := &skeinv1.RestoreSnapshotResponse{Header: header}
	if err := c.restore(ctx, want, first.GetDryRun(), out); err != nil {
		return nil, err
	}
	for _, ref := range want.sealed {
		out.Applied = append(out.Applied, &skeinv1.Applied{Object: ref, Action: "left out: another cluster has sealed it"})
	}
	return out, c.others(ctx, want, first.GetPrune(), first.GetDryRun(), out)
}

// add takes an object of the snapshot if it is a person's.
func (r *restoration) add(o *logv1.Object) error {
	row := state.RowOf(o)
	kind, known := object.KindNamed(row.Key.Kind)
	if row.Key.Kind == object.KindImage {
		img, err := object.Decode[object.Image](row)
		if err != nil {
			return err
		}
		r.images = append(r.images, img.Spec)
		return nil
	}
	if !known || !kind.Manifest {
		return nil
	}
	open, err := r.opened(row)
	if errors.Is(err, identity.ErrUnseal) {
		r.sealed = append(r.sealed, &skeinv1.ObjectRef{Kind: kind.Singular, Namespace: row.Key.Namespace, Name: row.Key.Name})
		r.named[row.Key] = true // one of that name is not pruned
		return nil
	}
	if err != nil {
		return err
	}
	text, err := wished(kind, open)
	if err != nil || text == nil {
		return err
	}
	list, err := object.Parse("the snapshot", text, row.Key.Namespace)
	if err != nil {
		return fmt.Errorf("%s: %w", row.Key, err)
	}
	r.manifests = append(r.manifests, list...)
	r.named[row.Key] = true
	return nil
}

// wished is an object as a person would write it today: without what the cluster
// has made of it. It is nil for what the cluster made by itself.
func wished(kind object.Kind, row *state.Row) ([]byte, error) {
	obj, err := object.DecodeAny(row)
	if err != nil {
		return nil, err
	}
	if len(obj.GetOwnerReferences()) > 0 || obj.GetDeletionTimestamp() != nil {
		return nil, nil
	}
	var doc map[string]any
	if err := json.Unmarshal(row.Body, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", row.Key, err)
	}
	delete(doc, "status")
	doc["apiVersion"], doc["kind"] = kind.APIVersion, kind.Name
	meta := map[string]any{"name": obj.GetName()}
	if kind.Namespaced {
		meta["namespace"] = obj.GetNamespace()
	}
	if labels := obj.GetLabels(); len(labels) > 0 {
		meta["labels"] = labels
	}
	if notes := obj.GetAnnotations(); len(notes) > 0 {
		meta["annotations"] = notes // those of the cluster have no effect in a manifest
	}
	doc["metadata"] = meta
	if spec, ok := doc["spec"].(map[string]any); ok && kind.Name == object.KindPod {
		delete(spec, "nodeName") // the machine may be no more
	}
	return json.Marshal(doc)
}

// restoreBatch is how many objects one transaction puts back. The order is that
// of the kinds, namespaces first.
const restoreBatch = 100

func (c *cluster) restore(ctx context.Context, want *restoration, dry bool, out *skeinv1.RestoreSnapshotResponse) error {
	slices.SortStableFunc(want.manifests, func(a, b object.Manifest) int {
		return compareBool(a.Kind.Name != object.KindNamespace, b.Kind.Name != object.KindNamespace)
	})
	if !dry {
		for _, img := range want.images {
			if err := c.Name(ctx, img); err != nil {
				return err
			}
		}
	}
	for batch := range slices.Chunk(want.manifests, restoreBatch) {
		var applied []*skeinv1.Applied
		_, err := c.commit(ctx, func() (*logv1.Txn, error) {
			txn := &logv1.Txn{}
			applied = nil
			for i := range batch {
				op, a, err := c.applyOne(ctx, &batch[i], want.manifests, false)
				if err != nil {
					return nil, err
				}
				applied = append(applied, a)
				if op != nil && !dry {
					txn.Ops = append(txn.Ops, op)
				}
			}
			return txn, nil
		})
		if err != nil {
			return unfinished(len(out.GetApplied()), len(want.manifests), err)
		}
		out.Applied = append(out.Applied, applied...)
	}
	return nil
}

// unfinished says how far a restoration came: to run it again does no harm.
func unfinished(done, all int, err error) error {
	if done == 0 {
		return err
	}
	return fmt.Errorf("%d of %d objects were put back, then: %w", done, all, err)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// others deals with the objects of people that are not in the snapshot.
func (c *cluster) others(ctx context.Context, want *restoration, prune, dry bool, out *skeinv1.RestoreSnapshotResponse) error {
	for _, kind := range object.Kinds() {
		if !kind.Manifest {
			continue
		}
		for _, row := range c.cfg.Consensus.Store().List(kind.Name, "", "") {
			obj, err := object.DecodeAny(row)
			if err != nil {
				return err
			}
			if want.named[row.Key] || len(obj.GetOwnerReferences()) > 0 || obj.GetDeletionTimestamp() != nil ||
				kind.Name == object.KindNamespace && row.Key.Name == defaultNamespace {
				continue
			}
			ref := &skeinv1.ObjectRef{Kind: kind.Singular, Namespace: row.Key.Namespace, Name: row.Key.Name}
			if !prune {
				out.Kept = append(out.Kept, ref)
				continue
			}
			if !dry {
				if _, err := c.commit(ctx, func() (*logv1.Txn, error) { return c.deletion(ref, -1) }); err != nil {
					return fmt.Errorf("delete %s: %w", row.Key, err)
				}
			}
			out.Applied = append(out.Applied, &skeinv1.Applied{Object: ref, Action: "deleted"})
		}
	}
	return nil
}
