// Package object owns what Kubernetes' objects are to skein: which kinds there
// are, what their fields mean and which of them are supported, their defaults
// and limits, the rows that hold them, and how they are shown as tables,
// documents and descriptions. It is the only codec between rows and structs.
//
// It decides nothing and keeps nothing: clocks, identifiers and random numbers
// are handed in. Who may change an object belongs to the API, what follows from
// it to the leader and the nodes.
package object

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// AnyVersion as the version that a change is based on means that any will do.
const AnyVersion = math.MaxUint64

// An Object is a pointer to the struct of one of the Kinds.
type Object interface {
	metav1.Object
	GetObjectKind() schema.ObjectKind
}

// Decode reads the object in a row, which must be of T's kind. Its
// resourceVersion is the row's version.
func Decode[T any](row *state.Row) (*T, error) {
	out := new(T)
	obj, ok := any(out).(Object)
	if !ok {
		return nil, fmt.Errorf("%s read as %T, which is no object", row.Key, out)
	}
	if kind := kindOf(obj); kind == nil || kind.Name != row.Key.Kind {
		return nil, fmt.Errorf("%s read as %T", row.Key, out)
	}
	if err := decodeInto(row, obj); err != nil {
		return nil, err
	}
	return out, nil
}

// DecodeAny reads the object in a row of any kind.
func DecodeAny(row *state.Row) (Object, error) {
	kind, ok := kindsByName[row.Key.Kind]
	if !ok {
		return nil, fmt.Errorf("%s is of a kind that this agent does not know: upgrade it", row.Key)
	}
	obj := kind.fresh()
	return obj, decodeInto(row, obj)
}

// PodSpec returns what a Pod, or the Pods of a Deployment or a Revision, are made of.
func PodSpec(row *state.Row) (*corev1.PodSpec, error) {
	obj, err := DecodeAny(row)
	if err != nil {
		return nil, err
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		return &o.Spec, nil
	case *appsv1.Deployment:
		return &o.Spec.Template.Spec, nil
	case *Revision:
		return &o.Spec.Template.Spec, nil
	}
	return nil, fmt.Errorf("%s has no Pods", row.Key)
}

func decodeInto(row *state.Row, obj Object) error {
	if err := json.Unmarshal(row.Body, obj); err != nil {
		return fmt.Errorf("decode %s: %w", row.Key, err)
	}
	obj.SetResourceVersion(strconv.FormatUint(row.Version, 10))
	return nil
}

// Encode returns the object as the log carries it: with its key, its index
// strings, and a body without resourceVersion. It does not change obj, and
// refuses a Secret in clear.
func Encode(obj Object) (*logv1.Object, error) {
	if err := checkSealed(obj); err != nil {
		return nil, err
	}
	return encode(obj)
}

func encode(obj Object) (*logv1.Object, error) {
	kind := kindOf(obj)
	if kind == nil {
		return nil, fmt.Errorf("%T is of no kind that is stored", obj)
	}
	key := KeyOf(obj)
	if key.Name == "" || kind.Namespaced != (key.Namespace != "") {
		return nil, fmt.Errorf("%s %q has no name, or a namespace amiss", kind.Name, key.Namespace+"/"+key.Name)
	}
	if obj.GetUID() == "" {
		return nil, fmt.Errorf("%s has no uid", key)
	}
	out := kind.shallow(obj)
	out.SetResourceVersion("")
	out.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(kind.APIVersion, kind.Name))
	body, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	return &logv1.Object{Key: key.Proto(), Uid: string(obj.GetUID()), Index: indexOf(obj), Body: body}, nil
}

// KeyOf returns the key of the row that holds obj. Its kind is empty if obj is
// of no kind that is stored.
func KeyOf(obj Object) state.Key {
	key := state.Key{Name: obj.GetName()}
	if kind := kindOf(obj); kind != nil {
		key.Kind = kind.Name
		key.Namespace = obj.GetNamespace()
	}
	return key
}

// Version returns the version of the row that obj was decoded from, 0 if none.
func Version(obj Object) uint64 {
	v, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// Put returns the operation that writes obj in place of its version expect: 0
// means that it must not exist yet, AnyVersion that it does not matter.
func Put(obj Object, expect uint64) (*logv1.Op, error) {
	body, err := Encode(obj)
	if err != nil {
		return nil, err
	}
	op := change(KeyOf(obj), expect)
	op.Change = &logv1.Op_Put{Put: body}
	return op, nil
}

// Delete returns the operation that deletes the object at version expect.
func Delete(key state.Key, expect uint64) *logv1.Op {
	op := change(key, expect)
	op.Change = &logv1.Op_Delete{Delete: true}
	return op
}

// Check returns the operation that changes nothing, but refuses its transaction
// unless the object is at version expect (0: unless it does not exist).
func Check(key state.Key, expect uint64) *logv1.Op {
	op := change(key, expect)
	op.Change = &logv1.Op_Check{Check: true}
	return op
}

func change(key state.Key, expect uint64) *logv1.Op {
	op := &logv1.Op{Key: key.Proto()}
	if expect != AnyVersion {
		op.Expect = &expect
	}
	return op
}
