package api

import (
	"errors"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

const defaultNamespace = "default"

func namespaceOr(ns string) string {
	if ns == "" {
		return defaultNamespace
	}
	return ns
}

// kindNamed finds the kind that a person means.
func kindNamed(word string) (object.Kind, error) {
	if kind, ok := object.Lookup(word); ok {
		return kind, nil
	}
	if why, instead, ok := object.Unsupported(word); ok {
		return object.Kind{}, refuse(connect.CodeInvalidArgument, exitUsage, instead, "%s", why)
	}
	if near := object.Nearest(word); near != "" {
		return object.Kind{}, refuse(connect.CodeInvalidArgument, exitUsage, "did you mean "+near+"?", "there is no kind %q", word)
	}
	var known []string
	for _, k := range object.Kinds() {
		known = append(known, k.Plural)
	}
	return object.Kind{}, refuse(connect.CodeInvalidArgument, exitUsage, "there are "+strings.Join(known, ", "), "there is no kind %q", word)
}

// resolve fills in what a reference leaves out, and gives its kind the name
// that is printed.
func (s *Server) resolve(ref *skeinv1.ObjectRef) (*skeinv1.ObjectRef, object.Kind, error) {
	kind, err := kindNamed(ref.GetKind())
	if err != nil {
		return nil, kind, err
	}
	out := &skeinv1.ObjectRef{Kind: kind.Singular, Name: nameOf(kind, ref.GetName())}
	if kind.Namespaced {
		out.Namespace = namespaceOr(ref.GetNamespace())
	}
	return out, kind, nil
}

// nameOf is the name of the object that a person calls so: an Image goes by its
// reference too.
func nameOf(kind object.Kind, name string) string {
	if kind.Name == object.KindImage && strings.ContainsAny(name, "/:") {
		return object.ImageName(name)
	}
	return name
}

// row reads the object that a reference names.
func (s *Server) row(ref *skeinv1.ObjectRef) (*state.Row, object.Kind, error) {
	full, kind, err := s.resolve(ref)
	if err == nil {
		err = s.holds(kind)
	}
	if err != nil {
		return nil, kind, err
	}
	row, ok := s.cfg.Consensus.Store().Get(state.Key{Kind: kind.Name, Namespace: full.GetNamespace(), Name: full.GetName()})
	if !ok {
		return nil, kind, s.missing(kind, &skeinv1.ObjectRef{Kind: full.GetKind(), Namespace: full.GetNamespace(), Name: ref.GetName()})
	}
	return row, kind, nil
}

// missing says that an object is not there, and which one may be meant.
func (s *Server) missing(kind object.Kind, ref *skeinv1.ObjectRef) error {
	if s.part && kind.Name == object.KindPod {
		return refuse(connect.CodeUnavailable, exitNoLeader, hintNoLeader,
			"pod %q does not run on %s, which knows of no others while no voter can be reached", ref.GetName(), s.cfg.Name)
	}
	var here, elsewhere []string
	for _, row := range s.cfg.Consensus.Store().List(kind.Name, "", "") {
		switch {
		case row.Key.Namespace == ref.GetNamespace():
			here = append(here, row.Key.Name)
		case row.Key.Name == ref.GetName():
			elsewhere = append(elsewhere, row.Key.Namespace)
		}
	}
	err := notFound(ref)
	var own *refusal
	if !errors.As(err, &own) {
		return err
	}
	if near := object.NearestName(ref.GetName(), here); near != "" {
		own.hint = "did you mean " + near + "?"
	} else if len(elsewhere) > 0 {
		own.hint = "there is one with -n " + elsewhere[0]
	}
	return own
}

func (s *Server) node(name string) (*corev1.Node, bool) {
	row, ok := s.cfg.Consensus.Store().Get(state.Key{Kind: object.KindNode, Name: name})
	if !ok {
		return nil, false
	}
	node, err := object.Decode[corev1.Node](row)
	return node, err == nil
}

// podNamed reads the Pod that a reference means; of a Deployment or Service,
// its first ready one.
func (s *Server) podNamed(ref *skeinv1.ObjectRef) (*corev1.Pod, error) {
	pods, err := s.podsOf(ref)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if podReady(p) {
			return p, nil
		}
	}
	if len(pods) == 0 {
		return nil, refuse(connect.CodeNotFound, exitFailed, "", "%s %q has no Pods", ref.GetKind(), ref.GetName())
	}
	return pods[0], nil
}

// podsOf reads the Pods that a reference to a Pod, Deployment or Service means.
func (s *Server) podsOf(ref *skeinv1.ObjectRef) ([]*corev1.Pod, error) {
	if ref.GetKind() == "" {
		ref = &skeinv1.ObjectRef{Kind: "pod", Namespace: ref.GetNamespace(), Name: ref.GetName()}
	}
	row, kind, err := s.row(ref)
	if err != nil {
		return nil, err
	}
	switch kind.Name {
	case object.KindPod:
		pod, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return nil, err
		}
		return []*corev1.Pod{pod}, nil
	case object.KindDeployment:
		d, err := object.Decode[appsv1.Deployment](row)
		if err != nil {
			return nil, err
		}
		return s.podsOfDeployment(d)
	case object.KindService:
		svc, err := object.Decode[corev1.Service](row)
		if err != nil {
			return nil, err
		}
		return s.podsOfService(svc)
	case object.KindRevision:
		return s.pods(row.Key.Namespace, object.OwnerIndex(row.UID), nil)
	}
	return nil, badRequest("a %s has no Pods", kind.Singular)
}

// podsOfDeployment reads the Pods of all revisions, those that are stopping too.
func (s *Server) podsOfDeployment(d *appsv1.Deployment) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	for _, rev := range s.cfg.Consensus.Store().List(object.KindRevision, d.Namespace, object.OwnerIndex(string(d.UID))) {
		pods, err := s.pods(d.Namespace, object.OwnerIndex(rev.UID), nil)
		if err != nil {
			return nil, err
		}
		out = append(out, pods...)
	}
	return out, nil
}

func (s *Server) pods(ns, index string, match func(map[string]string) bool) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	for _, row := range s.cfg.Consensus.Store().List(object.KindPod, ns, index) {
		pod, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return nil, err
		}
		if match == nil || match(pod.Labels) {
			out = append(out, pod)
		}
	}
	return out, nil
}

func knownContainer(pod *corev1.Pod, name string) error {
	if name == "" {
		return nil
	}
	var names string
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == name {
			return nil
		}
		names += " " + c.Name
	}
	return refuse(connect.CodeInvalidArgument, exitUsage, "", "pod %q has no container %q; it has:%s", pod.Name, name, names)
}

// putIfChanged returns the operation that writes obj over row, nil when that
// would change nothing.
func putIfChanged(obj object.Object, row *state.Row) (*logv1.Op, error) {
	op, err := object.Put(obj, row.Version)
	if err != nil {
		return nil, err
	}
	if string(op.GetPut().GetBody()) == string(row.Body) {
		return nil, nil
	}
	return op, nil
}
