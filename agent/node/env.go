package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/image"
)

// A place is what the values of a container come from beside its Pod.
type place struct {
	hostIP  string
	podIP   string                // the Pod's own; empty: it has none
	mtu     int                   // of its link
	names   bool                  // the machine answers for the cluster's
	sources *Sources              // nil: there are none
	machine Machine               // what limits are where none are set
	resolv  func(own bool) string // the machine's resolv.conf; nil: it has none
}

func (p place) from() *Sources {
	if p.sources == nil {
		return newSources(nil, nil)
	}
	return p.sources
}

func environment(pod *corev1.Pod, c *corev1.Container, img image.Config, at place) (variables, error) {
	v := variables{values: map[string]string{}}
	v.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	v.set("HOSTNAME", hostnameOf(pod))
	for _, kv := range img.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			v.set(name, value)
		}
	}
	for i := range c.EnvFrom {
		if err := v.setAll(pod, &c.EnvFrom[i], at); err != nil {
			return v, err
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			v.set(e.Name, v.expand(e.Value))
			continue
		}
		value, there, err := valueFrom(pod, c, e.ValueFrom, at)
		if err != nil {
			return v, fmt.Errorf("variable %s: %w", e.Name, err)
		}
		if there {
			v.set(e.Name, value)
		}
	}
	return v, nil
}

// setAll sets a variable for each key of a ConfigMap or Secret. Keys that can be
// no variable are left out, as in Kubernetes.
func (v *variables) setAll(pod *corev1.Pod, from *corev1.EnvFromSource, at place) error {
	kind, name, optional := object.KindConfigMap, "", (*bool)(nil)
	switch {
	case from.ConfigMapRef != nil:
		name, optional = from.ConfigMapRef.Name, from.ConfigMapRef.Optional
	case from.SecretRef != nil:
		kind, name, optional = object.KindSecret, from.SecretRef.Name, from.SecretRef.Optional
	}
	src, err := at.from().source(kind, pod.Namespace, name)
	if errors.Is(err, errNoSource) && isTrue(optional) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("envFrom: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(src.GetData())) {
		value := string(src.GetData()[key])
		if len(validation.IsRelaxedEnvVarName(from.Prefix+key)) == 0 && !strings.ContainsRune(value, 0) {
			v.set(from.Prefix+key, value)
		}
	}
	return nil
}

func valueFrom(pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, at place) (value string, there bool, err error) {
	switch {
	case from.FieldRef != nil:
		return field(pod, from.FieldRef.FieldPath, at), true, nil
	case from.ResourceFieldRef != nil:
		value, err = resourceField(pod, c, from.ResourceFieldRef, at.machine)
		return value, true, err
	}
	kind, name, key, optional := object.KindConfigMap, "", "", (*bool)(nil)
	switch {
	case from.ConfigMapKeyRef != nil:
		name, key, optional = from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional
	case from.SecretKeyRef != nil:
		kind, name, key, optional = object.KindSecret, from.SecretKeyRef.Name, from.SecretKeyRef.Key, from.SecretKeyRef.Optional
	}
	body, there, err := at.from().valueOf(kind, pod.Namespace, name, key, optional)
	if err == nil && slices.Contains(body, 0) {
		err = fmt.Errorf("the key %q of %s %q holds a NUL character: mount it as a file", key, kind, name)
	}
	return string(body), there, err
}

// resourceField is what a container may use or asks for, in units of the divisor,
// rounded up. Where no limit is set it is what the machine has.
func resourceField(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector, m Machine) (string, error) {
	if ref.ContainerName != "" {
		c = containerNamed(pod, ref.ContainerName)
	}
	if c == nil {
		return "", fmt.Errorf("resourceFieldRef: the Pod has no container %q", ref.ContainerName)
	}
	list, name, _ := strings.Cut(ref.Resource, ".")
	q := c.Resources.Requests[corev1.ResourceName(name)]
	if list == "limits" {
		var set bool
		if q, set = c.Resources.Limits[corev1.ResourceName(name)]; !set {
			switch name {
			case "cpu":
				q = *resource.NewMilliQuantity(m.CPUMilli, resource.DecimalSI)
			case "memory":
				q = *resource.NewQuantity(m.MemoryBytes, resource.BinarySI)
			}
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		d := max(divisor.MilliValue(), 1)
		return strconv.FormatInt((q.MilliValue()+d-1)/d, 10), nil
	}
	d := max(divisor.Value(), 1)
	return strconv.FormatInt((q.Value()+d-1)/d, 10), nil
}
