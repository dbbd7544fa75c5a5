package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// commit runs a read-think-write until nothing has changed in between.
func (s *Server) commit(ctx context.Context, think func() (*logv1.Txn, error)) (uint64, error) {
	if !s.cfg.Consensus.IsLeader() {
		return 0, errNotLeader
	}
	for range conflictTries {
		txn, err := think()
		if err != nil {
			return 0, err
		}
		if len(txn.GetOps()) == 0 {
			return s.cfg.Consensus.Store().Index(), nil
		}
		index, err := s.cfg.Consensus.Commit(ctx, txn)
		var conflict *state.ConflictError
		if !errors.As(err, &conflict) {
			return index, err
		}
	}
	return 0, refuse(connect.CodeAborted, exitFailed, "try again", "the objects keep changing; nothing was changed")
}

// Apply makes the cluster's objects what a manifest says.
func (c *cluster) Apply(ctx context.Context, req *skeinv1.ApplyRequest) (*skeinv1.ApplyResponse, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	manifests, err := object.Parse(req.GetFilename(), req.GetManifest(), namespaceOr(req.GetNamespace()))
	if err != nil {
		return nil, err
	}
	if len(manifests) == 0 {
		return nil, badRequest("%s holds no object", req.GetFilename())
	}
	var out *skeinv1.ApplyResponse
	services := slices.ContainsFunc(manifests, func(m object.Manifest) bool { return m.Kind.Name == object.KindService })
	defer c.assigning.begin(services)()
	think := func() (*logv1.Txn, error) {
		c.assigning.again(services)
		out = &skeinv1.ApplyResponse{}
		txn := &logv1.Txn{}
		for i := range manifests {
			op, applied, err := c.applyOne(ctx, &manifests[i], manifests, req.GetCreateOnly())
			if err != nil {
				return nil, err
			}
			out.Applied = append(out.Applied, applied)
			if op != nil {
				txn.Ops = append(txn.Ops, op)
			}
		}
		if req.GetDryRun() {
			txn.Ops = nil
		}
		return txn, nil
	}
	index, err := c.commit(ctx, think)
	if err != nil {
		return nil, err
	}
	for _, a := range out.GetApplied() {
		if a.GetAction() != "unchanged" {
			a.Version = index
		}
	}
	return out, nil
}

// applyOne decides about one object of a manifest.
func (c *cluster) applyOne(ctx context.Context, m *object.Manifest, all []object.Manifest, createOnly bool) (*logv1.Op, *skeinv1.Applied, error) {
	key := object.KeyOf(m.Object)
	row, exists := c.cfg.Consensus.Store().Get(key)
	if exists && createOnly {
		return nil, nil, refuse(connect.CodeAlreadyExists, exitFailed, "change it with \"skein apply\" or \"skein set image\", or delete it first",
			"%s %q exists already%s; nothing was changed", m.Kind.Singular, key.Name, inNamespace(key.Namespace))
	}
	if key.Namespace != "" && key.Namespace != defaultNamespace {
		if err := c.namespaceThere(key.Namespace, all); err != nil {
			return nil, nil, err
		}
	}
	var (
		obj    object.Object
		action string
		expect uint64
		err    error
	)
	if exists {
		expect = row.Version
		var open *state.Row
		if open, err = c.opened(row); err == nil {
			obj, action, err = m.Update(open)
		}
	} else {
		obj, err = m.Create(c.cfg.UID(), c.cfg.Now())
		action = object.Created
	}
	if err != nil {
		return nil, nil, err
	}
	applied := &skeinv1.Applied{
		Object:     &skeinv1.ObjectRef{Kind: m.Kind.Singular, Namespace: key.Namespace, Name: key.Name},
		Action:     action,
		Generation: obj.GetGeneration(),
		Awaitable:  key.Kind == object.KindDeployment || key.Kind == object.KindPod,
		Version:    expect,
	}
	if action == object.Unchanged {
		return nil, applied, nil
	}
	if !exists {
		row = nil
	}
	op, err := c.accept(ctx, obj, row, all)
	return op, applied, err
}

