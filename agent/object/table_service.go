package object

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var serviceColumns = []column[corev1.Service]{
	{name: "NAME", cell: func(s *corev1.Service, _ *TableOptions) string { return s.Name }},
	{name: "TYPE", cell: func(s *corev1.Service, _ *TableOptions) string { return string(s.Spec.Type) }},
	{name: "CLUSTER-IP", cell: func(s *corev1.Service, _ *TableOptions) string { return orNone(s.Spec.ClusterIP) }},
	{name: "PORT(S)", cell: func(s *corev1.Service, _ *TableOptions) string { return orNone(servicePortText(s)) }},
	{name: "PUBLISHED", wide: true, cell: func(s *corev1.Service, _ *TableOptions) string {
		return orNone(s.Annotations[AnnotationPublish])
	}},
	{name: columnAge, cell: func(s *corev1.Service, _ *TableOptions) string { return stamp(s.CreationTimestamp.Time) }},
	{name: "SELECTOR", wide: true, cell: func(s *corev1.Service, _ *TableOptions) string {
		return orNone(labels.Set(s.Spec.Selector).String())
	}},
}

// servicePortText lists ports as kubectl does: 80:30080/TCP.
func servicePortText(s *corev1.Service) string {
	var out []string
	for _, p := range s.Spec.Ports {
		text := strconv.Itoa(int(p.Port))
		if p.NodePort > 0 {
			text += ":" + strconv.Itoa(int(p.NodePort))
		}
		out = append(out, text+"/"+string(p.Protocol))
	}
	return strings.Join(out, ",")
}

var sliceColumns = []column[discoveryv1.EndpointSlice]{
	{name: "NAME", cell: func(s *discoveryv1.EndpointSlice, _ *TableOptions) string { return s.Name }},
	{name: "ADDRESSTYPE", cell: func(s *discoveryv1.EndpointSlice, _ *TableOptions) string { return string(s.AddressType) }},
	{name: "PORTS", cell: func(s *discoveryv1.EndpointSlice, _ *TableOptions) string {
		var out []string
		for _, p := range s.Ports {
			if p.Port != nil {
				out = append(out, strconv.Itoa(int(*p.Port)))
			}
		}
		return orNone(firstFew(slices.Compact(out)))
	}},
	{name: "ENDPOINTS", cell: func(s *discoveryv1.EndpointSlice, _ *TableOptions) string {
		var out []string
		for _, e := range s.Endpoints {
			out = append(out, e.Addresses...)
		}
		return orNone(firstFew(out))
	}},
	{name: columnAge, cell: func(s *discoveryv1.EndpointSlice, _ *TableOptions) string { return stamp(s.CreationTimestamp.Time) }},
}

// firstFew lists three and counts the others, as kubectl does.
func firstFew(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], ",") + fmt.Sprintf(" + %d more...", len(list)-3)
	}
	return strings.Join(list, ",")
}

var networkPolicyColumns = []column[networkingv1.NetworkPolicy]{
	{name: "NAME", cell: func(n *networkingv1.NetworkPolicy, _ *TableOptions) string { return n.Name }},
	{name: "POD-SELECTOR", cell: func(n *networkingv1.NetworkPolicy, _ *TableOptions) string {
		return metav1.FormatLabelSelector(&n.Spec.PodSelector)
	}},
	{name: columnAge, cell: func(n *networkingv1.NetworkPolicy, _ *TableOptions) string { return stamp(n.CreationTimestamp.Time) }},
}
