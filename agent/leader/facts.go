package leader

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/consensus/state"
)

// pod is what the leader keeps of a Pod. It is never modified: a change makes
// another one.
type pod struct {
	key       state.Key
	uid       string
	version   uint64
	owner     string // uid of its controller, empty for a bare Pod
	revision  bool   // the controller is a Revision
	node      string
	shape     *place.Shape
	created   time.Time
	phase     corev1.PodPhase
	ready     bool
	born      time.Time // created, and
	since     time.Time // of ready, as model.ago has them
	deleting  bool
	leased    bool      // it may run only under a lease
	exclusive bool      // and never twice
	slot      string    // what it may be in only once, if exclusive
	refused   string    // why it is not placed, as its condition says
	told      time.Time // when that was written

	wiring
}

func (p *pod) finished() bool { return p.phase == corev1.PodSucceeded || p.phase == corev1.PodFailed }

// active tells whether the Pod counts among its owner's.
func (p *pod) active() bool { return !p.deleting && !p.finished() }

// waiting tells whether somebody must find a node for the Pod.
func (p *pod) waiting() bool { return p.node == "" && p.active() }

// holds tells whether the Pod takes room on its node.
func (p *pod) holds() bool { return p.node != "" && !p.finished() }

// available tells whether the Pod has been ready for long enough, and if not
// yet how long that takes still. 0 means that it is not ready at all.
func (p *pod) available(minReady time.Duration, now time.Time) (bool, time.Duration) {
	if !p.ready {
		return false, 0
	}
	if left := minReady - now.Sub(p.since); minReady > 0 && left > 0 {
		return false, left
	}
	return true, 0
}

func (p *pod) placed() place.Pod {
	return place.Pod{Key: p.key.Namespace + "/" + p.key.Name, Owner: p.owner, Shape: p.shape, Node: p.node, Leaving: p.deleting}
}

// podFacts reads a Pod. shape is that of its siblings, nil if unknown.
func podFacts(row *state.Row, shape func(owner string) *place.Shape) (*pod, error) {
	p, err := object.Decode[corev1.Pod](row)
	if err != nil {
		return nil, err
	}
	out := &pod{
		key: row.Key, uid: row.UID, version: row.Version,
		node: p.Spec.NodeName, created: p.CreationTimestamp.Time,
		phase: p.Status.Phase, deleting: p.DeletionTimestamp != nil,
	}
	out.wiring = wiringOf(p, object.Labels(row))
	out.leased = object.Leased(p.Annotations)
	if out.exclusive = object.Exclusive(p.Annotations); out.exclusive {
		out.slot = slotOf(p)
	}
	if owner := metav1.GetControllerOf(p); owner != nil {
		out.owner, out.revision = string(owner.UID), owner.Kind == object.KindRevision
	}
	if out.revision {
		out.shape = shape(out.owner)
	}
	if out.shape == nil {
		out.shape = shapeOf(&p.Spec)
	}
	for _, c := range p.Status.Conditions {
		switch c.Type {
		case corev1.PodReady:
			out.ready, out.since = c.Status == corev1.ConditionTrue && !out.deleting, c.LastTransitionTime.Time
		case corev1.PodScheduled:
			if c.Status == corev1.ConditionFalse {
				out.refused, out.told = c.Message, c.LastProbeTime.Time
			}
		}
	}
	return out, nil
}

// shapeOf tells what a Pod asks of its node.
func shapeOf(spec *corev1.PodSpec) *place.Shape {
	s := &place.Shape{Selector: spec.NodeSelector, Users: object.OwnUsers(spec)}
	needs := object.Requests(spec)
	s.CPU, s.Memory, s.Disk = needs.CPU, needs.Memory, needs.Disk
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		addImage(s, c)
		if object.IsSidecar(c) {
			addPorts(s, spec, c)
		}
	}
	for i := range spec.Containers {
		addImage(s, &spec.Containers[i])
		addPorts(s, spec, &spec.Containers[i])
	}
	return s
}

func addImage(s *place.Shape, c *corev1.Container) {
	if name := object.FamiliarImage(c.Image); !slices.Contains(s.Images, name) {
		s.Images = append(s.Images, name)
	}
}

// addPorts takes note of the ports of its node that a container has to itself.
func addPorts(s *place.Shape, spec *corev1.PodSpec, c *corev1.Container) {
	for _, p := range c.Ports {
		number := p.HostPort
		if spec.HostNetwork {
			number = p.ContainerPort
		}
		if number == 0 {
			continue
		}
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		s.Ports = append(s.Ports, place.Port{Protocol: protocol, Number: number})
	}
}

func imageFacts(row *state.Row) (place.Image, error) {
	img, err := object.Decode[object.Image](row)
	if err != nil {
		return place.Image{}, err
	}
	out := place.Image{Name: img.Spec.Reference, Digest: img.Spec.Digest}
	for _, l := range img.Spec.Layers {
		out.Layers = append(out.Layers, place.Layer{Digest: l.Digest, Size: l.Size})
	}
	return out, nil
}