// namespaceThere refuses objects in a namespace that neither is there nor comes
// with them.
func (c *cluster) namespaceThere(ns string, all []object.Manifest) error {
	key := state.Key{Kind: object.KindNamespace, Name: ns}
	if row, ok := c.cfg.Consensus.Store().Get(key); ok {
		obj, err := object.Decode[corev1.Namespace](row)
		if err == nil && obj.DeletionTimestamp != nil {
			return refuse(connect.CodeFailedPrecondition, exitFailed, "", "namespace %q is being deleted; nothing was changed", ns)
		}
		return err
	}
	for _, m := range all {
		if object.KeyOf(m.Object) == key {
			return nil
		}
	}
	return refuse(connect.CodeNotFound, exitUsage, "make it with a manifest of kind Namespace", "namespace %q not found; nothing was changed", ns)
}

// Patch merges a patch into one object.
func (c *cluster) Patch(ctx context.Context, req *skeinv1.PatchRequest) (*skeinv1.PatchResponse, error) {
	role := RoleEdit
	ref, kind, err := c.resolve(req.GetObject())
	if err != nil {
		return nil, err
	}
	if kind.Name == object.KindNode {
		role = RoleAdmin
	}
	if err := need(ctx, role); err != nil {
		return nil, err
	}
	var out *skeinv1.Applied
	defer c.assigning.begin(kind.Name == object.KindService)()
	index, err := c.commit(ctx, func() (*logv1.Txn, error) {
		c.assigning.again(kind.Name == object.KindService)
		row, _, err := c.row(ref)
		if err != nil {
			return nil, err
		}
		if want := req.GetExpectVersion(); want != 0 && want != row.Version {
			return nil, &state.ConflictError{Key: row.Key, Have: row.Version, Want: want}
		}
		open, err := c.opened(row)
		if err != nil {
			return nil, err
		}
		obj, action, err := object.MergePatch(open, req.GetMergePatch())
		if err != nil {
			return nil, err
		}
		out = &skeinv1.Applied{
			Object: ref, Action: action, Version: row.Version, Generation: obj.GetGeneration(),
			Awaitable: kind.Name == object.KindDeployment || kind.Name == object.KindPod,
		}
		if action == object.Unchanged {
			return &logv1.Txn{}, nil
		}
		op, err := c.accept(ctx, obj, row, nil)
		if err != nil {
			return nil, err
		}
		return &logv1.Txn{Ops: []*logv1.Op{op}}, nil
	})
	if err != nil {
		return nil, err
	}
	if out.GetAction() != object.Unchanged {
		out.Version = index
	}
	return &skeinv1.PatchResponse{Applied: out}, nil
}

// Delete ends objects, and what they own with them.
func (c *cluster) Delete(ctx context.Context, req *skeinv1.DeleteRequest) (*skeinv1.DeleteResponse, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	refs, err := c.toDelete(req)
	if err != nil {
		return nil, err
	}
	out := &skeinv1.DeleteResponse{}
	for _, ref := range refs {
		index, err := c.commit(ctx, func() (*logv1.Txn, error) { return c.deletion(ref, req.GetGraceSeconds()) })
		var r *refusal
		if req.GetIgnoreNotFound() && errors.As(err, &r) && r.code == connect.CodeNotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Deleted = append(out.Deleted, &skeinv1.Applied{Object: ref, Action: "deleted", Version: index, Awaitable: true})
	}
	return out, nil
}

// toDelete lists what a request means, each with its full name.
func (c *cluster) toDelete(req *skeinv1.DeleteRequest) ([]*skeinv1.ObjectRef, error) {
	var refs []*skeinv1.ObjectRef
	if len(req.GetManifest()) > 0 {
		manifests, err := object.Parse(req.GetFilename(), req.GetManifest(), namespaceOr(req.GetNamespace()))
		if err != nil {
			return nil, err
		}
		for _, m := range slices.Backward(manifests) { // a namespace goes after what is in it
			key := object.KeyOf(m.Object)
			refs = append(refs, &skeinv1.ObjectRef{Kind: m.Kind.Singular, Namespace: key.Namespace, Name: key.Name})
		}
		return refs, nil
	}
	for _, ref := range req.GetObjects() {
		if ref.GetNamespace() == "" {
			ref.Namespace = req.GetNamespace()
		}
		full, kind, err := c.resolve(ref)
		if err != nil {
			return nil, err
		}
		if full.GetName() != "" {
			refs = append(refs, full)
			continue
		}
		if req.GetLabelSelector() == "" {
			return nil, badRequest("say which %s to delete, by name or with -l", kind.Plural)
		}
		match, err := object.MatchLabels(req.GetLabelSelector())
		if err != nil {
			return nil, badRequest("%v", err)
		}
		for _, row := range c.cfg.Consensus.Store().List(kind.Name, full.GetNamespace(), "") {
			if match(object.Labels(row)) {
				refs = append(refs, &skeinv1.ObjectRef{Kind: kind.Singular, Namespace: row.Key.Namespace, Name: row.Key.Name})
			}
		}
	}
	return refs, nil
}

