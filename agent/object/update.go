package object

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/consensus/state"
)

// What became of an object that was applied or patched.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
)

// applied says which keys the last manifest named, so that the next one takes
// back those that it no longer names and leaves alone what others have set. It
// is kept in AnnotationApplied.
type applied struct {
	Labels              []string `json:"labels,omitempty"`
	Annotations         []string `json:"annotations,omitempty"`
	TemplateLabels      []string `json:"templateLabels,omitempty"`
	TemplateAnnotations []string `json:"templateAnnotations,omitempty"`
}

func appliedOf(obj Object) applied {
	var out applied
	_ = json.Unmarshal([]byte(obj.GetAnnotations()[AnnotationApplied]), &out) // none, or not ours: nothing is taken back
	return out
}

// record writes down what m names, as the last manifest of next.
func (m *Manifest) record(next Object) error {
	a := applied{Labels: sortedKeys(m.Object.GetLabels()), Annotations: sortedKeys(m.Object.GetAnnotations())}
	if d, ok := m.Object.(*appsv1.Deployment); ok {
		a.TemplateLabels = sortedKeys(d.Spec.Template.Labels)
		a.TemplateAnnotations = sortedKeys(d.Spec.Template.Annotations)
	}
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("record what was applied: %w", err)
	}
	notes := maps.Clone(next.GetAnnotations())
	delete(notes, AnnotationApplied)
	if string(body) != "{}" {
		if notes == nil {
			notes = make(map[string]string)
		}
		notes[AnnotationApplied] = string(body)
	}
	next.SetAnnotations(notes)
	return nil
}

func sortedKeys(m map[string]string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m)), clusters)
}

// clusters reports whether an annotation is written by the cluster: in a
// manifest it is left over from reading an object, and without effect.
func clusters(key string) bool {
	return key == AnnotationApplied || key == AnnotationRevision || key == AnnotationKey || key == AnnotationAdvertise || key == AnnotationTunnelKey
}

// copyOf returns a copy of m's object that shares nothing with it.
func (m *Manifest) copyOf() Object {
	c := m.Object.(interface{ DeepCopyObject() runtime.Object }).DeepCopyObject()
	obj := c.(Object)
	notes := maps.Clone(obj.GetAnnotations())
	maps.DeleteFunc(notes, func(k, _ string) bool { return clusters(k) })
	obj.SetAnnotations(notes)
	return obj
}

// Create returns the object that a manifest makes where there is none yet. It
// may be called again, and m stays as it is.
func (m *Manifest) Create(uid string, now time.Time) (Object, error) {
	if m.gives("metadata.ownerReferences") {
		return nil, m.fail([]problem{{path: "metadata.ownerReferences", msg: "are set by the cluster", hint: "remove them"}})
	}
	if m.expect != 0 {
		return nil, &state.ConflictError{Key: m.Key(), Want: m.expect}
	}
	next := m.copyOf()
	next.SetUID(types.UID(uid))
	next.SetGeneration(1)
	next.SetCreationTimestamp(metav1.Time{Time: now.UTC().Truncate(time.Second)})
	if pod, ok := next.(*corev1.Pod); ok {
		pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	}
	return next, m.record(next)
}

// Update returns what the object in a row becomes by a manifest, and whether
// that is Configured or Unchanged. What the manifest gives replaces what is
// there; replicas, pause, labels and annotations that it does not name stay as
// others have set them. It may be called again, and m stays as it is.
func (m *Manifest) Update(row *state.Row) (Object, string, error) {
	old, err := DecodeAny(row)
	if err != nil {
		return nil, "", err
	}
	if err := m.meets(old); err != nil {
		return nil, "", err
	}
	Default(old) // a default that came later is no change
	next := m.copyOf()
	before := appliedOf(old)
	keepMeta(next, old)
	next.SetLabels(threeWay(old.GetLabels(), before.Labels, next.GetLabels()))
	next.SetAnnotations(threeWay(old.GetAnnotations(), before.Annotations, next.GetAnnotations()))
	if err := m.record(next); err != nil {
		return nil, "", err
	}
	var p problems
	switch n := next.(type) {
	case *corev1.Pod:
		o := old.(*corev1.Pod)
		n.Status = o.Status
		if n.Spec.NodeName == "" {
			n.Spec.NodeName = o.Spec.NodeName
		}
	case *corev1.Service:
		keepService(n, old.(*corev1.Service))
	case *corev1.Namespace:
		n.Status = old.(*corev1.Namespace).Status
	case *appsv1.Deployment:
		m.keepDeployment(n, old.(*appsv1.Deployment), before)
	}
	immutable(next, old, &p)
	validate(next, &p)
	if len(p.list) > 0 {
		return nil, "", m.fail(p.list)
	}
	action, err := settle(next, old)
	return next, action, err
}

// meets checks that old is the object which the manifest means.
func (m *Manifest) meets(old Object) error {
	switch {
	case KeyOf(old) != m.Key():
		return fmt.Errorf("%s updated by a manifest of %s", KeyOf(old), m.Key())
	case m.uid != "" && m.uid != string(old.GetUID()):
		return m.fail([]problem{{path: "metadata.uid", msg: "the object of this name is another one by now", hint: "remove uid and resourceVersion"}})
	case m.expect != 0 && m.expect != Version(old):
		return &state.ConflictError{Key: m.Key(), Have: Version(old), Want: m.expect}
	case old.GetDeletionTimestamp() != nil:
		return m.fail([]problem{{msg: "is being deleted", hint: "try again once it is gone"}})
	}
	return nil
}

