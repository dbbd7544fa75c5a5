package object

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	maxAnnotations = 256 << 10 // bytes of one object's, as in Kubernetes
	maxReplicas    = 100_000
	// maxDeployName leaves room for what Revisions and Pods append.
	maxDeployName = 253 - len("-0123456789-01234")
)

// Validate says what is wrong with an object whose defaults have been filled
// in, as a *ManifestError without a file.
func Validate(obj Object) error {
	var p problems
	validate(obj, &p)
	return join(place("", title(obj), 0, nil, p.list))
}

func validate(obj Object, p *problems) {
	p.metadata(obj)
	switch o := obj.(type) {
	case *corev1.Pod:
		p.pod(&o.Spec, "spec")
		p.wholeName(&o.Spec, o.Name, o.Namespace, "spec")
	case *appsv1.Deployment:
		p.deployment(o)
	case *corev1.Service:
		p.service(o)
	case *networkingv1.NetworkPolicy:
		p.networkPolicy(o)
	case *corev1.ConfigMap:
		p.configMap(o)
	case *corev1.Secret:
		p.secret(o)
	case *corev1.Namespace:
		p.policies(o)
	}
}

func (p *problems) metadata(obj Object) {
	k := kindOf(obj)
	name, ns := obj.GetName(), obj.GetNamespace()
	switch {
	case name == "":
		p.add("metadata.name", "is missing")
	case k.Name == KindNamespace:
		p.each("metadata.name", name, validation.IsDNS1123Label(name))
	default:
		p.each("metadata.name", name, validation.IsDNS1123Subdomain(name))
	}
	if k.Name == KindDeployment && len(name) > maxDeployName {
		p.add("metadata.name", "longer than %d characters: its Pods' names would not fit", maxDeployName)
	}
	switch {
	case k.Namespaced:
		p.each("metadata.namespace", ns, validation.IsDNS1123Label(ns))
	case ns != "":
		p.add("metadata.namespace", "a %s belongs to no namespace", k.Singular)
	}
	p.labels(obj.GetLabels(), "metadata.labels")
	p.annotations(obj.GetAnnotations(), "metadata.annotations")
	for _, key := range policies {
		if _, given := obj.GetAnnotations()[key]; given && k.Name != KindNamespace {
			p.hint(keyed("metadata.annotations", key), "set it on the namespace", "is a policy of namespaces")
		}
	}
	if _, given := obj.GetAnnotations()[AnnotationPublish]; given && k.Name != KindService {
		p.hint(keyed("metadata.annotations", AnnotationPublish), "set it on the Service that leads to the Pods", "is of Services")
	}
	for _, key := range slices.Sorted(maps.Keys(obj.GetAnnotations())) {
		if strings.HasPrefix(key, AnnotationUlimit) && k.Name != KindPod {
			p.hint(keyed("metadata.annotations", key), "of a Deployment set it on spec.template.metadata.annotations", "is a limit of Pods")
		}
	}
	for key, value := range obj.GetLabels() {
		if strings.HasPrefix(key, annotationPrefix) && (k.Name != KindNode || key != LabelVoter || value != "never") {
			p.hint(keyed("metadata.labels", key), "on a node, "+LabelVoter+": never keeps it from voting", "labels of skein.dev are the cluster's own")
		}
	}
}

func (p *problems) labels(set map[string]string, path string) {
	for _, key := range slices.Sorted(maps.Keys(set)) {
		at := keyed(path, key)
		p.each(at, key, validation.IsQualifiedName(key))
		p.each(at, set[key], validation.IsValidLabelValue(set[key]))
	}
}

// ours are the annotations of skein.dev that objects may carry.
var ours = []string{AnnotationKey, AnnotationAdvertise, AnnotationApplied, AnnotationRestarted, AnnotationRevision, AnnotationExclusive, AnnotationWhenIsolated, AnnotationHostPath, AnnotationPrivileged, AnnotationCapabilities, AnnotationPublish, AnnotationTunnelKey}

func (p *problems) annotations(set map[string]string, path string) {
	total := 0
	for _, key := range slices.Sorted(maps.Keys(set)) {
		at := keyed(path, key)
		total += len(key) + len(set[key])
		p.each(at, key, validation.IsQualifiedName(strings.ToLower(key)))
		switch {
		case key == AnnotationExclusive:
			if v := set[key]; v != "true" {
				p.hint(at, "remove it from a Pod that may run twice", "%q: want \"true\"", clip(v))
			}
		case key == AnnotationWhenIsolated:
			switch v := set[key]; {
			case v != IsolatedKeep && v != IsolatedStop:
				p.add(at, "%q: want %q or %q", clip(v), IsolatedKeep, IsolatedStop)
			case v == IsolatedKeep && Exclusive(set):
				p.hint(at, "remove it: an exclusive Pod is stopped where it is isolated", "%q: not of an exclusive Pod", v)
			}
		case strings.HasPrefix(key, AnnotationUlimit):
			p.ulimit(key, set[key], at)
		case strings.HasPrefix(key, annotationPrefix) && !slices.Contains(ours, key):
			if near := nearest(key, ours); near != "" {
				p.add(at, "unknown annotation of skein.dev; did you mean %s?", near)
			} else {
				p.add(at, "unknown annotation of skein.dev")
			}
		}
	}
	if total > maxAnnotations {
		p.add(path, "larger than %d KB in all", maxAnnotations>>10)
	}
}