// node is what the leader keeps of a Node. It is never modified.
type node struct {
	uid     string
	version uint64
	place   place.Node // Ready as the log says
	known   bool       // it has said what it has
	ready   corev1.ConditionStatus
	reason  string
	since   time.Time // of ready, as model.ago has it
	never   bool      // it may not vote

	capacity int64 // how many Pods it takes
	blocks   int   // of addresses for them
}

func (n *node) lost() bool {
	return n.ready == corev1.ConditionUnknown && n.reason == object.ReasonNodeLost
}

// offersAs tells whether placement may take the one for the other.
func (n *node) offersAs(o *node) bool {
	a, b := &n.place, &o.place
	return a.Zone == b.Zone && a.CPU == b.CPU && a.Memory == b.Memory && a.Disk == b.Disk && a.Pods == b.Pods &&
		a.Ready == b.Ready && a.Cordoned == b.Cordoned && a.Users == b.Users && maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Images, b.Images)
}

// standsAs tells whether both are judged, and vote, alike.
func (n *node) standsAs(o *node) bool {
	return n.uid == o.uid && n.known == o.known && n.ready == o.ready && n.reason == o.reason &&
		n.never == o.never && n.place.Zone == o.place.Zone
}

// gone tells whether the node's agent is away from a machine that lives.
func (n *node) gone() bool {
	return n.ready == corev1.ConditionUnknown && n.reason == object.ReasonAgentGone
}

func nodeFacts(row *state.Row) (*node, error) {
	n, err := object.Decode[corev1.Node](row)
	if err != nil {
		return nil, err
	}
	have := n.Status.Allocatable
	if have == nil {
		have = n.Status.Capacity
	}
	out := &node{
		uid: row.UID, version: row.Version, known: len(have) > 0, never: n.Labels[object.LabelVoter] == "never",
		place: place.Node{
			Name: n.Name, Zone: n.Labels[object.LabelZone], Labels: n.Labels, Cordoned: n.Spec.Unschedulable,
			CPU: have.Cpu().MilliValue(), Memory: have.Memory().Value(), Disk: have.StorageEphemeral().Value(), Users: object.OffersUsers(&n.Status), Pods: have.Pods().Value(),
		},
	}
	out.capacity, out.blocks = n.Status.Capacity.Pods().Value(), len(object.PodBlocks(n))
	for _, image := range n.Status.Images {
		out.place.Images = append(out.place.Images, image.Names...)
	}
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady:
			out.ready, out.reason, out.since = c.Status, c.Reason, c.LastTransitionTime.Time
		case object.Short(c.Type):
			// A machine that is short of something takes nothing more.
			out.place.Cordoned = out.place.Cordoned || c.Status == corev1.ConditionTrue
		}
	}
	out.place.Ready = out.ready == corev1.ConditionTrue
	return out, nil
}

// revision is what the leader keeps of a Revision. It is never modified.
type revision struct {
	key        state.Key
	uid        string
	version    uint64
	deployment string // uid
	number     int64
	hash       string // of the template as this build writes it, whatever the name says
	shape      *place.Shape
	status     object.RevisionStatus
}

func revisionFacts(row *state.Row) (*revision, error) {
	r, err := object.Decode[object.Revision](row)
	if err != nil {
		return nil, err
	}
	out := &revision{
		key: row.Key, uid: row.UID, version: row.Version, number: r.Spec.Number,
		hash: object.TemplateHash(&r.Spec.Template), shape: shapeOf(&r.Spec.Template.Spec), status: r.Status,
	}
	if owner := metav1.GetControllerOf(r); owner != nil {
		out.deployment = string(owner.UID)
	}
	return out, nil
}

// deployment is where a Deployment is.
type deployment struct {
	key state.Key
	uid string
}

// wishOf reads what a Deployment asks for.
func wishOf(d *appsv1.Deployment) wish {
	w := wish{replicas: 1, minReady: time.Duration(d.Spec.MinReadySeconds) * time.Second, paused: d.Spec.Paused}
	if d.Spec.Replicas != nil {
		w.replicas = int(*d.Spec.Replicas)
	}
	w.recreate = d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	if w.recreate {
		w.unavailable = w.replicas
		return w
	}
	w.surge, w.unavailable = share(w.replicas, "25%", true), share(w.replicas, "25%", false)
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		if r.MaxSurge != nil {
			w.surge = share(w.replicas, r.MaxSurge.String(), true)
		}
		if r.MaxUnavailable != nil {
			w.unavailable = share(w.replicas, r.MaxUnavailable.String(), false)
		}
	}
	if w.surge == 0 && w.unavailable == 0 {
		w.unavailable = 1 // else nothing could ever move
	}
	return w
}

// share reads "3" or "25%" of n.
func share(n int, s string, up bool) int {
	var value int
	if _, err := fmt.Sscanf(s, "%d", &value); err != nil || value < 0 {
		return 0
	}
	if s[len(s)-1] != '%' {
		return value
	}
	if up {
		return (n*value + 99) / 100
	}
	return n * value / 100
}
