package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/consensus/state"
)

// MergePatch returns what the object in a row becomes by a JSON merge patch
// (RFC 7386), and whether that is Configured or Unchanged. The result is
// checked as strictly as a manifest. A patch may change what people write:
// spec, labels and annotations, and nothing that the cluster does.
func MergePatch(row *state.Row, patch []byte) (Object, string, error) {
	kind, ok := kindsByName[row.Key.Kind]
	if !ok || schemas()[row.Key.Kind] == nil {
		return nil, "", &ManifestError{Object: row.Key.String(), Msg: "cannot be changed"}
	}
	old, err := DecodeAny(row)
	if err != nil {
		return nil, "", err
	}
	Default(old) // a default that came later is no change
	var p problems
	next, err := p.patched(kind, row, patch)
	if err != nil {
		return nil, "", err
	}
	if len(p.list) == 0 {
		next.SetResourceVersion(old.GetResourceVersion())
		if service, ok := next.(*corev1.Service); ok {
			dropService(service, old.(*corev1.Service))
		}
		Default(next)
		immutable(next, old, &p)
		validate(next, &p)
		p.annotationsKept(next, old)
	}
	if len(p.list) > 0 {
		return nil, "", join(place("", title(old), 0, nil, p.list))
	}
	action, err := settle(next, old)
	return next, action, err
}

// patched reads the row with the patch merged into it.
func (p *problems) patched(kind *Kind, row *state.Row, patch []byte) (Object, error) {
	docs, err := readJSON(patch)
	if err != nil {
		return nil, textError("", err)
	}
	if len(patch) > maxDocument || len(docs) != 1 || docs[0].shape != object {
		return nil, &ManifestError{Object: row.Key.String(), Msg: "want one JSON object as a merge patch"}
	}
	var have, want map[string]any
	if err := errors.Join(decodeAny(row.Body, &have), decodeAny(patch, &want)); err != nil {
		return nil, fmt.Errorf("patch %s: %w", row.Key, err)
	}
	if err := precondition(row, want); err != nil {
		return nil, err
	}
	merged := merge(have, want).(map[string]any)
	p.kept(kind, have, merged)
	if len(p.list) > 0 {
		return nil, nil
	}
	body, err := json.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("patch %s: %w", row.Key, err)
	}
	if docs, err = readJSON(body); err != nil {
		return nil, textError("", err)
	}
	r := reader{stored: true}
	r.read(kind, docs[0])
	p.list = append(p.list, r.problems.list...)
	next := kind.fresh()
	if len(p.list) == 0 {
		if err := json.Unmarshal(r.out, next); err != nil {
			return nil, fmt.Errorf("patch %s: %w", row.Key, err)
		}
	}
	return next, nil
}

func decodeAny(body []byte, into *map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return d.Decode(into)
}

// precondition takes the resourceVersion out of a patch and checks it.
func precondition(row *state.Row, patch map[string]any) error {
	meta, ok := patch["metadata"].(map[string]any)
	if !ok {
		return nil
	}
	text, given := meta["resourceVersion"].(string)
	delete(meta, "resourceVersion")
	if !given || text == "" {
		return nil
	}
	want, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return &ManifestError{Object: row.Key.String(), Path: "metadata.resourceVersion", Msg: fmt.Sprintf("%q is no version of this cluster", clip(text))}
	}
	if want != row.Version {
		return &state.ConflictError{Key: row.Key, Have: row.Version, Want: want}
	}
	return nil
}

// merge is RFC 7386. It changes neither side.
func merge(have, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out := make(map[string]any)
	if fields, ok := have.(map[string]any); ok {
		maps.Copy(out, fields)
	}
	for name, change := range changes {
		if change == nil {
			delete(out, name)
		} else {
			out[name] = merge(out[name], change)
		}
	}
	return out
}

// kept refuses a patch of what a patch may not touch.
func (p *problems) kept(kind *Kind, have, merged map[string]any) {
	if _, ok := merged["metadata"].(map[string]any); !ok {
		p.add("metadata", "cannot be removed")
		return
	}
	for _, path := range []string{"apiVersion", "kind", "metadata.name", "metadata.namespace"} {
		if textAt(have, path) != textAt(merged, path) {
			p.add(path, "cannot be changed")
		}
	}
	p.same("", schemas()[kind.Name], have, merged)
}

// same tells which of the fields that the cluster writes differ.
func (p *problems) same(path string, f *field, was, is map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(f.children)) {
		child, at := f.children[name], dotted(path, name)
		switch child.verdict {
		case server:
			if !reflect.DeepEqual(was[name], is[name]) {
				p.add(at, "cannot be changed: the cluster writes it")
			}
		case inside:
			a, _ := was[name].(map[string]any)
			b, _ := is[name].(map[string]any)
			p.same(at, child, a, b)
		}
	}
}

// annotationsKept refuses a patch of the annotations that the cluster writes.
func (p *problems) annotationsKept(next, old Object) {
	is, was := next.GetAnnotations(), old.GetAnnotations()
	union := maps.Clone(was)
	if union == nil {
		union = make(map[string]string)
	}
	maps.Copy(union, is)
	for _, key := range slices.Sorted(maps.Keys(union)) {
		if strings.HasPrefix(key, annotationPrefix) && key != AnnotationRestarted && key != AnnotationPublish && !slices.Contains(policies, key) && is[key] != was[key] {
			p.add(keyed("metadata.annotations", key), "cannot be changed: the cluster writes it")
		}
	}
}
