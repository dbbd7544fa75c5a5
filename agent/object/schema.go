package object

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A verdict says what becomes of a field that a person gives.
type verdict uint8

const (
	inside   verdict = iota // decided field by field below it
	accepted                // does what Kubernetes says
	harmless                // accepted with the values listed, which ask for nothing
	server                  // written by the cluster; from a person it is read past, as in Kubernetes
	notYet                  // comes in a later version
	never                   // not planned
)

// A rule is the verdict on some fields of a kind, with the way out for those
// who asked for one of them.
type rule struct {
	verdict verdict
	values  []string // with harmless
	hint    string
	paths   []string // without indexes: "containers.ports.hostPort"
}

func takes(paths ...string) rule { return rule{verdict: accepted, paths: paths} }

func sets(paths ...string) rule { return rule{verdict: server, paths: paths} }

func later(hint string, paths ...string) rule {
	return rule{verdict: notYet, hint: hint, paths: paths}
}

func refuses(hint string, paths ...string) rule {
	return rule{verdict: never, hint: hint, paths: paths}
}

// only accepts a path with these values (as JSON, strings bare) and refuses all
// others for now.
func only(path string, values []string, hint string) rule {
	return rule{verdict: harmless, values: values, hint: hint, paths: []string{path}}
}

// A field is a node of a kind's tree of verdicts.
type field struct {
	verdict  verdict
	values   []string
	hint     string
	children map[string]*field // "*" is every key of a map that is not listed
}

func (f *field) child(name string) *field {
	if c, ok := f.children[name]; ok {
		return c
	}
	return f.children["*"]
}

func (f *field) grow(path string) *field {
	for name := range strings.SplitSeq(path, ".") {
		if f.children == nil {
			f.children = make(map[string]*field)
		}
		next, ok := f.children[name]
		if !ok {
			next = &field{}
			f.children[name] = next
		}
		f = next
	}
	return f
}

// within returns the rules with every path moved below prefix.
func within(prefix string, rules []rule) []rule {
	out := make([]rule, len(rules))
	for i, r := range rules {
		out[i] = r
		out[i].paths = make([]string, len(r.paths))
		for j, p := range r.paths {
			out[i].paths[j] = prefix + "." + p
		}
	}
	return out
}

func plant(rules ...[]rule) *field {
	root := &field{}
	for _, r := range slices.Concat(rules...) {
		for _, path := range r.paths {
			f := root.grow(path)
			f.verdict, f.values, f.hint = r.verdict, r.values, r.hint
		}
	}
	return root
}

// schemas are the verdicts of every kind that people may write, from a manifest
// or by a patch.
var schemas = sync.OnceValue(func() map[string]*field {
	top := []rule{takes("apiVersion", "kind")}
	meta := within("metadata", metadataRules)
	return map[string]*field{
		KindPod:           plant(top, meta, within("spec", podRules), []rule{sets("status")}),
		KindDeployment:    plant(top, meta, deploymentRules, within("spec.template.metadata", templateMetadataRules), within("spec.template.spec", podRules)),
		KindConfigMap:     plant(top, meta, configMapRules),
		KindSecret:        plant(top, meta, secretRules),
		KindNamespace:     plant(top, meta, []rule{sets("spec", "status")}),
		KindService:       plant(top, meta, serviceRules),
		KindNetworkPolicy: plant(top, meta, networkPolicyRules),
		KindNode:          plant(top, meta, nodeRules),
	}
})

var (
	quantityType    = reflect.TypeFor[resource.Quantity]()
	intOrStringType = reflect.TypeFor[intstr.IntOrString]()
	timeType        = reflect.TypeFor[metav1.Time]()
	microTimeType   = reflect.TypeFor[metav1.MicroTime]()
	bytesType       = reflect.TypeFor[[]byte]()
)

// leaf reports whether values of t have no fields of their own, in spite of
// what they are in Go.
func leaf(t reflect.Type) bool {
	switch t {
	case quantityType, intOrStringType, timeType, microTimeType, bytesType:
		return true
	}
	return t.Kind() != reflect.Struct && t.Kind() != reflect.Map && t.Kind() != reflect.Slice && t.Kind() != reflect.Pointer
}

// members are the JSON fields of a struct by name, those of embedded structs
// included.
type members struct {
	types map[string]reflect.Type
	names []string
}

var memberCache sync.Map // of reflect.Type to *members

func membersOf(t reflect.Type) *members {
	if m, ok := memberCache.Load(t); ok {
		return m.(*members)
	}
	m := &members{types: make(map[string]reflect.Type)}
	m.collect(t)
	memberCache.Store(t, m)
	return m
}

func (m *members) collect(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous:
			m.collect(f.Type)
		default:
			m.types[name] = f.Type
			m.names = append(m.names, name)
		}
	}
}
