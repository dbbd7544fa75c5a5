package object

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const docsPath = "../../docs/kubernetes.md"

// TestDocs keeps docs/kubernetes.md true to the verdicts. With -update it
// writes it.
func TestDocs(t *testing.T) {
	got := docs()
	if *update {
		if err := os.WriteFile(docsPath, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/kubernetes.md is not what the code does; run this test with -update (-docs +code):\n%s", diff)
	}
}

const docsHead = `# Kubernetes' objects in skein

<!-- made from agent/object/fields.go by its tests: do not edit, run "go test ./agent/object -run TestDocs -update" -->

Manifests are Kubernetes' YAML or JSON. A field is either supported, with the meaning and the default that
Kubernetes documents, or refused, with its path, the line, and what to do instead. None is dropped. A typo is
told with the nearest name.

"Later" means that a later version will have it. "Only" fields are accepted with the values given, which ask for nothing
beyond what is done anyway: manifests that other tools wrote are full of them. What the cluster writes itself
(status, uid, generation …) may stand in a manifest and is read past, as in Kubernetes; a resourceVersion
that is not the present one is a conflict.

Bounds: a file holds at most 4 MB and 500 documents, a document 2 MB, 20,000 values, 50 levels. A key given twice and
any YAML tag of its own are refused; aliases and merge keys count as often as they are used.

## Kinds

| kind | apiVersion | short | namespaced | from a manifest |
|---|---|---|---|---|
`

func docs() string {
	var b strings.Builder
	b.WriteString(docsHead)
	for _, k := range Kinds() {
		made := "yes"
		if !k.Manifest {
			msg, hint := refusedKind(k.Name)
			made = "no: " + msg + "; " + hint
		}
		fmt.Fprintf(&b, "| %s | `%s` | `%s` | %s | %s |\n", k.Name, k.APIVersion, k.Short, yesNo(k.Namespaced), made)
	}
	b.WriteString("\nOther kinds of Kubernetes:\n\n| kind | | instead |\n|---|---|---|\n")
	for _, group := range []struct {
		when  string
		kinds map[string]string
	}{{"later", laterKinds}, {"no", neverKinds}} {
		for _, name := range slices.Sorted(maps.Keys(group.kinds)) {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", name, group.when, group.kinds[name])
		}
	}
	section(&b, "Pod", "A Pod, and a Deployment's `spec.template`.", KindPod, "")
	section(&b, "Deployment", "`spec.template.spec` is that of a Pod.", KindDeployment, "spec.template.spec")
	section(&b, "Service", serviceText, KindService, "")
	section(&b, "NetworkPolicy", networkPolicyText, KindNetworkPolicy, "")
	section(&b, "ConfigMap", "At most 1 MiB in all. Changes reach the Pods that run, see [volumes](volumes.md).", KindConfigMap, "")
	section(&b, "Secret", secretText, KindSecret, "")
	section(&b, "Namespace", "It has no settings of its own; what its Pods may do to their machines is said by annotations, see below.", KindNamespace, "")
	section(&b, "Node", "Nodes join by themselves; people change them by `skein label`, `skein node`, or a patch.", KindNode, "")
	b.WriteString(docsTail)
	return b.String()
}

const secretText = `Values are sealed before they enter the log, with a key that only voters hold, and opened for the nodes that run Pods which
name them. Tables and ` + "`skein describe`" + ` show keys and sizes; ` + "`get -o yaml`" + ` and ` + "`-o json`" + ` show values and take the role edit. Types: Opaque, types of
one's own, and of Kubernetes' own dockerconfigjson, dockercfg, tls, basic-auth and ssh-auth, with the keys that they must have.`

const serviceText = `An address out of ` + "`10.96.0.0/16`" + ` and a name, ` + "`web`, `web.NAMESPACE` or `web.NAMESPACE.svc.cluster.local`" + `, that lead to the ready Pods which
it selects; with ` + "`clusterIP: None`" + ` the name leads to the Pods themselves, and with type ExternalName to another name. A node port is of
every node, from 30000 to 32767, and chosen by the cluster where none is named. The address cannot be changed.`

const networkPolicyText = `A Pod that no policy selects takes everything and reaches everything. One that some policies select takes (policyTypes: Ingress), or reaches
(Egress), what one of them lets through, and what answers it. Its own node always reaches it: probes come from there. Defaults are Kubernetes'.`

const docsTail = `
## Labels and annotations of skein.dev

| key | on | |
|---|---|---|
| ` + "`" + LabelVoter + "`" + ` | Node | shown: ` + "`true`" + ` on a voter; set to ` + "`never`" + ` it keeps a node from voting |
| ` + "`" + LabelLeader + "`" + ` | Node | shown: ` + "`true`" + ` on the leader |
| ` + "`" + AnnotationRestarted + "`" + ` | template | when ` + "`skein restart`" + ` was last asked for |
| ` + "`" + AnnotationExclusive + "`" + ` | Pod, template | ` + "`true`" + `: never two at once, not even across a cut network, see [fencing](fencing.md); it cannot be changed on a Pod, and a Deployment has one replica then, whose successor starts when it is gone |
| ` + "`" + AnnotationWhenIsolated + "`" + ` | Pod, template | what becomes of it on a node that is cut off from the leader: ` + "`keep`" + ` (as without it), it runs on; ` + "`stop`" + `, it is frozen after 8 s and killed after 10 s, see [fencing](fencing.md); it cannot be changed on a Pod |
| ` + "`" + AnnotationHostPath + "`" + ` | Namespace | ` + "`allow`" + ` lets its Pods mount folders of their machine (` + "`hostPath`" + `); it takes the role admin to set it or take it back |
| ` + "`" + AnnotationPrivileged + "`" + ` | Namespace | ` + "`allow`" + ` lets its containers be ` + "`privileged`" + `, by the same rule |
| ` + "`" + AnnotationCapabilities + "`" + ` | Namespace | ` + "`NET_ADMIN,SYS_TIME`" + `, or ` + "`ALL`" + `: capabilities that its containers may add beyond those that each has, by the same rule |
| ` + "`" + AnnotationPublish + "`" + ` | Service | ` + "`8080`" + `, or ` + "`8080:http,8443:443`" + `: ports of the loopback address of a lab's machine that lead to ports of the Service (the first TCP port, where none is named) |
| ` + "`" + AnnotationTunnelKey + "`" + ` | Node | shown: the public key by which others encrypt what they send to its Pods |
| ` + "`" + AnnotationUlimit + `NAME` + "`" + ` | Pod, template | ` + "`SOFT:HARD`" + `, or one number for both, -1 for none: a limit of the kernel's on each process of its containers; the names are docker's (nofile, nproc, core, memlock, stack, …), see [containers](containers.md); it cannot be changed on a Pod |

Every other key of skein.dev is the cluster's own, and unknown ones are refused.

## Apply

What a manifest names replaces what is there. Replicas and pause, if it does not name them, stay as ` + "`skein scale`" + ` and others have set
them; so do labels and annotations of other writers. Those that the last manifest named and this one does not are
removed. The selector of a Deployment cannot be changed, and of a Pod only the images of its containers.
`

func section(b *strings.Builder, title, text, kind, without string) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| field | | instead |\n|---|---|---|\n", title, text)
	verdicts(b, kindsByName[kind].typ, schemas()[kind], "", without)
}

