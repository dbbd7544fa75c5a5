package object

import (
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Group is the apiVersion of the kinds that Kubernetes does not have.
const Group = "skein.dev/v1"

// The names of the kinds, as in Kubernetes' JSON and in state.Key.
const (
	KindPod        = "Pod"
	KindDeployment = "Deployment"
	KindRevision   = "Revision"
	KindNode       = "Node"
	KindNamespace  = "Namespace"
	KindEvent      = "Event"
	KindImage      = "Image"
	KindConfigMap  = "ConfigMap"
	KindSecret     = "Secret"
	KindService    = "Service"

	KindEndpointSlice = "EndpointSlice"
	KindNetworkPolicy = "NetworkPolicy"
	KindSelection     = "Selection" // internal

	KindToken     = "Token"     // internal
	KindKeyring   = "Keyring"   // internal
	KindAuthority = "Authority" // internal
)

// A Kind is one sort of objects.
type Kind struct {
	Name       string // "Deployment"
	APIVersion string // "apps/v1"
	Singular   string // "deployment", as printed
	Plural     string // "deployments"
	Short      string // "deploy", empty if there is none
	Namespaced bool
	Internal   bool // never shown to people, except by verbs of its own
	Manifest   bool // people may create it from a manifest

	typ     reflect.Type // of the struct
	fresh   func() Object
	shallow func(Object) Object // a copy whose metadata may be set
}

func kind[T any, P interface {
	*T
	Object
}](k Kind) *Kind {
	k.Singular = strings.ToLower(k.Name)
	if k.Plural == "" {
		k.Plural = k.Singular + "s"
	}
	k.typ = reflect.TypeFor[T]()
	k.fresh = func() Object { return P(new(T)) }
	k.shallow = func(obj Object) Object {
		c := *obj.(P)
		return P(&c)
	}
	return &k
}

// kinds are in the order in which people see them.
var kinds = []*Kind{
	kind[corev1.Pod](Kind{Name: KindPod, APIVersion: "v1", Short: "po", Namespaced: true, Manifest: true}),
	kind[appsv1.Deployment](Kind{Name: KindDeployment, APIVersion: "apps/v1", Short: "deploy", Namespaced: true, Manifest: true}),
	kind[Revision](Kind{Name: KindRevision, APIVersion: Group, Short: "rev", Namespaced: true}),
	kind[corev1.Service](Kind{Name: KindService, APIVersion: "v1", Short: "svc", Namespaced: true, Manifest: true}),
	kind[discoveryv1.EndpointSlice](Kind{Name: KindEndpointSlice, APIVersion: "discovery.k8s.io/v1", Namespaced: true}),
	kind[networkingv1.NetworkPolicy](Kind{Name: KindNetworkPolicy, APIVersion: "networking.k8s.io/v1", Plural: "networkpolicies", Short: "netpol", Namespaced: true, Manifest: true}),
	kind[corev1.ConfigMap](Kind{Name: KindConfigMap, APIVersion: "v1", Short: "cm", Namespaced: true, Manifest: true}),
	kind[corev1.Secret](Kind{Name: KindSecret, APIVersion: "v1", Namespaced: true, Manifest: true}),
	kind[corev1.Node](Kind{Name: KindNode, APIVersion: "v1", Short: "no"}),
	kind[corev1.Namespace](Kind{Name: KindNamespace, APIVersion: "v1", Short: "ns", Manifest: true}),
	kind[corev1.Event](Kind{Name: KindEvent, APIVersion: "v1", Short: "ev", Namespaced: true}),
	kind[Image](Kind{Name: KindImage, APIVersion: Group, Short: "img"}),
	kind[Selection](Kind{Name: KindSelection, APIVersion: Group, Namespaced: true, Internal: true}),
	kind[Token](Kind{Name: KindToken, APIVersion: Group, Internal: true}),
	kind[Keyring](Kind{Name: KindKeyring, APIVersion: Group, Internal: true}),
	kind[Authority](Kind{Name: KindAuthority, APIVersion: Group, Plural: "authorities", Internal: true}),
}

var (
	kindsByName = func() map[string]*Kind {
		m := make(map[string]*Kind, len(kinds))
		for _, k := range kinds {
			m[k.Name] = k
		}
		return m
	}()
	kindsByType = func() map[reflect.Type]*Kind {
		m := make(map[reflect.Type]*Kind, len(kinds))
		for _, k := range kinds {
			m[k.typ] = k
		}
		return m
	}()
)

func kindOf(obj Object) *Kind {
	t := reflect.TypeOf(obj)
	if t == nil || t.Kind() != reflect.Pointer {
		return nil
	}
	return kindsByType[t.Elem()]
}

// Kinds returns the kinds that people see.
func Kinds() []Kind {
	var out []Kind
	for _, k := range kinds {
		if !k.Internal {
			out = append(out, *k)
		}
	}
	return out
}

// KindNamed returns the kind with this exact name, internal or not.
func KindNamed(name string) (Kind, bool) {
	k, ok := kindsByName[name]
	if !ok {
		return Kind{}, false
	}
	return *k, true
}

// Lookup finds the kind that a person means by a word: singular, plural or
// short, in any case, with its group or without ("deployments.apps"). Internal
// kinds are not found.
func Lookup(word string) (Kind, bool) {
	word, group, _ := strings.Cut(strings.ToLower(word), ".")
	for _, k := range kinds {
		if word != "" && !k.Internal && strings.HasPrefix(k.APIVersion, group) && (word == k.Singular || word == k.Plural || word == k.Short) {
			return *k, true
		}
	}
	return Kind{}, false
}

// Nearest returns the plural of the kind whose name is closest to a word that
// Lookup does not know, or nothing when none is close.
func Nearest(word string) string {
	var names []string
	for _, k := range kinds {
		if !k.Internal {
			names = append(names, k.Plural, k.Singular)
		}
	}
	near := nearest(strings.ToLower(word), names)
	for _, k := range kinds {
		if near != "" && (near == k.Singular || near == k.Plural) {
			return k.Plural
		}
	}
	return ""
}

// otherWords are short names of kinds that Kubernetes has and we have not.
var otherWords = map[string]string{
	"ds": "DaemonSet", "ep": "Endpoints", "sts": "StatefulSet", "pvc": "PersistentVolumeClaim",
	"pv": "PersistentVolume", "hpa": "HorizontalPodAutoscaler", "ing": "Ingress", "ingresses": "Ingress", "cj": "CronJob",
	"rs": "ReplicaSet", "rc": "ReplicationController", "pdb": "PodDisruptionBudget", "sa": "ServiceAccount",
	"sc": "StorageClass", "storageclasses": "StorageClass",
	"crd": "CustomResourceDefinition", "quota": "ResourceQuota", "limits": "LimitRange",
}

// Unsupported tells why there are no objects of the kind of Kubernetes that a
// word means, and what to do instead. It is false of any other word.
func Unsupported(word string) (msg, hint string, ok bool) {
	word, _, _ = strings.Cut(strings.ToLower(word), ".")
	for _, known := range []map[string]string{laterKinds, neverKinds} {
		for name := range known {
			if lower := strings.ToLower(name); word == lower || word == lower+"s" || otherWords[word] == name {
				msg, hint = refusedKind(name)
				return msg, hint, true
			}
		}
	}
	return "", "", false
}

// NearestName returns the name that was probably meant by a mistyped one, or
// nothing when none is close.
func NearestName(typed string, names []string) string { return nearest(typed, names) }

// nearest returns the candidate that fewest edits turn word into, of equals the
// one that begins most like it, or nothing if more than a third of its letters
// would have to change.
func nearest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, distance := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if strings.EqualFold(c, word) {
			return c
		}
		d := edits(word, c)
		if d < distance || d == distance && best != "" && common(word, c) > common(word, best) {
			best, distance = c, d
		}
	}
	return best
}

// common counts the letters with which both words begin.
func common(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// edits counts the letters to insert, delete, replace or swap with their
// neighbour.
func edits(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last = last, slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
