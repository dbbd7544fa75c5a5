package object

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// TableOptions say how a table is drawn, and what it shows beyond its rows.
type TableOptions struct {
	Wide       bool
	Namespaces bool // a column with the namespace, for kinds that have one
	Now        time.Time
	// PodsOn counts the Pods on a node. Without it the column shows nothing.
	PodsOn func(node string) int
	// Holders counts the nodes that have an image. Without it the column shows
	// nothing.
	Holders func(*Image) int
}

// Columns whose cells are times in RFC 3339, which the client shows as an age.
const (
	columnAge      = "AGE"
	columnLastSeen = "LAST SEEN"
)

// none stands in a cell for what is not there.
const none = "<none>"

// A column is one column of a kind's table.
type column[T any] struct {
	name string
	wide bool
	cell func(*T, *TableOptions) string
}

// Table draws the rows of one kind. It keeps their order, except that Events
// come oldest first.
func Table(kind string, rows []*state.Row, opt TableOptions) (*skeinv1.Table, error) {
	switch kind {
	case KindPod:
		return draw(kind, rows, opt, podColumns)
	case KindDeployment:
		return draw(kind, rows, opt, deploymentColumns)
	case KindRevision:
		return draw(kind, rows, opt, revisionColumns)
	case KindNode:
		return draw(kind, rows, opt, nodeColumns)
	case KindNamespace:
		return draw(kind, rows, opt, namespaceColumns)
	case KindImage:
		return draw(kind, rows, opt, imageColumns)
	case KindService:
		return draw(kind, rows, opt, serviceColumns)
	case KindEndpointSlice:
		return draw(kind, rows, opt, sliceColumns)
	case KindNetworkPolicy:
		return draw(kind, rows, opt, networkPolicyColumns)
	case KindConfigMap:
		return draw(kind, rows, opt, configMapColumns)
	case KindSecret:
		return draw(kind, rows, opt, secretColumns)
	case KindEvent:
		sorted, err := byTime(rows)
		if err != nil {
			return nil, err
		}
		return draw(kind, sorted, opt, eventColumns)
	}
	return nil, fmt.Errorf("no table of kind %q", kind)
}

func draw[T any](kind string, rows []*state.Row, opt TableOptions, columns []column[T]) (*skeinv1.Table, error) {
	out := &skeinv1.Table{}
	namespaces := opt.Namespaces && kindsByName[kind].Namespaced
	if namespaces {
		out.Columns = append(out.Columns, "NAMESPACE")
	}
	shown := slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return c.wide && !opt.Wide })
	for _, c := range shown {
		out.Columns = append(out.Columns, c.name)
	}
	for _, row := range rows {
		obj, err := Decode[T](row)
		if err != nil {
			return nil, err
		}
		r := &skeinv1.TableRow{Key: RowKey(row.Key), Cells: make([]string, 0, len(out.Columns))}
		if namespaces {
			r.Cells = append(r.Cells, row.Key.Namespace)
		}
		for _, c := range shown {
			r.Cells = append(r.Cells, c.cell(obj, &opt))
		}
		out.Rows = append(out.Rows, r)
	}
	return out, nil
}

// RowKey is what tells an object's row in a table from others of its kind:
// namespace/name, or /name.
func RowKey(key state.Key) string { return key.Namespace + "/" + key.Name }

// stamp returns a time for a column of ages.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return t.UTC().Format(time.RFC3339)
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

var deploymentColumns = []column[appsv1.Deployment]{
	{name: "NAME", cell: func(d *appsv1.Deployment, _ *TableOptions) string { return d.Name }},
	{name: "READY", cell: func(d *appsv1.Deployment, _ *TableOptions) string {
		return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas))
	}},
	{name: "UP-TO-DATE", cell: func(d *appsv1.Deployment, _ *TableOptions) string { return itoa(d.Status.UpdatedReplicas) }},
	{name: "AVAILABLE", cell: func(d *appsv1.Deployment, _ *TableOptions) string { return itoa(d.Status.AvailableReplicas) }},
	{name: columnAge, cell: func(d *appsv1.Deployment, _ *TableOptions) string { return stamp(d.CreationTimestamp.Time) }},
	{name: "CONTAINERS", wide: true, cell: func(d *appsv1.Deployment, _ *TableOptions) string {
		return containers(&d.Spec.Template.Spec, func(c *corev1.Container) string { return c.Name })
	}},
	{name: "IMAGES", wide: true, cell: func(d *appsv1.Deployment, _ *TableOptions) string { return images(&d.Spec.Template.Spec) }},
	{name: "SELECTOR", wide: true, cell: func(d *appsv1.Deployment, _ *TableOptions) string {
		return metav1.FormatLabelSelector(d.Spec.Selector)
	}},
}