// verdicts writes one line for each verdict, in the order of Kubernetes' types.
func verdicts(b *strings.Builder, t reflect.Type, f *field, path, without string) {
	array := ""
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		if t.Kind() == reflect.Slice {
			array = "[]"
		}
		t = t.Elem()
	}
	if path == without && path != "" {
		return
	}
	switch f.verdict {
	case accepted:
		fmt.Fprintf(b, "| `%s` | yes | |\n", path)
		return
	case harmless:
		fmt.Fprintf(b, "| `%s` | only `%s` | %s |\n", path, strings.Join(f.values, "` or `"), f.hint)
		return
	case server:
		fmt.Fprintf(b, "| `%s` | the cluster's | |\n", path)
		return
	case notYet:
		fmt.Fprintf(b, "| `%s` | later | %s |\n", path, f.hint)
		return
	case never:
		fmt.Fprintf(b, "| `%s` | no | %s |\n", path, f.hint)
		return
	}
	if t.Kind() == reflect.Map {
		for _, name := range slices.Sorted(maps.Keys(f.children)) {
			verdicts(b, t.Elem(), f.children[name], path+array+"."+name, without)
		}
		return
	}
	m := membersOf(t)
	for _, name := range m.names {
		verdicts(b, m.types[name], f.children[name], strings.TrimPrefix(path+array+"."+name, "."), without)
	}
}