func (m *Manifest) keepDeployment(next, old *appsv1.Deployment, before applied) {
	next.Status = old.Status
	if !m.gives("spec.replicas") {
		next.Spec.Replicas = old.Spec.Replicas
	}
	if !m.gives("spec.paused") {
		next.Spec.Paused = old.Spec.Paused
	}
	t, o := &next.Spec.Template, &old.Spec.Template
	t.Labels = threeWay(o.Labels, before.TemplateLabels, t.Labels)
	t.Annotations = threeWay(o.Annotations, before.TemplateAnnotations, t.Annotations)
}

// threeWay is what is there, less what the last manifest named, plus what this
// one names.
func threeWay(have map[string]string, last []string, want map[string]string) map[string]string {
	out := make(map[string]string, len(have)+len(want))
	maps.Copy(out, have)
	for _, k := range last {
		delete(out, k)
	}
	maps.Copy(out, want)
	if len(out) == 0 {
		return nil
	}
	return out
}

// keepMeta takes over what no person writes.
func keepMeta(next, old Object) {
	next.SetUID(old.GetUID())
	next.SetResourceVersion(old.GetResourceVersion())
	next.SetGeneration(old.GetGeneration())
	next.SetCreationTimestamp(old.GetCreationTimestamp())
	next.SetDeletionTimestamp(old.GetDeletionTimestamp())
	next.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	next.SetOwnerReferences(old.GetOwnerReferences())
	next.SetFinalizers(old.GetFinalizers())
}

// settle counts the generation on when the spec has changed, and tells whether
// anything has.
func settle(next, old Object) (string, error) {
	was, err := specOf(old)
	if err != nil {
		return "", err
	}
	is, err := specOf(next)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(was, is) {
		next.SetGeneration(old.GetGeneration() + 1)
		return Configured, nil
	}
	a, err := encode(old)
	if err != nil {
		return "", err
	}
	b, err := encode(next)
	if err != nil {
		return "", err
	}
	if bytes.Equal(a.GetBody(), b.GetBody()) {
		return Unchanged, nil
	}
	return Configured, nil
}

// specOf returns the spec as JSON, in which quantities that are equal look so.
func specOf(obj Object) ([]byte, error) {
	var spec any
	switch o := obj.(type) {
	case *corev1.Pod:
		spec = &o.Spec
	case *appsv1.Deployment:
		spec = &o.Spec
	case *corev1.Node:
		spec = &o.Spec
	case *corev1.Service:
		spec = &o.Spec
	case *networkingv1.NetworkPolicy:
		spec = &o.Spec
	}
	return json.Marshal(spec)
}

// immutable tells which fields of next differ from old that must not.
func immutable(next, old Object, p *problems) {
	switch n := next.(type) {
	case *appsv1.Deployment:
		if !sameJSON(n.Spec.Selector, old.(*appsv1.Deployment).Spec.Selector) {
			p.hint("spec.selector", "delete the Deployment and apply it again, or give it another name", "cannot be changed")
		}
	case *corev1.Service:
		immutableService(n, old.(*corev1.Service), p)
	case *corev1.ConfigMap:
		immutableConfigMap(n, old.(*corev1.ConfigMap), p)
	case *corev1.Secret:
		immutableSecret(n, old.(*corev1.Secret), p)
	case *corev1.Pod:
		immutablePod(n, old.(*corev1.Pod), p)
	}
}

func immutablePod(next, old *corev1.Pod, p *problems) {
	if Exclusive(next.Annotations) != Exclusive(old.Annotations) {
		p.hint(keyed("metadata.annotations", AnnotationExclusive), "delete the Pod and apply it again", "of a Pod cannot be changed")
	}
	if !Exclusive(next.Annotations) && Leased(next.Annotations) != Leased(old.Annotations) {
		p.hint(keyed("metadata.annotations", AnnotationWhenIsolated), "delete the Pod and apply it again", "of a Pod cannot be changed")
	}
	if !sameUlimits(next.Annotations, old.Annotations) {
		p.hint("metadata.annotations", "delete the Pod and apply it again", "the limits ("+AnnotationUlimit+"...) of a Pod cannot be changed")
	}
	is, was := next.Spec.DeepCopy(), old.Spec.DeepCopy()
	if len(is.Containers) == len(was.Containers) {
		for i := range is.Containers { // of a running Pod only images may change
			is.Containers[i].Image = was.Containers[i].Image
		}
	}
	if len(is.InitContainers) == len(was.InitContainers) {
		for i := range is.InitContainers {
			is.InitContainers[i].Image = was.InitContainers[i].Image
		}
	}
	x, y := reflect.ValueOf(is).Elem(), reflect.ValueOf(was).Elem()
	for i := range x.NumField() {
		if !sameJSON(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			p.hint("spec."+name, "delete the Pod and apply it again; a Deployment replaces its Pods by itself",
				"of a Pod cannot be changed, only the images of its containers")
		}
	}
}

func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
