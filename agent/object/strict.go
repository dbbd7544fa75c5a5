package object

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A reader walks what a person wrote beside the type that it should be and the
// verdicts on its fields, and writes the JSON of what is accepted.
type reader struct {
	problems
	out   []byte
	lines map[string]int // of every path that was given
	// stored lets pass what the cluster has written: the object comes out of
	// the store, with a person's patch applied.
	stored bool
}

// read walks a whole object of a kind.
func (r *reader) read(kind *Kind, v *value) {
	r.lines = make(map[string]int)
	hush(kind.Name, v)
	r.value(v, kind.typ, schemas()[kind.Name], "")
}

// value writes v, which is not null.
func (r *reader) value(v *value, t reflect.Type, f *field, path string) {
	if _, told := r.lines[path]; !told { // that of its name, if it has one
		r.lines[path] = v.line
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case leaf(t):
		r.leaf(v, t, path)
	case t.Kind() == reflect.Struct:
		r.structure(v, t, f, path)
	case t.Kind() == reflect.Map:
		r.mapping(v, t, f, path)
	default:
		r.list(v, t, f, path)
	}
}

func (r *reader) mismatch(path string, v *value, want string) {
	r.add(path, "want %s, got %s", want, v.short())
	r.out = append(r.out, "null"...)
}

func (r *reader) structure(v *value, t reflect.Type, f *field, path string) {
	if v.shape != object {
		r.mismatch(path, v, "a mapping")
		return
	}
	m := membersOf(t)
	r.out = append(r.out, '{')
	for _, p := range v.fields {
		at := dotted(path, p.name)
		member, known := m.types[p.name]
		if !known {
			r.lines[at] = p.line
			r.unknown(at, p.name, m.names)
			continue
		}
		child := f.child(p.name)
		if child == nil || !r.admits(child, p, at) {
			continue
		}
		r.key(p.name)
		r.value(p.val, member, child, at)
	}
	r.out = append(r.out, '}')
}

func (r *reader) unknown(path, name string, known []string) {
	if near := nearest(name, known); near != "" {
		r.add(path, "unknown field; did you mean %s?", near)
		return
	}
	r.add(path, "unknown field")
}

// admits reports whether a field is to be walked. If it is not, it has been
// copied, read past or refused.
func (r *reader) admits(f *field, p pair, path string) bool {
	r.lines[path] = p.line
	if p.val.shape == nothing {
		return false // null is as good as absent
	}
	switch f.verdict {
	case inside, accepted:
		return true
	case server:
		if r.stored {
			r.key(p.name)
			r.copy(p.val)
		}
		return false
	case harmless:
		for _, ok := range f.values {
			if p.val.shape != list && p.val.shape != object && p.val.text == ok {
				return true
			}
		}
		if p.val.shape == text && p.val.text == "" {
			return false
		}
		r.hint(path, f.hint, "%s is not supported; accepted is %s", p.val.short(), strings.Join(f.values, " or "))
		return false
	}
	if !p.val.empty() {
		r.hint(path, f.hint, "%s", map[verdict]string{notYet: tellNotYet, never: "not supported"}[f.verdict])
	}
	return false
}

const tellNotYet = "not supported yet, it comes in a later version"

func (r *reader) mapping(v *value, t reflect.Type, f *field, path string) {
	if v.shape != object {
		r.mismatch(path, v, "a mapping")
		return
	}
	r.out = append(r.out, '{')
	for _, p := range v.fields {
		at := keyed(path, p.name)
		child := f
		if f.verdict == inside {
			child = f.child(p.name)
		}
		if p.val.shape == nothing && f.verdict == accepted && (t.Elem().Kind() == reflect.String || t.Elem() == bytesType) {
			p.val = &value{shape: text, line: p.line} // `key:` is an empty label, as in Kubernetes
		}
		if !r.admits(child, p, at) {
			continue
		}
		r.key(p.name)
		r.value(p.val, t.Elem(), child, at)
	}
	r.out = append(r.out, '}')
}

func (r *reader) list(v *value, t reflect.Type, f *field, path string) {
	if v.shape != list {
		r.mismatch(path, v, "a list")
		return
	}
	r.out = append(r.out, '[')
	for i, item := range v.items {
		if i > 0 {
			r.out = append(r.out, ',')
		}
		at := indexed(path, i)
		if item.shape == nothing {
			r.lines[at] = item.line
			r.mismatch(at, item, "a value")
			continue
		}
		r.value(item, t.Elem(), f, at)
	}
	r.out = append(r.out, ']')
}

