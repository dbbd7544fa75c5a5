package object

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/skein-dev/skein/consensus/state"
)

// Related is what a description tells beside the object itself: the Events
// about it, and the Pods and Revisions that are its own (of a Node: that run on
// it; of a Namespace: that are in it), and of a Service its EndpointSlices.
type Related struct {
	Events, Pods, Revisions, Slices []*state.Row
}

// Describe tells an object's story to a person. Its layout is no contract.
func Describe(row *state.Row, with Related, now time.Time) (string, error) {
	obj, err := DecodeAny(row)
	if err != nil {
		return "", err
	}
	kind := kindsByName[row.Key.Kind]
	if kind.Internal {
		return "", fmt.Errorf("a %s is not described", kind.Singular)
	}
	d := &description{page: page{}, now: now, with: with}
	d.head(obj, kind)
	switch o := obj.(type) {
	case *corev1.Pod:
		err = d.pod(o)
	default:
		err = d.others(o)
	}
	if err != nil {
		return "", err
	}
	if err := d.events(); err != nil {
		return "", err
	}
	return d.page.String(), nil
}

type description struct {
	page
	now  time.Time
	with Related
}

func (d *description) head(obj Object, kind *Kind) {
	d.put("Name", obj.GetName())
	if kind.Namespaced {
		d.put("Namespace", obj.GetNamespace())
	}
	d.put("Created", d.since(obj.GetCreationTimestamp()))
	if t := obj.GetDeletionTimestamp(); t != nil {
		d.put("Deleted", d.since(*t))
	}
	d.many("Labels", pairs(obj.GetLabels(), "="))
	notes := maps.Clone(obj.GetAnnotations())
	delete(notes, AnnotationApplied)
	d.many("Annotations", pairs(notes, ": "))
}

// since tells a time and how long ago it was.
func (d *description) since(t metav1.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	if ahead := t.Sub(d.now); ahead > time.Second {
		return t.UTC().Format(time.RFC3339) + " (in " + duration.HumanDuration(ahead) + ")"
	}
	return t.UTC().Format(time.RFC3339) + " (" + d.ago(t.Time) + " ago)"
}

func (d *description) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(0, d.now.Sub(t)))
}

func pairs(m map[string]string, between string) []string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+between+clipTo(m[k], 200))
	}
	return out
}

func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// maxEvents bounds the events that are told; the latest are the ones.
const maxEvents = 30

func (d *description) events() error {
	rows, err := byTime(d.with.Events)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		d.put("Events", none)
		return nil
	}
	left := max(0, len(rows)-maxEvents)
	d.title("Events")
	table := [][]string{{"AGE", "TYPE", "REASON", "FROM", "MESSAGE"}}
	for _, row := range rows[left:] {
		e, err := Decode[corev1.Event](row)
		if err != nil {
			return err
		}
		age := d.ago(lastSeen(e))
		if e.Count > 1 {
			age = fmt.Sprintf("%s (x%d over %s)", age, e.Count, duration.HumanDuration(max(0, d.now.Sub(firstSeen(e)))))
		}
		table = append(table, []string{age, e.Type, e.Reason, source(e), oneLine(e.Message)})
	}
	if left > 0 {
		d.line("%d older ones are left out", left)
	}
	d.table(table)
	d.end()
	return nil
}

// A condition is one of any kind's conditions.
type condition struct {
	name, status, reason, message string
	since                         metav1.Time
}

// inOrder is how the conditions of a Pod follow each other within a second.
var inOrder = []string{string(corev1.PodScheduled), string(corev1.PodInitialized), string(corev1.ContainersReady), string(corev1.PodReady)}

func (d *description) conditions(list []condition) {
	if len(list) == 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b condition) int {
		return cmp.Or(cmp.Compare(a.since.Unix(), b.since.Unix()), cmp.Compare(slices.Index(inOrder, a.name), slices.Index(inOrder, b.name)))
	})
	d.title("Conditions, as they came about")
	table := [][]string{{"SINCE", "TYPE", "STATUS", "REASON", "MESSAGE"}}
	for _, c := range list {
		table = append(table, []string{d.ago(c.since.Time), c.name, c.status, c.reason, oneLine(c.message)})
	}
	d.table(table)
	d.end()
}
