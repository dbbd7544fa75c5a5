package object

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (d *description) others(obj Object) error {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return d.deployment(o)
	case *corev1.Node:
		return d.node(o)
	case *Revision:
		d.put("Deployment", orNone(controllerName(o)))
		d.put("Revision", fmt.Sprint(o.Spec.Number))
		d.put("Pods", fmt.Sprintf("%d, %d ready, %d available", o.Status.Replicas, o.Status.ReadyReplicas, o.Status.AvailableReplicas))
		d.podSpec(&o.Spec.Template.Spec, nil)
		return d.pods(true)
	case *corev1.Namespace:
		d.put("Status", orNone(string(o.Status.Phase)))
		if len(d.with.Pods) > 0 {
			d.put("Pods", fmt.Sprint(len(d.with.Pods)))
		}
	case *corev1.Service:
		return d.service(o)
	case *discoveryv1.EndpointSlice:
		d.endpointSlice(o)
	case *networkingv1.NetworkPolicy:
		d.networkPolicy(o)
	case *corev1.ConfigMap:
		d.configMap(o)
	case *corev1.Secret:
		d.secret(o)
	case *Image:
		d.put("Reference", o.Spec.Reference)
		d.put("Digest", o.Spec.Digest)
		d.put("Media type", orNone(o.Spec.MediaType))
		d.put("Size", bytesText(o.Spec.Size))
	case *corev1.Event:
		d.put("About", strings.ToLower(o.InvolvedObject.Kind)+"/"+o.InvolvedObject.Name)
		d.put("Type", o.Type)
		d.put("Reason", o.Reason)
		d.put("Message", oneLine(o.Message))
		d.put("From", orNone(source(o)))
		d.put("Seen", fmt.Sprintf("%d times, last %s", max(o.Count, 1), d.since(metav1.Time{Time: lastSeen(o)})))
	}
	return nil
}

func (d *description) deployment(o *appsv1.Deployment) error {
	s := &o.Status
	d.put("Selector", metav1.FormatLabelSelector(o.Spec.Selector))
	d.put("Replicas", fmt.Sprintf("%d wanted, %d there, %d up to date, %d ready, %d available",
		deref(o.Spec.Replicas), s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas))
	if s.ObservedGeneration < o.Generation {
		d.put("Note", fmt.Sprintf("generation %d has not been acted on yet, this is of %d", o.Generation, s.ObservedGeneration))
	}
	d.put("Strategy", strategyText(&o.Spec))
	if o.Spec.Paused {
		d.put("Paused", "yes")
	}
	d.title("Template")
	d.many("Labels", pairs(o.Spec.Template.Labels, "="))
	d.many("Annotations", pairs(o.Spec.Template.Annotations, ": "))
	d.podSpec(&o.Spec.Template.Spec, nil)
	d.end()
	var list []condition
	for _, c := range s.Conditions {
		list = append(list, condition{string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime})
	}
	d.conditions(list)
	if err := d.revisions(); err != nil {
		return err
	}
	return d.pods(true)
}

func strategyText(s *appsv1.DeploymentSpec) string {
	text := string(s.Strategy.Type)
	if r := s.Strategy.RollingUpdate; r != nil && r.MaxSurge != nil && r.MaxUnavailable != nil {
		text += fmt.Sprintf(", %s more and %s fewer than wanted", r.MaxSurge, r.MaxUnavailable)
	}
	if s.MinReadySeconds > 0 {
		text += fmt.Sprintf(", available after %ds ready", s.MinReadySeconds)
	}
	return text
}

func (d *description) revisions() error {
	list := make([]*Revision, 0, len(d.with.Revisions))
	for _, row := range d.with.Revisions {
		r, err := Decode[Revision](row)
		if err != nil {
			return err
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b *Revision) int { return cmp.Compare(b.Spec.Number, a.Spec.Number) })
	d.title("Revisions, newest first")
	table := [][]string{{"NUMBER", "NAME", "PODS", "READY", "AGE", "IMAGES"}}
	for _, r := range list {
		table = append(table, []string{
			fmt.Sprint(r.Spec.Number), r.Name, itoa(r.Status.Replicas), itoa(r.Status.ReadyReplicas),
			d.ago(r.CreationTimestamp.Time), images(&r.Spec.Template.Spec),
		})
	}
	d.table(table)
	d.end()
	return nil
}