var revisionColumns = []column[Revision]{
	{name: "NAME", cell: func(r *Revision, _ *TableOptions) string { return r.Name }},
	{name: "DEPLOYMENT", cell: func(r *Revision, _ *TableOptions) string { return orNone(controllerName(r)) }},
	{name: "REVISION", cell: func(r *Revision, _ *TableOptions) string { return strconv.FormatInt(r.Spec.Number, 10) }},
	{name: "PODS", cell: func(r *Revision, _ *TableOptions) string { return itoa(r.Status.Replicas) }},
	{name: "READY", cell: func(r *Revision, _ *TableOptions) string { return itoa(r.Status.ReadyReplicas) }},
	{name: columnAge, cell: func(r *Revision, _ *TableOptions) string { return stamp(r.CreationTimestamp.Time) }},
	{name: "IMAGES", wide: true, cell: func(r *Revision, _ *TableOptions) string { return images(&r.Spec.Template.Spec) }},
}

var namespaceColumns = []column[corev1.Namespace]{
	{name: "NAME", cell: func(n *corev1.Namespace, _ *TableOptions) string { return n.Name }},
	{name: "STATUS", cell: func(n *corev1.Namespace, _ *TableOptions) string {
		if n.DeletionTimestamp != nil {
			return string(corev1.NamespaceTerminating)
		}
		if n.Status.Phase == "" {
			return string(corev1.NamespaceActive)
		}
		return string(n.Status.Phase)
	}},
	{name: columnAge, cell: func(n *corev1.Namespace, _ *TableOptions) string { return stamp(n.CreationTimestamp.Time) }},
}

var imageColumns = []column[Image]{
	{name: "REFERENCE", cell: func(i *Image, _ *TableOptions) string { return i.Spec.Reference }},
	{name: "DIGEST", cell: func(i *Image, opt *TableOptions) string {
		if opt.Wide {
			return i.Spec.Digest
		}
		return shortDigest(i.Spec.Digest)
	}},
	{name: "SIZE", cell: func(i *Image, _ *TableOptions) string { return bytesText(i.Spec.Size) }},
	{name: "NODES", cell: func(i *Image, opt *TableOptions) string {
		if opt.Holders == nil {
			return "-"
		}
		return strconv.Itoa(opt.Holders(i))
	}},
	{name: columnAge, cell: func(i *Image, _ *TableOptions) string { return stamp(i.CreationTimestamp.Time) }},
}

func deref(p *int32) int32 {
	if p == nil {
		return 1 // what Kubernetes means by an absent number of replicas
	}
	return *p
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

func containers(s *corev1.PodSpec, of func(*corev1.Container) string) string {
	out := make([]string, len(s.Containers))
	for i := range s.Containers {
		out[i] = of(&s.Containers[i])
	}
	return strings.Join(out, ",")
}

func images(s *corev1.PodSpec) string {
	return containers(s, func(c *corev1.Container) string { return c.Image })
}

// controllerName returns the name of the object's owner.
func controllerName(obj metav1.Object) string {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		return ref.Name
	}
	return ""
}

// shortDigest returns as much of a digest as tells it from others.
func shortDigest(d string) string {
	_, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) < 12 {
		return orNone(d)
	}
	return hex[:12]
}

// bytesText returns a size as people read it: 45.2MB, in powers of a thousand.
func bytesText(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f := float64(n)
	unit := -1
	for f >= 999.95 && unit < len(units)-1 {
		f /= 1000
		unit++
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + units[unit:unit+1] + "B"
}
