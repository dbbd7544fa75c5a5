package object

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Formats of objects. Builds that read format 1 know neither ConfigMaps nor
// Secrets, and of a Pod what stands in format1.txt: what else it says, they would
// leave out when they run it. So it is written only once every member reads 2.
const (
	FormatFirst = 1
	FormatPods  = 2 // the whole of a Pod's container settings, and where they come from
)

//go:embed format1.txt
var format1Text string

// format1 has the paths of a Pod's spec that builds of format 1 know, those that
// took certain values only with these.
var format1 = sync.OnceValue(func() map[string][]string {
	out := make(map[string][]string)
	for line := range strings.Lines(format1Text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		path, values, only := strings.Cut(line, "=")
		out[path] = nil
		if only {
			out[path] = strings.Split(values, "|")
		}
	}
	return out
})

// Format is the least format whose builds understand an object, and what in it
// is so new, as a path or a kind.
func Format(obj Object) (format uint32, because string, err error) {
	var spec *corev1.PodSpec
	path := "spec"
	switch o := obj.(type) {
	case *corev1.ConfigMap, *corev1.Secret:
		return FormatPods, "the kind " + kindOf(obj).Name, nil
	case *corev1.Pod:
		if !sameUlimits(o.Annotations, nil) {
			return FormatPods, keyed("metadata.annotations", AnnotationUlimit+"..."), nil
		}
		spec = &o.Spec
	case *appsv1.Deployment:
		if !sameUlimits(o.Spec.Template.Annotations, nil) {
			return FormatPods, keyed("spec.template.metadata.annotations", AnnotationUlimit+"..."), nil
		}
		spec, path = &o.Spec.Template.Spec, "spec.template.spec"
	case *corev1.Namespace:
		for _, key := range policies {
			if _, given := o.Annotations[key]; given {
				return FormatPods, keyed("metadata.annotations", key), nil
			}
		}
		return FormatFirst, "", nil
	default:
		return FormatFirst, "", nil
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return 0, "", fmt.Errorf("encode %s: %w", KeyOf(obj), err)
	}
	var doc map[string]any
	if err := json.Unmarshal(body, &doc); err != nil {
		return 0, "", fmt.Errorf("decode %s: %w", KeyOf(obj), err)
	}
	if newer := beyond(format1(), doc, "spec"); newer != "" {
		return FormatPods, path + strings.TrimPrefix(newer, "spec"), nil
	}
	return FormatFirst, "", nil
}

// beyond returns the first path in v that is not among those known, "" if there
// is none.
func beyond(known map[string][]string, v any, path string) string {
	if values, ok := known[path]; ok {
		if len(values) == 0 {
			return ""
		}
		if text := fmt.Sprint(v); text == "" || slices.Contains(values, text) {
			return ""
		}
		return path
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if newer := beyond(known, v[name], path+"."+name); newer != "" {
				return newer
			}
		}
		return ""
	case []any:
		for _, item := range v {
			if newer := beyond(known, item, path); newer != "" {
				return newer
			}
		}
		return ""
	}
	return path
}
