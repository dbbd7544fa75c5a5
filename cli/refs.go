package cli

import (
	"strings"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// kind is what the command line knows of a kind: its words, for completion and
// to name rows of several kinds. Which kinds there are is for the server to say.
type kind struct {
	name       string // as in a manifest
	words      []string
	clusterOwn bool // in no namespace
}

var kinds = []kind{
	{name: "Pod", words: []string{"pod", "pods", "po"}},
	{name: "Deployment", words: []string{"deployment", "deployments", "deploy"}},
	{name: "Revision", words: []string{"revision", "revisions", "rev"}},
	{name: "Service", words: []string{"service", "services", "svc"}},
	{name: "EndpointSlice", words: []string{"endpointslice", "endpointslices"}},
	{name: "NetworkPolicy", words: []string{"networkpolicy", "networkpolicies", "netpol"}},
	{name: "ConfigMap", words: []string{"configmap", "configmaps", "cm"}},
	{name: "Secret", words: []string{"secret", "secrets"}},
	{name: "Node", words: []string{"node", "nodes", "no"}, clusterOwn: true},
	{name: "Namespace", words: []string{"namespace", "namespaces", "ns"}, clusterOwn: true},
	{name: "Event", words: []string{"event", "events", "ev"}},
	{name: "Image", words: []string{"image", "images", "img"}, clusterOwn: true},
}

// kindOf finds a kind by any of its words; one that is not known here is taken
// as it was typed.
func kindOf(word string) kind {
	lower := strings.ToLower(word)
	for _, k := range kinds {
		for _, w := range k.words {
			if w == lower {
				return k
			}
		}
	}
	return kind{name: word, words: []string{lower}}
}

// parseRefs reads "KIND NAME…" or "KIND/NAME…". Without a name it returns one
// object that has none: all of that kind. An image goes by its reference, in
// which there may be slashes.
func parseRefs(args []string, namespace string) ([]*skeinv1.ObjectRef, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if !strings.Contains(args[0], "/") {
		if len(args) == 1 {
			return []*skeinv1.ObjectRef{{Kind: args[0], Namespace: namespace}}, nil
		}
		var refs []*skeinv1.ObjectRef
		for _, name := range args[1:] {
			if strings.Contains(name, "/") && kindOf(args[0]).name != "Image" {
				return nil, usageError("", "%q: name the kind once (%s NAME NAME) or in front of each (%s/NAME)", name, args[0], args[0])
			}
			refs = append(refs, &skeinv1.ObjectRef{Kind: args[0], Namespace: namespace, Name: name})
		}
		return refs, nil
	}
	var refs []*skeinv1.ObjectRef
	for _, arg := range args {
		kind, name, ok := strings.Cut(arg, "/")
		if !ok || kind == "" || name == "" || strings.Contains(name, "/") && kindOf(kind).name != "Image" {
			return nil, usageError("", "%q: want KIND/NAME", arg)
		}
		refs = append(refs, &skeinv1.ObjectRef{Kind: kind, Namespace: namespace, Name: name})
	}
	return refs, nil
}

// shown is an object as it is printed: "deployment/web".
func shown(ref *skeinv1.ObjectRef) string {
	return strings.ToLower(ref.GetKind()) + "/" + ref.GetName()
}
