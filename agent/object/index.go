package object

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/consensus/state"
)

const (
	indexNode   = "node="
	indexOwner  = "owner="
	indexLabel  = "label:"
	indexDigest = "digest="
	indexAbout  = "about="
)

// NodeIndex is the index string of the Pods on a node; "" means the unbound.
func NodeIndex(node string) string { return indexNode + node }

// OwnerIndex is the index string of the objects that the owner with this uid
// controls.
func OwnerIndex(uid string) string { return indexOwner + uid }

// LabelIndex is the index string of the objects with a label.
func LabelIndex(key, value string) string { return indexLabel + key + "=" + value }

// DigestIndex is the index string of the Images with a digest.
func DigestIndex(digest string) string { return indexDigest + digest }

// AboutIndex is the index string of the Events about the object with this uid.
func AboutIndex(uid string) string { return indexAbout + uid }

// indexOf returns what an object can be found by. Nothing here may follow an
// object's status: that would turn each report of a node into index work.
func indexOf(obj Object) []string {
	var out []string
	switch o := obj.(type) {
	case *corev1.Node, *Token, *Keyring, *Authority:
		return nil
	case *corev1.Event:
		return []string{AboutIndex(string(o.InvolvedObject.UID))}
	case *corev1.Pod:
		out = append(out, NodeIndex(o.Spec.NodeName))
	case *Image:
		out = append(out, DigestIndex(o.Spec.Digest))
	}
	for _, ref := range obj.GetOwnerReferences() {
		if ref.Controller != nil && *ref.Controller {
			out = append(out, OwnerIndex(string(ref.UID)))
		}
	}
	first := len(out)
	for k, v := range obj.GetLabels() {
		out = append(out, LabelIndex(k, v))
	}
	slices.Sort(out[first:])
	return out
}

// Labels returns the labels of the object in a row, without decoding it where
// the index has them.
func Labels(row *state.Row) map[string]string {
	switch row.Key.Kind {
	case KindNode, KindEvent, KindToken, KindKeyring, KindAuthority:
		var body struct {
			Metadata struct {
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
		}
		if json.Unmarshal(row.Body, &body) != nil {
			return nil // selects nothing; whoever decodes the row tells why
		}
		return body.Metadata.Labels
	}
	out := make(map[string]string)
	for _, s := range row.Index {
		if label, ok := strings.CutPrefix(s, indexLabel); ok {
			k, v, _ := strings.Cut(label, "=") // a key holds no '='
			out[k] = v
		}
	}
	return out
}