// maxPods bounds the Pods that are told one by one.
const maxPods = 50

// pods tells the related Pods, with their node or with their namespace and
// requests.
func (d *description) pods(withNode bool) error {
	table := [][]string{{"NAMESPACE", "NAME", "STATUS", "RESTARTS", "CPU", "MEMORY", "AGE"}}
	if withNode {
		table = [][]string{{"NAME", "READY", "STATUS", "RESTARTS", "NODE", "AGE"}}
	}
	for i, row := range d.with.Pods {
		if i == maxPods {
			break
		}
		p, err := Decode[corev1.Pod](row)
		if err != nil {
			return err
		}
		s := summarize(p)
		cells := []string{
			p.Name, fmt.Sprintf("%d/%d", s.ready, s.all), s.status, fmt.Sprint(s.restarts),
			orNone(p.Spec.NodeName), d.ago(p.CreationTimestamp.Time),
		}
		if !withNode {
			all := requests(&p.Spec)
			cells = []string{
				p.Namespace, p.Name, s.status, fmt.Sprint(s.restarts), all.Cpu().String(),
				all.Memory().String(), d.ago(p.CreationTimestamp.Time),
			}
		}
		table = append(table, cells)
	}
	if len(table) == 1 {
		d.put("Pods", none)
		return nil
	}
	d.title(fmt.Sprintf("Pods (%d)", len(d.with.Pods)))
	d.table(table)
	if more := len(d.with.Pods) - maxPods; more > 0 {
		d.line("and %d more", more)
	}
	d.end()
	return nil
}

func add(sum, list corev1.ResourceList) {
	for name, q := range list {
		have := sum[name]
		have.Add(q)
		sum[name] = have
	}
}

func (d *description) node(n *corev1.Node) error {
	d.put("Status", NodeStatus(n))
	if n.Spec.Unschedulable {
		d.put("Cordoned", "yes: it takes no new Pods")
	}
	d.put("Leader", yesNo(n.Labels[LabelLeader] == "true"))
	d.put("Voter", labelText(n.Labels[LabelVoter]))
	d.put("Reached at", orNone(n.Annotations[AnnotationAdvertise]))
	for _, a := range n.Status.Addresses {
		d.put(string(a.Type), a.Address)
	}
	d.put("Capacity", nodeAmounts(n.Status.Capacity))
	d.put("For Pods", nodeAmounts(n.Status.Allocatable))
	sum := corev1.ResourceList{}
	for _, row := range d.with.Pods {
		p, err := Decode[corev1.Pod](row)
		if err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			add(sum, requests(&p.Spec))
		}
	}
	d.put("Requested", amounts(sum))
	i := &n.Status.NodeInfo
	d.put("System", orNone(strings.Join(slices.DeleteFunc([]string{i.OSImage, i.KernelVersion, i.OperatingSystem + "/" + i.Architecture, i.ContainerRuntimeVersion},
		func(s string) bool { return strings.Trim(s, "/") == "" }), ", ")))
	if OffersUsers(&n.Status) {
		d.put("Can", "give Pods users of their own")
	}
	d.put("Agent", orNone(i.KubeletVersion))
	var list []condition
	for _, c := range n.Status.Conditions {
		list = append(list, condition{string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime})
	}
	d.conditions(list)
	if err := d.pods(false); err != nil {
		return err
	}
	if len(n.Status.Images) == 0 {
		return nil
	}
	d.title("Images")
	var table [][]string
	for _, img := range n.Status.Images {
		table = append(table, []string{strings.Join(img.Names, ", "), bytesText(img.SizeBytes)})
	}
	d.table(table)
	d.end()
	return nil
}