// deletion is what ends one object. A Deployment takes its Revisions and Pods
// with it, in the same transaction.
func (c *cluster) deletion(ref *skeinv1.ObjectRef, grace int64) (*logv1.Txn, error) {
	row, kind, err := c.row(ref)
	if err != nil {
		return nil, err
	}
	txn := &logv1.Txn{}
	switch kind.Name {
	case object.KindPod:
		op, err := podDeletion(row, grace, c.cfg.Now())
		if err != nil {
			return nil, err
		}
		if op != nil {
			txn.Ops = append(txn.Ops, op)
		}
	case object.KindDeployment:
		txn.Ops = append(txn.Ops, object.Delete(row.Key, row.Version))
		for _, rev := range c.cfg.Consensus.Store().List(object.KindRevision, row.Key.Namespace, object.OwnerIndex(row.UID)) {
			txn.Ops = append(txn.Ops, object.Delete(rev.Key, rev.Version))
			for _, pod := range c.cfg.Consensus.Store().List(object.KindPod, row.Key.Namespace, object.OwnerIndex(rev.UID)) {
				op, err := podDeletion(pod, grace, c.cfg.Now())
				if err != nil {
					return nil, err
				}
				if op != nil {
					txn.Ops = append(txn.Ops, op)
				}
			}
		}
	case object.KindNamespace:
		op, err := namespaceDeletion(row, c.cfg.Now())
		if err != nil {
			return nil, err
		}
		txn.Ops = append(txn.Ops, op)
	case object.KindEvent, object.KindImage, object.KindConfigMap, object.KindSecret, object.KindService, object.KindNetworkPolicy:
		txn.Ops = append(txn.Ops, object.Delete(row.Key, row.Version))
	case object.KindNode:
		return nil, refuse(connect.CodeInvalidArgument, exitUsage, "use \"skein node rm "+ref.GetName()+"\"", "a node is not deleted like other objects")
	default:
		return nil, badRequest("a %s cannot be deleted by itself", kind.Singular)
	}
	return txn, nil
}

// podDeletion asks a Pod's node to stop it. One that is bound to no node, or has
// ended already, goes at once; so does any with a grace of 0.
func podDeletion(row *state.Row, grace int64, now time.Time) (*logv1.Op, error) {
	pod, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	exclusive := object.Exclusive(pod.Annotations) // its node must say that it is gone, or its lease run out
	if pod.Spec.NodeName == "" || grace == 0 && !exclusive {
		return object.Delete(row.Key, row.Version), nil
	}
	if grace < 0 {
		grace = 30
		if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
			grace = *s
		}
	}
	if old := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && old != nil && *old <= grace {
		return nil, nil // it goes sooner already
	}
	by := metav1.Time{Time: now.Add(time.Duration(grace) * time.Second).Truncate(time.Second)}
	if pod.DeletionTimestamp == nil || by.Before(pod.DeletionTimestamp) {
		pod.DeletionTimestamp = &by
	}
	pod.DeletionGracePeriodSeconds = &grace
	return object.Put(pod, row.Version)
}

func namespaceDeletion(row *state.Row, now time.Time) (*logv1.Op, error) {
	if row.Key.Name == defaultNamespace {
		return nil, refuse(connect.CodeInvalidArgument, exitUsage, "", "the namespace %q is always there", defaultNamespace)
	}
	ns, err := object.Decode[corev1.Namespace](row)
	if err != nil {
		return nil, err
	}
	if ns.DeletionTimestamp == nil {
		ns.DeletionTimestamp = &metav1.Time{Time: now.Truncate(time.Second)}
	}
	ns.Status.Phase = corev1.NamespaceTerminating
	return object.Put(ns, row.Version)
}

// deletePod asks one Pod to go.
func (s *Server) deletePod(ctx context.Context, key state.Key, grace int64) error {
	_, err := s.commit(ctx, func() (*logv1.Txn, error) {
		row, ok := s.cfg.Consensus.Store().Get(key)
		if !ok {
			return &logv1.Txn{}, nil
		}
		op, err := podDeletion(row, grace, s.cfg.Now())
		if err != nil || op == nil {
			return &logv1.Txn{}, err
		}
		return &logv1.Txn{Ops: []*logv1.Op{op}}, nil
	})
	return err
}
