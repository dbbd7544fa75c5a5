package node

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/volume"
)

// fileVolume makes a volume of small files and returns its folder. The caller
// holds w.making.
func (w *worker) fileVolume(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	files, err := filesOf(pod, v, w.place())
	if err != nil {
		return "", err
	}
	return w.node.cfg.Volumes.Files(string(w.uid), v.Name, files, ownerOf(pod))
}

// refreshVolumes brings the files of a Pod that runs up to date. What is not there
// any more stays as it was: the containers have it.
func (w *worker) refreshVolumes(pod *corev1.Pod) {
	if w.node.cfg.Volumes == nil {
		return
	}
	w.making.Lock()
	defer w.making.Unlock()
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.HostPath != nil || v.EmptyDir != nil || !w.mounts(pod, v.Name) {
			continue
		}
		_, err := w.fileVolume(pod, v)
		switch {
		case err == nil:
			delete(w.stale, v.Name)
		case w.stale[v.Name] != err.Error():
			w.stale[v.Name] = err.Error()
			if !errors.Is(err, errUnheard) {
				w.event(pod, corev1.EventTypeWarning, "FailedMount", "volume "+v.Name+" is not brought up to date: "+err.Error())
			}
		}
	}
}

// mounts tells whether a container of the Pod mounts a volume.
func (w *worker) mounts(pod *corev1.Pod, name string) bool {
	for _, m := range membersOf(pod) {
		if slices.ContainsFunc(m.VolumeMounts, func(v corev1.VolumeMount) bool { return v.Name == name }) {
			return true
		}
	}
	return false
}

// A fileSet are the files of a volume by path. What comes later wins.
type fileSet map[string]volume.File

func (s fileSet) add(path string, data []byte, mode, fallback *int32) {
	perm := fs.FileMode(0o644)
	for _, m := range []*int32{fallback, mode} {
		if m != nil {
			perm = fs.FileMode(*m) & fs.ModePerm //nolint:gosec // validated
		}
	}
	s[path] = volume.File{Path: path, Data: data, Mode: perm}
}

func (s fileSet) list() []volume.File {
	out := make([]volume.File, 0, len(s))
	for _, path := range slices.Sorted(maps.Keys(s)) {
		out = append(out, s[path])
	}
	return out
}

// filesOf are the files of a volume as they should be now.
func filesOf(pod *corev1.Pod, v *corev1.Volume, at place) ([]volume.File, error) {
	set := fileSet{}
	var err error
	switch {
	case v.ConfigMap != nil:
		err = set.keys(pod, object.KindConfigMap, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional, v.ConfigMap.DefaultMode, at)
	case v.Secret != nil:
		err = set.keys(pod, object.KindSecret, v.Secret.SecretName, v.Secret.Items, v.Secret.Optional, v.Secret.DefaultMode, at)
	case v.DownwardAPI != nil:
		err = set.downward(pod, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode, at)
	case v.Projected != nil:
		err = set.projected(pod, v.Projected, at)
	default:
		err = errors.New("it is of no type that is known")
	}
	return set.list(), err
}

func (s fileSet) projected(pod *corev1.Pod, p *corev1.ProjectedVolumeSource, at place) error {
	for i := range p.Sources {
		src := &p.Sources[i]
		var err error
		switch {
		case src.ConfigMap != nil:
			err = s.keys(pod, object.KindConfigMap, src.ConfigMap.Name, src.ConfigMap.Items, src.ConfigMap.Optional, p.DefaultMode, at)
		case src.Secret != nil:
			err = s.keys(pod, object.KindSecret, src.Secret.Name, src.Secret.Items, src.Secret.Optional, p.DefaultMode, at)
		case src.DownwardAPI != nil:
			err = s.downward(pod, src.DownwardAPI.Items, p.DefaultMode, at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keys adds the keys of a ConfigMap or Secret: those that items name, or all.
func (s fileSet) keys(pod *corev1.Pod, kind, name string, items []corev1.KeyToPath, optional *bool, mode *int32, at place) error {
	src, err := at.from().source(kind, pod.Namespace, name)
	if errors.Is(err, errNoSource) && isTrue(optional) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(items) == 0 {
		for key, value := range src.GetData() {
			s.add(key, value, nil, mode)
		}
		return nil
	}
	for _, item := range items {
		value, there := src.GetData()[item.Key]
		switch {
		case there:
			s.add(item.Path, value, item.Mode, mode)
		case !isTrue(optional):
			return fmt.Errorf("%s %q in namespace %q has no key %q", kind, name, pod.Namespace, item.Key)
		}
	}
	return nil
}

func (s fileSet) downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32, at place) error {
	for i := range items {
		item := &items[i]
		var text string
		switch {
		case item.ResourceFieldRef != nil:
			var err error
			if text, err = resourceField(pod, nil, item.ResourceFieldRef, at.machine); err != nil {
				return err
			}
		case item.FieldRef != nil && item.FieldRef.FieldPath == "metadata.labels":
			text = listed(pod.Labels)
		case item.FieldRef != nil && item.FieldRef.FieldPath == "metadata.annotations":
			text = listed(pod.Annotations)
		case item.FieldRef != nil:
			text = field(pod, item.FieldRef.FieldPath, at)
		}
		s.add(item.Path, []byte(text), item.Mode, mode)
	}
	return nil
}

// listed writes labels as Kubernetes does: one a line, the value quoted.
func listed(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%q", key, m[key]))
	}
	return strings.Join(lines, "\n")
}
