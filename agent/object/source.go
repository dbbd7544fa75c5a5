package object

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/consensus/state"
)

// SourcesOf lists the ConfigMaps and Secrets that a Pod names anywhere: in its
// volumes, in the environment of its containers, and to pull their images with.
// Its node may know these and no others.
func SourcesOf(pod *corev1.Pod) []state.Key {
	var out []state.Key
	add := func(kind, name string) {
		key := state.Key{Kind: kind, Namespace: pod.Namespace, Name: name}
		if name != "" && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil {
			add(KindConfigMap, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			add(KindSecret, v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				add(KindConfigMap, s.ConfigMap.Name)
			}
			if s.Secret != nil {
				add(KindSecret, s.Secret.Name)
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			envSources(&list[i], add)
		}
	}
	for _, ref := range pod.Spec.ImagePullSecrets {
		add(KindSecret, ref.Name)
	}
	return out
}

func envSources(c *corev1.Container, add func(kind, name string)) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			add(KindConfigMap, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			add(KindSecret, from.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
			add(KindConfigMap, ref.Name)
		}
		if ref := e.ValueFrom.SecretKeyRef; ref != nil {
			add(KindSecret, ref.Name)
		}
	}
}
