package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

var errNoSealer = errors.New("this node holds no sealing key")

// opened returns a row with the values of a Secret in clear, any other as it is.
// It must not be kept, logged or written.
func (s *Server) opened(row *state.Row) (*state.Row, error) {
	if row.Key.Kind != object.KindSecret {
		return row, nil
	}
	if s.cfg.Sealer == nil {
		return nil, errNoSealer
	}
	return object.OpenRow(row, s.cfg.Sealer)
}

// accept is the last look at an object that a person writes, and the operation
// that writes it over before, nil for a new one. Others are those of the same
// manifest.
func (s *Server) accept(ctx context.Context, obj object.Object, before *state.Row, others []object.Manifest) (*logv1.Op, error) {
	if err := s.formatReads(obj); err != nil {
		return nil, err
	}
	if err := s.policyChange(ctx, obj, before); err != nil {
		return nil, err
	}
	if err := s.policyAllows(obj, others); err != nil {
		return nil, err
	}
	expect := uint64(0)
	if before != nil {
		expect = before.Version
	}
	if secret, ok := obj.(*corev1.Secret); ok {
		if s.cfg.Sealer == nil {
			return nil, errNoSealer
		}
		sealed, err := object.SealSecret(secret, before, s.cfg.Sealer)
		if err != nil {
			return nil, err
		}
		obj = sealed
	}
	if svc, ok := obj.(*corev1.Service); ok {
		if err := s.assign(svc); err != nil {
			return nil, err
		}
	}
	return object.Put(obj, expect)
}

// formatReads refuses what a member of the cluster would misread.
func (s *Server) formatReads(obj object.Object) error {
	if s.cfg.Format == nil {
		return nil
	}
	need, because, err := object.Format(obj)
	if err != nil {
		return err
	}
	if have := s.cfg.Format(); need > have {
		return refuse(connect.CodeFailedPrecondition, exitFailed,
			"upgrade every node, and try again a few seconds after the last of them is back (\"skein get nodes -o wide\" shows their versions)",
			"%s of %s needs format %d, and the cluster has %d: a node is away or has an older build; nothing was changed",
			because, object.KeyOf(obj), need, have)
	}
	return nil
}

// policyChange lets only administrators say what the Pods of a namespace may do
// to their machines.
func (s *Server) policyChange(ctx context.Context, obj object.Object, before *state.Row) error {
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil
	}
	var old *corev1.Namespace
	if before != nil {
		var err error
		if old, err = object.Decode[corev1.Namespace](before); err != nil {
			return err
		}
	}
	if object.SamePolicies(ns, old) {
		return nil
	}
	return need(ctx, RoleAdmin)
}

// policyAllows refuses what the namespace of a Pod does not allow. The node looks
// again at what it is about to run.
func (s *Server) policyAllows(obj object.Object, others []object.Manifest) error {
	wants := object.Wants(obj)
	if len(wants) == 0 {
		return nil
	}
	key := state.Key{Kind: object.KindNamespace, Name: obj.GetNamespace()}
	var ns *corev1.Namespace
	if row, ok := s.cfg.Consensus.Store().Get(key); ok {
		var err error
		if ns, err = object.Decode[corev1.Namespace](row); err != nil {
			return err
		}
	}
	for _, m := range others {
		if given, ok := m.Object.(*corev1.Namespace); ok && m.Key() == key {
			ns = given
		}
	}
	for _, w := range wants {
		if !w.AllowedBy(ns) {
			return refuse(connect.CodePermissionDenied, exitDenied,
				fmt.Sprintf("an administrator allows it by the annotation %s on the namespace", w.Annotation()),
				"%s of %s: the namespace %q does not allow it; nothing was changed", w.Path, object.KeyOf(obj), obj.GetNamespace())
		}
	}
	return nil
}

// readable returns rows as a document shows them: Secrets with their values, to
// those who may change them. Tables and descriptions show no value to anybody.
func (s *Server) readable(ctx context.Context, sel *selection, rows []*state.Row) ([]*state.Row, error) {
	if sel.kind.Name != object.KindSecret || drawn(sel.req.GetFormat()) || sel.req.GetFormat() == skeinv1.Format_FORMAT_NAME {
		return rows, nil
	}
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	out := make([]*state.Row, len(rows))
	for i, row := range rows {
		open, err := s.opened(row)
		if err != nil {
			return nil, err
		}
		out[i] = open
	}
	return out, nil
}
