package object

import (
	"reflect"
	"testing"
)

// TestEveryField walks the types of Kubernetes: each field must have a verdict,
// and each verdict must be about a field that there is.
func TestEveryField(t *testing.T) {
	for name, root := range schemas() {
		t.Run(name, func(t *testing.T) {
			walkFields(t, name, kindsByName[name].typ, root)
		})
	}
}

func walkFields(t *testing.T, path string, typ reflect.Type, f *field) {
	t.Helper()
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if f.verdict != inside {
		if f.verdict == accepted && !leaf(typ) && !(typ.Kind() == reflect.Map && leaf(typ.Elem())) {
			t.Errorf("%s is accepted as a whole; say so of each field in it", path)
		}
		if len(f.children) > 0 {
			t.Errorf("%s has a verdict, and so have fields in it", path)
		}
		if (f.verdict == notYet || f.verdict == never || f.verdict == harmless) && f.hint == "" {
			t.Errorf("%s is refused without a way out", path)
		}
		return
	}
	switch {
	case typ.Kind() == reflect.Map:
		if f.children["*"] == nil {
			t.Errorf("%s: no verdict on keys that are not listed", path)
		}
		for key, child := range f.children {
			walkFields(t, path+"."+key, typ.Elem(), child)
		}
	case typ.Kind() == reflect.Struct && !leaf(typ):
		m := membersOf(typ)
		for _, name := range m.names {
			child := f.children[name]
			if child == nil {
				t.Errorf("%s.%s has no verdict", path, name)
				continue
			}
			walkFields(t, path+"."+name, m.types[name], child)
		}
		for name := range f.children {
			if m.types[name] == nil {
				t.Errorf("%s.%s has a verdict, but Kubernetes does not know it", path, name)
			}
		}
	default:
		t.Errorf("%s (%s) has no verdict", path, typ)
	}
}