func (r *reader) leaf(v *value, t reflect.Type, path string) {
	switch t {
	case quantityType:
		r.quantity(v, path)
		return
	case intOrStringType:
		if v.shape == text {
			r.quote(v.text)
			return
		}
		r.integer(v, reflect.TypeFor[int32](), path, "a whole number or a string")
		return
	case bytesType:
		r.binary(v, path)
		return
	case timeType, microTimeType:
		r.copy(v) // never given by people
		return
	}
	switch t.Kind() {
	case reflect.String:
		if v.shape != text {
			if v.shape == list || v.shape == object {
				r.mismatch(path, v, "a string")
				return
			}
			how := "put it in quotes"
			if !v.quiet {
				how += ": " + strconv.Quote(v.text)
			}
			r.hint(path, how, "want a string, got %s", v.short())
			r.out = append(r.out, "null"...)
			return
		}
		r.quote(v.text)
	case reflect.Bool:
		if v.shape != boolean {
			r.mismatch(path, v, "true or false")
			return
		}
		r.out = append(r.out, v.text...)
	default:
		r.integer(v, t, path, "a whole number")
	}
}

func (r *reader) integer(v *value, t reflect.Type, path, want string) {
	if v.shape != integer {
		r.mismatch(path, v, want)
		return
	}
	n := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: v.text} // knows 0x1f, 0644 and 1_000
	var i int64
	if err := n.Decode(&i); err != nil || reflect.Zero(t).OverflowInt(i) {
		r.mismatch(path, v, fmt.Sprintf("%s of at most %d bits", want, t.Bits()))
		return
	}
	r.out = strconv.AppendInt(r.out, i, 10)
}

func (r *reader) quantity(v *value, path string) {
	if v.shape != text && v.shape != integer && v.shape != decimal {
		r.mismatch(path, v, "a quantity")
		return
	}
	if _, err := resource.ParseQuantity(v.text); err != nil || len(v.text) > 64 {
		r.hint(path, quantityHint(v.text), "%q is no quantity", clip(v.text))
		r.out = append(r.out, "null"...)
		return
	}
	r.quote(v.text)
}

// binary writes bytes, which are given in base64 as one string, folded over lines
// or not.
func (r *reader) binary(v *value, path string) {
	if v.shape != text {
		r.hint(path, "write it in base64, or under stringData of a Secret and data of a ConfigMap as it is", "want a string in base64, got %s", v.short())
		r.out = append(r.out, "null"...)
		return
	}
	body, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(v.text), ""))
	if err != nil {
		r.hint(path, "write what is not encoded under stringData of a Secret and data of a ConfigMap", "is no base64")
		r.out = append(r.out, "null"...)
		return
	}
	r.quote(base64.StdEncoding.EncodeToString(body))
}

// quantityHint knows what people mean who write quantities otherwise.
func quantityHint(s string) string {
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.TrimSpace(strings.ToLower(s[len(number):]))
	if number != "" {
		switch unit {
		case "kb", "kib", "ki", "k":
			return "write " + number + "Ki"
		case "mb", "mib", "mi":
			return "write " + number + "Mi"
		case "gb", "gib", "gi", "g":
			return "write " + number + "Gi"
		case "tb", "tib", "ti", "t":
			return "write " + number + "Ti"
		}
	}
	return "write cpu like 500m or 2, memory like 512Mi or 1Gi"
}

// key writes the name of a field, and the comma before it.
func (r *reader) key(name string) {
	if r.out[len(r.out)-1] != '{' {
		r.out = append(r.out, ',')
	}
	r.quote(name)
	r.out = append(r.out, ':')
}

func (r *reader) quote(s string) {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings can always be written
	}
	r.out = append(r.out, b...)
}

// copy writes v as it is.
func (r *reader) copy(v *value) {
	switch v.shape {
	case text:
		r.quote(v.text)
	case nothing:
		r.out = append(r.out, "null"...)
	case integer, decimal, boolean:
		r.out = append(r.out, v.text...)
	case list:
		r.out = append(r.out, '[')
		for i, item := range v.items {
			if i > 0 {
				r.out = append(r.out, ',')
			}
			r.copy(item)
		}
		r.out = append(r.out, ']')
	case object:
		r.out = append(r.out, '{')
		for _, p := range v.fields {
			r.key(p.name)
			r.copy(p.val)
		}
		r.out = append(r.out, '}')
	}
}
