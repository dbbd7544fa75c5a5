package object

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/consensus/state"
)

// The rows and the log hold every value of a Secret sealed: the mark, and what
// the cluster's sealing key made of it. Keys, type and sizes stay readable. A
// value that was sealed for one key of one Secret opens for no other.

// sealMark begins a sealed value. Encode refuses a Secret with any other.
var sealMark = []byte("skein\x00sealed\x01")

// sealOverhead is what sealing adds beside the mark: a version, a nonce and a tag.
const sealOverhead = 1 + 12 + 16

// A Sealer seals values, and opens what was sealed for the same purpose. Only
// voters hold the key that it takes.
type Sealer interface {
	Seal(secret []byte, purpose string) ([]byte, error)
	Unseal(sealed []byte, purpose string) ([]byte, error)
}

func sealPurpose(namespace, name, key string) string {
	return "secret\x00" + namespace + "\x00" + name + "\x00" + key
}

func sealed(value []byte) bool {
	return bytes.HasPrefix(value, sealMark) && len(value) >= len(sealMark)+sealOverhead
}

// ClearSize is how long a value is that may be sealed, in bytes.
func ClearSize(value []byte) int {
	if sealed(value) {
		return len(value) - len(sealMark) - sealOverhead
	}
	return len(value)
}

// checkSealed keeps values in clear out of the log.
func checkSealed(obj Object) error {
	s, ok := obj.(*corev1.Secret)
	if !ok {
		return nil
	}
	if len(s.StringData) > 0 {
		return fmt.Errorf("%s is not sealed", KeyOf(obj))
	}
	for _, v := range s.Data {
		if !sealed(v) {
			return fmt.Errorf("%s is not sealed", KeyOf(obj))
		}
	}
	return nil
}

// SealSecret returns a copy of a Secret with sealed values. Those that the Secret
// in before has already, which may be nil, stay as they were sealed there.
func SealSecret(s *corev1.Secret, before *state.Row, with Sealer) (*corev1.Secret, error) {
	var old *corev1.Secret
	if before != nil {
		var err error
		if old, err = Decode[corev1.Secret](before); err != nil {
			return nil, err
		}
	}
	out := *s
	out.Data = make(map[string][]byte, len(s.Data))
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		purpose := sealPurpose(s.Namespace, s.Name, key)
		if old != nil {
			if have, ok := old.Data[key]; ok && sealed(have) {
				if value, err := with.Unseal(have[len(sealMark):], purpose); err == nil && bytes.Equal(value, s.Data[key]) {
					out.Data[key] = have
					continue
				}
			}
		}
		box, err := with.Seal(s.Data[key], purpose)
		if err != nil {
			return nil, fmt.Errorf("seal %s: %w", KeyOf(s), err)
		}
		out.Data[key] = slices.Concat(sealMark, box)
	}
	return &out, nil
}

// OpenSecret returns the Secret in a row with its values in clear. The row stays
// as it is.
func OpenSecret(row *state.Row, with Sealer) (*corev1.Secret, error) {
	s, err := Decode[corev1.Secret](row)
	if err != nil {
		return nil, err
	}
	for key, value := range s.Data {
		if !sealed(value) {
			return nil, fmt.Errorf("open %s: the value of %q is not sealed", row.Key, key)
		}
		if s.Data[key], err = with.Unseal(value[len(sealMark):], sealPurpose(s.Namespace, s.Name, key)); err != nil {
			return nil, fmt.Errorf("open %s: the value of %q: %w", row.Key, key, err)
		}
	}
	return s, nil
}

// OpenRow returns a row as SealSecret and a person see it: that of a Secret with
// its values in clear, any other as it is. It is never kept.
func OpenRow(row *state.Row, with Sealer) (*state.Row, error) {
	if row.Key.Kind != KindSecret {
		return row, nil
	}
	s, err := OpenSecret(row, with)
	if err != nil {
		return nil, err
	}
	s.ResourceVersion = ""
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", row.Key, err)
	}
	out := *row
	out.Body = body
	return &out, nil
}
