package object

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/skein-dev/skein/consensus/state"
)

// A Manifest is one object as a person wants it.
type Manifest struct {
	Kind   Kind
	Object Object // defaults filled in and validated; without uid and status
	File   string // where it was written
	Line   int

	lines map[string]int // of every path that was given
	// expect is the version that the manifest says it was made from, 0 if it
	// says nothing; uid likewise.
	expect uint64
	uid    string
}

// Key returns the key of the object.
func (m *Manifest) Key() state.Key { return KeyOf(m.Object) }

// gives reports whether the person wrote this field.
func (m *Manifest) gives(path string) bool {
	_, ok := m.lines[path]
	return ok
}

// fail places faults in the file.
func (m *Manifest) fail(list []problem) error {
	all := place(m.File, title(m.Object), m.Line, m.lines, list)
	return join(all)
}

// Parse reads a file of YAML documents or JSON objects, strictly: what is not
// understood is an error and nothing is dropped. Objects that name no namespace
// get the one given; defaults are filled in, and every object is validated. The
// error is a *ManifestError that tells up to ten faults.
func Parse(filename string, data []byte, namespace string) ([]Manifest, error) {
	if namespace == "" {
		namespace = DefaultNamespace
	}
	docs, err := read(data)
	if err != nil {
		return nil, textError(filename, err)
	}
	p := parser{file: filename, namespace: namespace, seen: make(map[state.Key]int)}
	for _, doc := range docs {
		p.document(doc)
	}
	if err := join(p.faults); err != nil {
		return nil, err
	}
	if len(p.out) == 0 {
		return nil, &ManifestError{File: filename, Msg: "holds no object"}
	}
	return p.out, nil
}

func textError(filename string, err error) error {
	var own *treeError
	if errors.As(err, &own) {
		return &ManifestError{File: filename, Line: own.line, Msg: own.msg, Hint: own.hint}
	}
	return &ManifestError{File: filename, Msg: err.Error()}
}

type parser struct {
	file, namespace string
	out             []Manifest
	faults          []*ManifestError
	seen            map[state.Key]int // line
}

func (p *parser) fault(line int, path, hint, format string, args ...any) {
	p.faults = append(p.faults, &ManifestError{
		File: p.file, Line: line, Path: path, Hint: hint, Msg: fmt.Sprintf(format, args...),
	})
}

func (p *parser) document(doc *value) {
	if doc.shape != object {
		p.fault(doc.line, "", "", "want an object with apiVersion and kind, got %s", doc.short())
		return
	}
	word, version := doc.at("kind"), doc.at("apiVersion")
	for _, f := range []struct {
		name string
		val  *value
	}{{"kind", word}, {"apiVersion", version}} {
		if f.val == nil || f.val.shape != text || f.val.text == "" {
			p.fault(doc.line, f.name, "every object begins with apiVersion and kind, for example apps/v1 and Deployment", "is missing")
			return
		}
	}
	if items := doc.at("items"); strings.HasSuffix(word.text, "List") && items != nil {
		p.items(doc, items)
		return
	}
	kind, ok := kindsByName[word.text]
	if !ok || !kind.Manifest {
		msg, hint := refusedKind(word.text)
		p.fault(word.line, "kind", hint, "%s", msg)
		return
	}
	if version.text != kind.APIVersion {
		p.fault(version.line, "apiVersion", "write "+kind.APIVersion, "%q does not have the kind %s", clip(version.text), kind.Name)
		return
	}
	p.object(kind, doc)
}

// items takes the objects out of a List.
func (p *parser) items(doc, items *value) {
	for _, f := range doc.fields {
		switch f.name {
		case "apiVersion", "kind", "metadata", "items":
		default:
			p.fault(f.line, f.name, "", "unknown field of a List")
		}
	}
	if items.shape != list && items.shape != nothing {
		p.fault(items.line, "items", "", "want a list, got %s", items.short())
		return
	}
	for _, item := range items.items {
		p.document(item)
	}
}

func (p *parser) object(kind *Kind, doc *value) {
	var r reader
	r.read(kind, doc)
	obj := kind.fresh()
	if len(r.problems.list) == 0 {
		if err := json.Unmarshal(r.out, obj); err != nil {
			r.add("", "cannot be read: %v", err)
		}
	}
	m := Manifest{Kind: *kind, Object: obj, File: p.file, Line: doc.line, lines: r.lines}
	name := kind.Singular
	if n := doc.at("metadata").at("name"); n != nil && n.shape == text {
		name = fmt.Sprintf("%s %q", kind.Singular, clip(n.text))
	}
	if len(r.problems.list) == 0 {
		m.precondition(doc, &r.problems)
		if kind.Namespaced && obj.GetNamespace() == "" {
			obj.SetNamespace(p.namespace)
		}
		Default(obj)
		validate(obj, &r.problems)
	}
	if len(r.problems.list) > 0 {
		p.faults = append(p.faults, place(p.file, name, doc.line, r.lines, r.problems.list)...)
		return
	}
	if before, twice := p.seen[m.Key()]; twice {
		p.fault(doc.line, "", "", "%s is given twice, first on line %d", name, before)
		return
	}
	p.seen[m.Key()] = doc.line
	p.out = append(p.out, m)
}

