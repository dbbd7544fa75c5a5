package api

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// sources is the door by which a node gets what its Pods name.
type sources struct {
	*Server
	skeinv1connect.UnimplementedSourceServiceHandler
}

// Sources streams to a node the ConfigMaps and Secrets of its own Pods.
func (s *sources) Sources(ctx context.Context, _ *skeinv1.SourcesRequest, stream skeinv1connect.SourceServiceSourcesServerStream) error {
	if !s.voter() || !s.cfg.Consensus.CaughtUp() {
		return errNotLeader // what this copy lacks must not read as deleted
	}
	ctx, cancel := s.whileLed(ctx)
	defer cancel()
	return s.SourcesOf(ctx, identity.PeerName(ctx), stream.Send)
}

// SourcesOf tells what the Pods of a node name, and what changes, until ctx ends.
// Which Pods those are, this node's own store says. A voter's own node part calls
// it directly.
func (s *Server) SourcesOf(ctx context.Context, node string, send func(*skeinv1.SourcesResponse) error) error {
	store := s.cfg.Consensus.Store()
	watch := store.Changed(
		state.Selector{Kind: object.KindPod, Index: object.NodeIndex(node)}, state.Selector{Kind: object.KindNamespace},
		state.Selector{Kind: object.KindConfigMap}, state.Selector{Kind: object.KindSecret},
	)
	defer watch.Close()
	t := &telling{server: s, node: node, send: send, named: map[string]naming{}, told: map[state.Key]uint64{}, policies: map[string][]string{}}
	if err := send(&skeinv1.SourcesResponse{Reset_: true}); err != nil {
		return err
	}
	for first := true; ; first = false {
		changed, err := t.look()
		if err == nil && (changed || first) {
			err = send(&skeinv1.SourcesResponse{Synced: true})
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watch.C():
		}
	}
}

// A naming is what one version of a Pod names.
type naming struct {
	version uint64
	keys    []state.Key
}

// A telling is what one node was told.
type telling struct {
	server   *Server
	node     string
	send     func(*skeinv1.SourcesResponse) error
	named    map[string]naming // by Pod uid
	told     map[state.Key]uint64
	policies map[string][]string // by namespace
}

// look tells what is different from what was told, and whether anything was.
func (t *telling) look() (changed bool, err error) {
	want, namespaces, err := t.wanted()
	if err != nil {
		return false, err
	}
	say := func(msg *skeinv1.SourcesResponse) {
		if err == nil {
			changed, err = true, t.send(msg)
		}
	}
	store := t.server.cfg.Consensus.Store()
	for ns := range namespaces {
		var allows []string
		if row, ok := store.Get(state.Key{Kind: object.KindNamespace, Name: ns}); ok {
			obj, err := object.Decode[corev1.Namespace](row)
			if err != nil {
				return changed, err
			}
			allows = object.PoliciesOf(obj)
		}
		if have, told := t.policies[ns]; !told || !slices.Equal(have, allows) {
			t.policies[ns] = allows
			say(&skeinv1.SourcesResponse{Policy: &skeinv1.NamespacePolicy{Namespace: ns, Allows: allows}})
		}
	}
	for key := range want {
		row, ok := store.Get(key)
		if !ok {
			delete(want, key)
			continue
		}
		if t.told[key] == row.Version {
			continue
		}
		src, err := t.server.sourceOf(row)
		if err != nil {
			t.server.log.Error("a source cannot be opened", "kind", key.Kind, "name", key.Namespace+"/"+key.Name, "err", err)
			continue // the Pods that need it wait, the others do not
		}
		t.told[key] = row.Version
		say(&skeinv1.SourcesResponse{Put: src})
	}
	for key := range t.told {
		if !want[key] {
			delete(t.told, key)
			say(&skeinv1.SourcesResponse{Delete: sourceKey(key)})
		}
	}
	return changed, err
}

// wanted is what the Pods that are bound to the node name, and their namespaces.
func (t *telling) wanted() (keys map[state.Key]bool, namespaces map[string]bool, err error) {
	keys, namespaces = map[state.Key]bool{}, map[string]bool{}
	seen := map[string]naming{}
	for _, row := range t.server.cfg.Consensus.Store().List(object.KindPod, "", object.NodeIndex(t.node)) {
		n, ok := t.named[row.UID]
		if !ok || n.version != row.Version {
			pod, err := object.Decode[corev1.Pod](row)
			if err != nil {
				return nil, nil, err
			}
			n = naming{version: row.Version}
			if pod.Spec.NodeName == t.node {
				n.keys = object.SourcesOf(pod)
			}
		}
		seen[row.UID] = n
		namespaces[row.Key.Namespace] = true
		for _, key := range n.keys {
			keys[key] = true
		}
	}
	t.named = seen
	return keys, namespaces, nil
}

func sourceKey(key state.Key) *skeinv1.SourceKey {
	return &skeinv1.SourceKey{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name}
}

// sourceOf opens a row for the node that may have it.
func (s *Server) sourceOf(row *state.Row) (*skeinv1.Source, error) {
	out := &skeinv1.Source{Key: sourceKey(row.Key), Uid: row.UID, Version: row.Version, Data: map[string][]byte{}}
	if row.Key.Kind == object.KindConfigMap {
		c, err := object.Decode[corev1.ConfigMap](row)
		if err != nil {
			return nil, err
		}
		for k, v := range c.Data {
			out.Data[k] = []byte(v)
		}
		for k, v := range c.BinaryData {
			out.Data[k] = v
		}
		return out, nil
	}
	if s.cfg.Sealer == nil {
		return nil, errNoSealer
	}
	secret, err := object.OpenSecret(row, s.cfg.Sealer)
	if err != nil {
		return nil, err
	}
	out.Type, out.Data = string(secret.Type), secret.Data
	return out, nil
}
