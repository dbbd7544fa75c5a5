package leader

import corev1 "k8s.io/api/core/v1"

// Tell writes down what a node has seen happen to one of its Pods, or to
// itself. Whoever calls has checked that it may say so.
func (l *Leader) Tell(event *corev1.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return
	}
	o := event.InvolvedObject
	l.now.events.add(tale{
		about{kind: o.Kind, apiVersion: o.APIVersion, namespace: o.Namespace, name: o.Name, uid: string(o.UID)},
		event.Type, event.Reason, event.Message,
	})
}
