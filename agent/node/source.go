package node

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/protobuf/proto"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
)

// A keeper of small things in memory, for root alone, which outlive the agent.
type smallKeeper interface {
	Keep(name string, body []byte) error
	Kept() ([][]byte, error)
}

// Sources are the ConfigMaps and Secrets that this node was given for its Pods,
// and what their namespaces allow. They are kept in memory only.
type Sources struct {
	log  *slog.Logger
	keep smallKeeper

	mu       sync.Mutex
	have     map[state.Key]*skeinv1.Source
	policies map[string][]string // by namespace
	fresh    map[string]bool     // names in keep that were told since the last reset; nil: all there is was told
	synced   bool                // since this agent started
	news     chan struct{}
}

func newSources(keep smallKeeper, log *slog.Logger) *Sources {
	s := &Sources{log: log, keep: keep, have: map[state.Key]*skeinv1.Source{}, policies: map[string][]string{}, news: make(chan struct{}, 1)}
	if keep == nil {
		return s
	}
	kept, err := keep.Kept()
	if err != nil {
		log.Warn("cannot read what was kept of ConfigMaps and Secrets", "err", err)
	}
	for _, body := range kept {
		msg := &skeinv1.SourcesResponse{}
		if err := proto.Unmarshal(body, msg); err != nil {
			log.Warn("cannot read a kept ConfigMap or Secret", "err", err)
			continue
		}
		s.note(msg)
	}
	return s
}

func keyOf(k *skeinv1.SourceKey) state.Key {
	return state.Key{Kind: k.GetKind(), Namespace: k.GetNamespace(), Name: k.GetName()}
}

func keptAs(msg *skeinv1.SourcesResponse) string {
	if p := msg.GetPolicy(); p != nil {
		return "policy/" + p.GetNamespace()
	}
	return keyOf(msg.GetPut().GetKey()).String()
}

// note takes one thing to heart. It is called with mu held, or alone.
func (s *Sources) note(msg *skeinv1.SourcesResponse) {
	if p := msg.GetPolicy(); p != nil {
		s.policies[p.GetNamespace()] = p.GetAllows()
	}
	if src := msg.GetPut(); src != nil {
		s.have[keyOf(src.GetKey())] = src
	}
}

// Take hears one piece of what a voter tells.
func (s *Sources) Take(msg *skeinv1.SourcesResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if msg.GetReset_() {
		s.fresh = map[string]bool{}
	}
	if msg.GetPolicy() != nil || msg.GetPut() != nil {
		name := keptAs(msg)
		if s.fresh != nil {
			s.fresh[name] = true
		}
		s.note(msg)
		s.save(name, msg)
	}
	if key := msg.GetDelete(); key != nil {
		s.drop(keyOf(key))
	}
	if msg.GetSynced() {
		s.prune()
		s.synced = true
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
}

// prune drops what was not told since the last reset.
func (s *Sources) prune() {
	if s.fresh == nil {
		return
	}
	for _, key := range slices.Collect(maps.Keys(s.have)) {
		if !s.fresh[key.String()] {
			s.drop(key)
		}
	}
	for ns := range s.policies {
		if !s.fresh["policy/"+ns] {
			delete(s.policies, ns)
			s.save("policy/"+ns, nil)
		}
	}
	s.fresh = nil
}

func (s *Sources) drop(key state.Key) {
	delete(s.have, key)
	s.save(key.String(), nil)
}

func (s *Sources) save(name string, msg *skeinv1.SourcesResponse) {
	if s.keep == nil {
		return
	}
	var body []byte
	if msg != nil {
		var err error
		if body, err = proto.Marshal(&skeinv1.SourcesResponse{Put: msg.GetPut(), Policy: msg.GetPolicy()}); err != nil {
			s.log.Warn("cannot keep a ConfigMap or Secret", "name", name, "err", err)
			return
		}
	}
	if err := s.keep.Keep(name, body); err != nil {
		s.log.Warn("cannot keep a ConfigMap or Secret: after a restart without a voter it will be missing", "name", name, "err", err)
	}
}

// allowed tells what a namespace allows its containers.
func (s *Sources) allowed(namespace string) container.Allowed {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.policies[namespace]
	return container.Allowed{
		HostPaths: slices.Contains(have, object.AnnotationHostPath), Privileged: slices.Contains(have, object.AnnotationPrivileged),
		Capabilities: object.CapabilitiesIn(have),
	}
}

// permit refuses a container that asks for more than its namespace allows.
func permit(namespace string, c container.Spec) error {
	err := c.Check()
	switch {
	case err == nil:
		return nil
	case (c.Sandbox.HostPIDs || c.Sandbox.HostIPC) && !c.Security.Allowed.Privileged:
		return fmt.Errorf("the namespace %q does not allow hostPID and hostIPC (annotation %s)", namespace, object.AnnotationPrivileged)
	case c.Security.Privileged:
		return fmt.Errorf("the namespace %q does not allow securityContext.privileged (annotation %s)", namespace, object.AnnotationPrivileged)
	}
	return fmt.Errorf("securityContext.capabilities.add: %w, %q (annotation %s)", err, namespace, object.AnnotationCapabilities)
}

var (
	errNoSource = errors.New("not found")
	// errUnheard says that no voter has told yet what there is.
	errUnheard = errors.New("no voter has been reached since this agent started")
)

// source returns a ConfigMap or Secret. The error wraps errNoSource when there is
// none, and errUnheard while that cannot be known.
func (s *Sources) source(kind, namespace, name string) (*skeinv1.Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src, ok := s.have[state.Key{Kind: kind, Namespace: namespace, Name: name}]; ok {
		return src, nil
	}
	err := errNoSource
	if !s.synced {
		err = errUnheard
	}
	return nil, fmt.Errorf("%s %q in namespace %q: %w", kind, name, namespace, err)
}

// Secret returns the type and the values of a Secret of a Pod of this node.
func (s *Sources) Secret(namespace, name string) (kind corev1.SecretType, data map[string][]byte, err error) {
	src, err := s.source("Secret", namespace, name)
	return corev1.SecretType(src.GetType()), src.GetData(), err
}

// valueOf returns the value of a key, and whether there is one: without what is
// optional there is none.
func (s *Sources) valueOf(kind, namespace, name, key string, optional *bool) (value []byte, there bool, err error) {
	src, err := s.source(kind, namespace, name)
	if err != nil {
		if errors.Is(err, errNoSource) && isTrue(optional) {
			return nil, false, nil
		}
		return nil, false, err
	}
	if value, there = src.GetData()[key]; !there && !isTrue(optional) {
		return nil, false, fmt.Errorf("%s %q in namespace %q has no key %q", kind, name, namespace, key)
	}
	return value, there, nil
}
