package object

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/skein-dev/skein/consensus/state"
)

// maxSelector bounds a selector, in bytes.
const maxSelector = 4096

// MatchLabels reads a label selector ("a=b,c!=d,e,!f,g in (h,i),j notin (k)")
// and returns what tells whether labels match it. The empty one matches all.
func MatchLabels(selector string) (func(labels map[string]string) bool, error) {
	if len(selector) > maxSelector {
		return nil, fmt.Errorf("label selector: longer than %d bytes", maxSelector)
	}
	sel, err := labels.Parse(selector)
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "unable to parse requirement: ")
		return nil, fmt.Errorf("label selector %q cannot be read: %s; write one like app=web,tier!=db", selector, why)
	}
	return func(set map[string]string) bool { return sel.Matches(labels.Set(set)) }, nil
}

// A term is one condition of a field selector.
type term struct {
	field, value string
	not          bool
}

// fieldsOf are the fields of each kind that can be selected by, beside
// metadata.name and metadata.namespace.
var fieldsOf = map[string][]string{
	KindPod: {"spec.nodeName", "status.phase", "status.podIP", "spec.restartPolicy"},
	KindEvent: {
		"involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "involvedObject.uid",
		"reason", "type",
	},
	KindNamespace: {"status.phase"},
	KindNode:      {"spec.unschedulable"},
}

// MatchFields reads a field selector ("spec.nodeName=n1,status.phase!=Running")
// for rows of a kind and returns what tells whether a row matches it.
func MatchFields(kind, selector string) (func(row *state.Row) bool, error) {
	terms, err := parseFields(kind, selector)
	if err != nil {
		return nil, err
	}
	return func(row *state.Row) bool {
		var body map[string]any // decoded when the first term needs it
		for _, t := range terms {
			var have string
			switch t.field {
			case "metadata.name":
				have = row.Key.Name
			case "metadata.namespace":
				have = row.Key.Namespace
			default:
				if body == nil && json.Unmarshal(row.Body, &body) != nil {
					return false // whoever decodes the row tells why
				}
				have = textAt(body, t.field)
			}
			if (have == t.value) == t.not {
				return false
			}
		}
		return true
	}, nil
}

func parseFields(kind, selector string) ([]term, error) {
	if len(selector) > maxSelector {
		return nil, fmt.Errorf("field selector: longer than %d bytes", maxSelector)
	}
	known := append([]string{"metadata.name", "metadata.namespace"}, fieldsOf[kind]...)
	var terms []term
	for part := range strings.SplitSeq(selector, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		field, value, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("field selector %q: %q has no = or !=", selector, part)
		}
		field, not := strings.CutSuffix(strings.TrimSpace(field), "!")
		t := term{field: strings.TrimSpace(field), value: strings.TrimSpace(strings.TrimPrefix(value, "=")), not: not}
		if !slices.Contains(known, t.field) {
			err := fmt.Errorf("field selector: %s of a %s cannot be selected by; these can: %s", t.field, strings.ToLower(kind), strings.Join(known, ", "))
			if near := nearest(t.field, known); near != "" {
				err = fmt.Errorf("%w; did you mean %s?", err, near)
			}
			return nil, err
		}
		terms = append(terms, t)
	}
	return terms, nil
}

// textAt returns the scalar at a dotted path, empty when it is not there or the
// zero of its type, as Kubernetes' selectors see it.
func textAt(body map[string]any, path string) string {
	var at any = body
	for name := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = m[name]
	}
	switch v := at.(type) {
	case string:
		return v
	case bool:
		return fmt.Sprint(v)
	}
	return ""
}