func (p *problems) deployment(d *appsv1.Deployment) {
	s := &d.Spec
	p.between("spec.replicas", int64(*s.Replicas), 0, maxReplicas)
	p.between("spec.minReadySeconds", int64(s.MinReadySeconds), 0, 1<<31-1)
	p.between("spec.revisionHistoryLimit", int64(*s.RevisionHistoryLimit), 0, 1000)
	p.between("spec.progressDeadlineSeconds", int64(*s.ProgressDeadlineSeconds), 1, 1<<31-1)
	if *s.ProgressDeadlineSeconds <= s.MinReadySeconds && s.MinReadySeconds > 0 {
		p.add("spec.progressDeadlineSeconds", "%d is not more than minReadySeconds, %d", *s.ProgressDeadlineSeconds, s.MinReadySeconds)
	}
	p.strategy(&s.Strategy)
	p.selector(s.Selector, s.Template.Labels)
	const template = "spec.template"
	p.labels(s.Template.Labels, template+".metadata.labels")
	p.annotations(s.Template.Annotations, template+".metadata.annotations")
	if _, given := s.Template.Labels[LabelTemplateHash]; given {
		p.add(keyed(template+".metadata.labels", LabelTemplateHash), "is set by the Deployment: remove it")
	}
	for key := range s.Template.Labels {
		if strings.HasPrefix(key, annotationPrefix) {
			p.add(keyed(template+".metadata.labels", key), "labels of skein.dev are the cluster's own")
		}
	}
	if Exclusive(s.Template.Annotations) && *s.Replicas > 1 {
		p.hint("spec.replicas", "make a Deployment for each, or remove the annotation "+AnnotationExclusive,
			"%d: an exclusive Pod runs once", *s.Replicas)
	}
	p.pod(&s.Template.Spec, template+".spec")
	p.wholeName(&s.Template.Spec, PodName(RevisionName(d.Name, "0123456789"), 0), d.Namespace, template+".spec")
	if policy := s.Template.Spec.RestartPolicy; policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure {
		p.add(template+".spec.restartPolicy", "%q: Pods of a Deployment restart Always", policy)
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		p.add(template+".spec.activeDeadlineSeconds", "Pods of a Deployment have no deadline")
	}
}

func (p *problems) strategy(s *appsv1.DeploymentStrategy) {
	const path = "spec.strategy"
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			p.add(path+".rollingUpdate", "belongs to the type RollingUpdate, this is Recreate")
		}
		return
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		p.add(path+".type", "%q: want RollingUpdate or Recreate", clip(string(s.Type)))
		return
	}
	surge, ok1 := p.share(path+".rollingUpdate.maxSurge", *s.RollingUpdate.MaxSurge, 1000)
	down, ok2 := p.share(path+".rollingUpdate.maxUnavailable", *s.RollingUpdate.MaxUnavailable, 100)
	if ok1 && ok2 && surge == 0 && down == 0 {
		p.add(path+".rollingUpdate.maxUnavailable", "may not be 0 while maxSurge is 0: nothing could be replaced")
	}
}

// share reads a number of Pods or a percentage of them.
func (p *problems) share(path string, v intstr.IntOrString, most int) (int, bool) {
	if v.Type == intstr.Int {
		return int(v.IntVal), p.between(path, int64(v.IntVal), 0, maxReplicas)
	}
	digits, isPercent := strings.CutSuffix(v.StrVal, "%")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !isPercent || err != nil {
		p.add(path, "%q: want a number, or a percentage like 25%%", clip(v.StrVal))
		return 0, false
	}
	if int(n) > most {
		p.add(path, "%q: want at most %d%%", clip(v.StrVal), most)
	}
	return int(n), true
}

func (p *problems) selector(sel *metav1.LabelSelector, template map[string]string) {
	const path = "spec.selector"
	if sel == nil || len(sel.MatchLabels)+len(sel.MatchExpressions) == 0 {
		p.hint(path, "write selector.matchLabels with the labels of the template", "is missing, or selects every Pod")
		return
	}
	before := len(p.list)
	p.labels(sel.MatchLabels, path+".matchLabels")
	if _, given := sel.MatchLabels[LabelTemplateHash]; given {
		p.add(keyed(path+".matchLabels", LabelTemplateHash), "is set by the Deployment: remove it")
	}
	match, err := metav1.LabelSelectorAsSelector(sel)
	if err != nil {
		if len(sel.MatchExpressions) > 0 || len(p.list) == before { // else it is told already, of the label
			why, _, _ := strings.Cut(err.Error(), " (e.g. ")
			p.add(path, "%s", why)
		}
		return
	}
	if !match.Matches(labels.Set(template)) {
		p.hint("spec.template.metadata.labels", fmt.Sprintf("the selector is %s", match), "do not match the selector")
	}
}

// between reports whether n is within bounds, and tells if not.
func (p *problems) between(path string, n, low, high int64) bool {
	switch {
	case n < low:
		p.add(path, "%d is less than %d", n, low)
	case n > high:
		p.add(path, "%d is more than %d", n, high)
	default:
		return true
	}
	return false
}
