package api

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
)

// Bounds of what a node may tell in one report.
const (
	maxReportEvents = 256
	maxEventText    = 1024 // bytes of a message
)

// record takes the events that a node tells of its own Pods.
func (s *Server) record(node string, events [][]byte) {
	for _, body := range events[:min(len(events), maxReportEvents)] {
		var ev corev1.Event
		if err := json.Unmarshal(body, &ev); err != nil {
			s.log.Warn("a node tells an event that cannot be read", "node", node, "err", err)
			continue
		}
		o := ev.InvolvedObject
		row, ok := s.cfg.Consensus.Store().Get(state.Key{Kind: object.KindPod, Namespace: o.Namespace, Name: o.Name})
		if o.Kind != object.KindPod || !ok || row.UID != string(o.UID) {
			continue // it is gone, or is not the node's to speak of
		}
		if pod, err := object.Decode[corev1.Pod](row); err != nil || pod.Spec.NodeName != node {
			continue
		}
		if ev.Type != corev1.EventTypeWarning {
			ev.Type = corev1.EventTypeNormal
		}
		ev.Message = ev.Message[:min(len(ev.Message), maxEventText)]
		ev.Reason = ev.Reason[:min(len(ev.Reason), 64)]
		s.cfg.Duties.Tell(&ev)
	}
}

// about finds the events about an object.
func (s *Server) about(uid string) []*state.Row {
	return s.cfg.Consensus.Store().List(object.KindEvent, "", object.AboutIndex(uid))
}

// related gathers what a description tells beside the object itself.
func (s *Server) related(kind object.Kind, row *state.Row) object.Related {
	store := s.cfg.Consensus.Store()
	out := object.Related{Events: s.about(row.UID)}
	switch kind.Name {
	case object.KindDeployment:
		out.Revisions = store.List(object.KindRevision, row.Key.Namespace, object.OwnerIndex(row.UID))
		for _, rev := range out.Revisions {
			out.Pods = append(out.Pods, store.List(object.KindPod, row.Key.Namespace, object.OwnerIndex(rev.UID))...)
		}
	case object.KindRevision:
		out.Pods = store.List(object.KindPod, row.Key.Namespace, object.OwnerIndex(row.UID))
	case object.KindNode:
		out.Pods = store.List(object.KindPod, "", object.NodeIndex(row.Key.Name))
	case object.KindService:
		out.Slices = store.List(object.KindEndpointSlice, row.Key.Namespace, object.LabelIndex(object.LabelServiceName, row.Key.Name))
	case object.KindNamespace:
		out.Pods = store.List(object.KindPod, row.Key.Name, "")
	}
	return out
}