// precondition reads which version of an object a manifest was made from.
func (m *Manifest) precondition(doc *value, p *problems) {
	meta := doc.at("metadata")
	if v := meta.at("resourceVersion"); v != nil && v.shape != nothing && v.text != "" {
		if _, err := fmt.Sscanf(v.text, "%d", &m.expect); err != nil {
			p.hint("metadata.resourceVersion", "remove it", "%q is no version of this cluster", clip(v.text))
		}
	}
	if v := meta.at("uid"); v != nil {
		m.uid = v.text
	}
}

// title names an object in an error.
func title(obj Object) string {
	if k := kindOf(obj); k != nil && obj.GetName() != "" {
		return fmt.Sprintf("%s %q", k.Singular, clip(obj.GetName()))
	}
	return ""
}

// place finds the line of each fault: that of its path, or of the nearest one
// around it that was written.
func place(file, title string, first int, lines map[string]int, list []problem) []*ManifestError {
	out := make([]*ManifestError, 0, len(list))
	for _, p := range list {
		e := &ManifestError{File: file, Object: title, Path: p.path, Msg: p.msg, Hint: p.hint}
		if file != "" {
			e.Line = first
			for path := p.path; path != ""; path = outer(path) {
				if line, ok := lines[path]; ok {
					e.Line = line
					break
				}
			}
		}
		out = append(out, e)
	}
	return out
}

// outer returns the path around a path.
func outer(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

// laterKinds and neverKinds are kinds of Kubernetes that people will try, with
// what they can do instead.
var laterKinds = map[string]string{
	"DaemonSet":               "until then write a Deployment",
	"Job":                     "until then write a Pod with restartPolicy: OnFailure",
	"CronJob":                 "until then start Pods from cron",
	"Ingress":                 "until then write a Service of type NodePort",
	"PersistentVolumeClaim":   "until then Pods keep no data of their own",
	"HorizontalPodAutoscaler": "until then use \"skein scale\"",
	"PodDisruptionBudget":     "\"skein node drain\" moves Pods one node at a time",
}

var neverKinds = map[string]string{
	"PersistentVolume":               "storage is local to a node",
	"LimitRange":                     "set requests and limits of each container",
	"ResourceQuota":                  "set requests and limits of each container",
	"Endpoints":                      "a Service has EndpointSlices: \"skein get endpointslices\"",
	"StatefulSet":                    "write a Deployment for what keeps no data of its own",
	"ReplicationController":          "write a Deployment",
	"ReplicaSet":                     "write a Deployment: its Revisions are what ReplicaSets are to Kubernetes",
	"CustomResourceDefinition":       "write what you need as Deployments",
	"MutatingWebhookConfiguration":   "validate manifests before you apply them",
	"ValidatingWebhookConfiguration": "validate manifests before you apply them",
	"ServiceAccount":                 "Pods have no access to the cluster's API; people get tokens by \"skein token create\"",
	"Role":                           "people get tokens with a role by \"skein token create --role\"",
	"RoleBinding":                    "people get tokens with a role by \"skein token create --role\"",
	"ClusterRole":                    "people get tokens with a role by \"skein token create --role\"",
	"ClusterRoleBinding":             "people get tokens with a role by \"skein token create --role\"",
	"StorageClass":                   "there is local storage only",
}

// refusedKind tells why a kind cannot be given in a manifest.
func refusedKind(name string) (msg, hint string) {
	switch name {
	case KindNode:
		return "nodes are not made by manifests", "a machine joins with \"skeind run --join\"; change a node with \"skein label\" and \"skein node\""
	case KindEvent:
		return "events are written by the cluster", "see them with \"skein events\""
	case KindRevision:
		return "revisions are made by their Deployment", "change the Deployment's template"
	case KindEndpointSlice:
		return "endpointslices are made from Services", "write a Service with a selector; type: ExternalName leads to what runs elsewhere"
	case KindImage:
		return "images are not made by manifests", "load one with \"skein image import FILE.tar\""
	}
	if hint, ok := laterKinds[name]; ok {
		return "the kind " + name + " is " + tellNotYet, hint
	}
	if hint, ok := neverKinds[name]; ok {
		return "the kind " + name + " is not supported", hint
	}
	var known []string
	for _, k := range kinds {
		if k.Manifest {
			known = append(known, k.Name)
		}
	}
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("there is no kind %q", clip(name)), "did you mean " + near + "?"
	}
	return fmt.Sprintf("there is no kind %q", clip(name)), "these are supported: " + strings.Join(known, ", ")
}
