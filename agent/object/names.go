package object

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// DefaultNamespace is where objects are that name none. It always exists.
const DefaultNamespace = "default"

// Labels and annotations with a meaning.
const (
	LabelLeader       = "skein.dev/leader" // on a Node as shown, never stored: "true" or absent
	LabelVoter        = "skein.dev/voter"  // as shown "true" or absent; a person may set "never"
	LabelHostname     = corev1.LabelHostname
	LabelZone         = corev1.LabelTopologyZone
	LabelTemplateHash = "pod-template-hash"

	AnnotationKey       = "skein.dev/key"          // on a Node: hex SHA-256 of its public key
	AnnotationAdvertise = "skein.dev/advertise"    // on a Node: ip:port
	AnnotationApplied   = "skein.dev/applied"      // which keys the last manifest named, see Update
	AnnotationRestarted = "skein.dev/restarted-at" // on a template: when a restart was asked for
	AnnotationRevision  = "skein.dev/revision"     // on a Deployment: the number of its newest Revision
	AnnotationExclusive = "skein.dev/exclusive"    // on a Pod or template: "true", it never runs twice at a time
	// On a Pod or template: what becomes of it on a node that reaches no leader,
	// IsolatedKeep or IsolatedStop.
	AnnotationWhenIsolated = "skein.dev/when-isolated"
	// On a Namespace: "allow" lets its Pods mount folders of their machine. Who may
	// make namespaces may not set it: it takes an administrator.
	AnnotationHostPath = "skein.dev/host-path"
	// On a Namespace: "allow" lets its containers be privileged, by the same rule.
	AnnotationPrivileged = "skein.dev/privileged"
	// On a Namespace: the capabilities that its containers may have beyond those
	// that they have anyway, "NET_ADMIN,SYS_TIME" or "ALL", by the same rule.
	AnnotationCapabilities = "skein.dev/capabilities"
	// On a Pod or template, before the name of a limit: "SOFT:HARD", see [Ulimits].
	AnnotationUlimit = "skein.dev/ulimit."
	// On a Node: the public key, in base64, by which other nodes encrypt what they
	// send to its Pods.
	AnnotationTunnelKey = "skein.dev/wireguard-key"
	annotationPrefix    = "skein.dev/"
)

// Reasons of a Node's condition Ready.
const (
	ReasonAgentGone = "AgentGone" // the agent is down, its machine lives
	ReasonNodeLost  = "NodeLost"  // the machine cannot be reached: its Pods are replaced
	ReasonLeaseHeld = "LeaseHeld" // of a Pod: gone with its node, whose lease must run out
	ReasonSuspect   = "Suspect"   // it misses beats: out of every Service, verdict pending
)

// alphabet has no vowels and nothing that looks like something else, so chance
// writes no words.
const alphabet = "bcdfghjklmnpqrstvwxz2456789"

func spell(n uint64, letters int) string {
	out := make([]byte, letters)
	for i := range out {
		out[letters-1-i] = alphabet[n%uint64(len(alphabet))]
		n /= uint64(len(alphabet))
	}
	return string(out)
}

// TemplateHash names a template: equal templates have equal hashes, whatever
// their label pod-template-hash says. It has ten letters.
func TemplateHash(template *corev1.PodTemplateSpec) string {
	t := *template
	if _, there := t.Labels[LabelTemplateHash]; there {
		t.Labels = make(map[string]string, len(template.Labels))
		for k, v := range template.Labels {
			if k != LabelTemplateHash {
				t.Labels[k] = v
			}
		}
		if len(t.Labels) == 0 {
			t.Labels = nil
		}
	}
	t.Spec = withoutHostPorts(t.Spec)
	body, err := json.Marshal(&t)
	if err != nil {
		panic(fmt.Sprintf("a template that cannot be written as JSON: %v", err)) // it was read from JSON
	}
	h := fnv.New64a()
	_, _ = h.Write(body) // never fails
	return spell(h.Sum64(), 10)
}

// RevisionName returns the name of a Deployment's Revision with this hash.
func RevisionName(deployment, hash string) string { return deployment + "-" + hash }

// PodName returns a name for a new Pod of owner, with five letters made of
// random.
func PodName(owner string, random uint64) string {
	return owner + "-" + spell(random, 5)
}

// ImageName returns the name of the Image with this reference, which itself has
// characters that names may not have.
func ImageName(reference string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(reference))
	var b strings.Builder
	for _, r := range strings.ToLower(reference) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
		if b.Len() >= 200 {
			break
		}
	}
	return strings.TrimPrefix(strings.TrimSuffix(b.String(), "-")+"-"+spell(h.Sum64(), 10), "-")
}

// Controls returns the reference by which owner's controlled objects name it.
func Controls(owner Object) metav1.OwnerReference {
	k := kindOf(owner)
	yes := true
	return metav1.OwnerReference{
		APIVersion: k.APIVersion, Kind: k.Name, Name: owner.GetName(), UID: owner.GetUID(),
		Controller: &yes, BlockOwnerDeletion: &yes,
	}
}

// ValidName says why name cannot be that of a machine, which is also its host
// name and the common name of its certificate.
func ValidName(name string) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return fmt.Errorf("name %q: %s", name, problems[0])
	}
	if len(name) > 63 {
		return fmt.Errorf("name %q: %s", name, validation.MaxLenError(63))
	}
	return nil
}
