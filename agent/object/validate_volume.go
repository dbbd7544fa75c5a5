package object

import (
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxVolumes bounds the volumes of a Pod, and the mounts of a container.
const maxVolumes = 256

// defaultVolumes fills in what a person left out of a Pod's volumes.
func defaultVolumes(s *corev1.PodSpec) {
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if noSource(&v.VolumeSource) {
			v.EmptyDir = &corev1.EmptyDirVolumeSource{} // as Kubernetes has it
		}
		switch {
		case v.HostPath != nil:
			defaultTo(&v.HostPath.Type, corev1.HostPathUnset)
		case v.ConfigMap != nil:
			defaultTo(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
		case v.Secret != nil:
			defaultTo(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
		case v.DownwardAPI != nil:
			defaultTo(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
			defaultItems(v.DownwardAPI.Items)
		case v.Projected != nil:
			defaultTo(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
			for _, src := range v.Projected.Sources {
				if src.DownwardAPI != nil {
					defaultItems(src.DownwardAPI.Items)
				}
			}
		}
	}
}

func noSource(v *corev1.VolumeSource) bool {
	return v.EmptyDir == nil && v.HostPath == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil
}

func defaultItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if ref := items[i].FieldRef; ref != nil && ref.APIVersion == "" {
			ref.APIVersion = "v1"
		}
	}
}

func (p *problems) volumes(s *corev1.PodSpec, at string) {
	if len(s.Volumes) > maxVolumes {
		p.add(at+".volumes", "more than %d", maxVolumes)
		return
	}
	seen := map[string]bool{}
	for i := range s.Volumes {
		v, at := &s.Volumes[i], indexed(at+".volumes", i)
		if v.Name == "" {
			p.add(at+".name", "is missing")
		} else {
			p.each(at+".name", v.Name, validation.IsDNS1123Label(v.Name))
		}
		if seen[v.Name] && v.Name != "" {
			p.add(at+".name", "%q is the name of two volumes", clip(v.Name))
		}
		seen[v.Name] = true
		p.volume(s, v, at)
	}
	p.volumeMounts(s, at, seen)
	if sc := s.SecurityContext; sc != nil {
		if sc.FSGroup != nil {
			p.between(at+".securityContext.fsGroup", *sc.FSGroup, 0, maxID)
		}
		if g := sc.FSGroupChangePolicy; g != nil && *g != corev1.FSGroupChangeAlways && *g != corev1.FSGroupChangeOnRootMismatch {
			p.add(at+".securityContext.fsGroupChangePolicy", "%q: want Always or OnRootMismatch", clip(string(*g)))
		}
	}
}

func (p *problems) volume(s *corev1.PodSpec, v *corev1.Volume, at string) {
	var kinds []string
	for name, given := range map[string]bool{
		"emptyDir": v.EmptyDir != nil, "hostPath": v.HostPath != nil, "configMap": v.ConfigMap != nil, "secret": v.Secret != nil,
		"downwardAPI": v.DownwardAPI != nil, "projected": v.Projected != nil,
	} {
		if given {
			kinds = append(kinds, name)
		}
	}
	if slices.Sort(kinds); len(kinds) > 1 {
		p.add(at, "is %s at once: a volume is one of them", strings.Join(kinds, " and "))
		return
	}
	switch {
	case v.EmptyDir != nil:
		p.emptyDir(v.EmptyDir, at+".emptyDir")
	case v.HostPath != nil:
		p.hostPath(v.HostPath, at+".hostPath")
	case v.ConfigMap != nil:
		p.sourceName(v.ConfigMap.Name, at+".configMap.name")
		p.items(v.ConfigMap.Items, at+".configMap.items")
		p.mode(v.ConfigMap.DefaultMode, at+".configMap.defaultMode")
	case v.Secret != nil:
		p.sourceName(v.Secret.SecretName, at+".secret.secretName")
		p.items(v.Secret.Items, at+".secret.items")
		p.mode(v.Secret.DefaultMode, at+".secret.defaultMode")
	case v.DownwardAPI != nil:
		p.downward(s, v.DownwardAPI.Items, at+".downwardAPI.items")
		p.mode(v.DownwardAPI.DefaultMode, at+".downwardAPI.defaultMode")
	case v.Projected != nil:
		p.projected(s, v.Projected, at+".projected")
	}
}

func (p *problems) emptyDir(e *corev1.EmptyDirVolumeSource, at string) {
	switch e.Medium {
	case corev1.StorageMediumDefault, corev1.StorageMediumMemory:
	default:
		p.add(at+".medium", "%q: want Memory, or nothing for disk", clip(string(e.Medium)))
	}
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		p.add(at+".sizeLimit", "%s is less than 0", e.SizeLimit.String())
	}
}

var hostPathTypes = []corev1.HostPathType{
	corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate, corev1.HostPathFile,
	corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev,
}

func (p *problems) hostPath(h *corev1.HostPathVolumeSource, at string) {
	switch {
	case h.Path == "":
		p.add(at+".path", "is missing")
	case !path.IsAbs(h.Path) || strings.ContainsRune(h.Path, 0):
		p.add(at+".path", "%q: want an absolute path", clip(h.Path))
	case slices.Contains(strings.Split(h.Path, "/"), ".."):
		p.add(at+".path", "%q: holds \"..\"", clip(h.Path))
	}
	if h.Type != nil && !slices.Contains(hostPathTypes, *h.Type) {
		p.add(at+".type", "%q: want Directory, DirectoryOrCreate, File, FileOrCreate, Socket, CharDevice or BlockDevice", clip(string(*h.Type)))
	}
}

// maxPullSecrets bounds how many credentials a Pod names.
const maxPullSecrets = 32

func (p *problems) pullSecrets(list []corev1.LocalObjectReference, at string) {
	if len(list) > maxPullSecrets {
		p.add(at, "names %d Secrets: at most %d are looked at", len(list), maxPullSecrets)
		return
	}
	for i, ref := range list {
		p.sourceName(ref.Name, indexed(at, i)+".name")
	}
}

func (p *problems) sourceName(name, at string) {
	if name == "" {
		p.add(at, "is missing")
		return
	}
	p.each(at, name, validation.IsDNS1123Subdomain(name))
}

func (p *problems) mode(mode *int32, at string) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		p.hint(at, "write it in octal, like 0440", "%d is no mode of a file: want 0 to 0777 (511)", *mode)
	}
}

func (p *problems) items(items []corev1.KeyToPath, at string) {
	for i := range items {
		item, at := &items[i], indexed(at, i)
		if item.Key == "" {
			p.add(at+".key", "is missing")
		}
		p.inside(item.Path, at+".path")
		p.mode(item.Mode, at+".mode")
	}
}

// inside checks a path inside a volume.
func (p *problems) inside(name, at string) {
	switch {
	case name == "":
		p.add(at, "is missing")
	case path.IsAbs(name):
		p.add(at, "%q: want a relative path", clip(name))
	case strings.HasPrefix(name, "..") || slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsRune(name, 0) || path.Clean(name) == ".":
		p.add(at, "%q: is no path inside the volume", clip(name))
	}
}

func (p *problems) downward(s *corev1.PodSpec, items []corev1.DownwardAPIVolumeFile, at string) {
	for i := range items {
		item, at := &items[i], indexed(at, i)
		p.inside(item.Path, at+".path")
		p.mode(item.Mode, at+".mode")
		switch {
		case item.FieldRef != nil && item.ResourceFieldRef != nil:
			p.add(at, "names both fieldRef and resourceFieldRef")
		case item.FieldRef != nil:
			if item.FieldRef.FieldPath != "metadata.labels" && item.FieldRef.FieldPath != "metadata.annotations" {
				p.fieldRef(item.FieldRef, at+".fieldRef")
			}
		case item.ResourceFieldRef != nil:
			if item.ResourceFieldRef.ContainerName == "" {
				p.add(at+".resourceFieldRef.containerName", "is missing")
			}
			p.resourceFieldRef(s, item.ResourceFieldRef, at+".resourceFieldRef")
		default:
			p.add(at, "names no source: write fieldRef.fieldPath, or resourceFieldRef")
		}
	}
}

var resourcePaths = []string{
	"limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
}

func (p *problems) resourceFieldRef(s *corev1.PodSpec, ref *corev1.ResourceFieldSelector, at string) {
	if !slices.Contains(resourcePaths, ref.Resource) {
		p.hint(at+".resource", "these can be: "+strings.Join(resourcePaths, ", "), "%q cannot be passed to a container", clip(ref.Resource))
	}
	if ref.Divisor.Sign() < 0 {
		p.add(at+".divisor", "%s is less than 0", ref.Divisor.String())
	}
	if ref.ContainerName == "" || s == nil {
		return
	}
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		if slices.ContainsFunc(list, func(c corev1.Container) bool { return c.Name == ref.ContainerName }) {
			return
		}
	}
	p.add(at+".containerName", "the Pod has no container %q", clip(ref.ContainerName))
}

func (p *problems) projected(s *corev1.PodSpec, v *corev1.ProjectedVolumeSource, at string) {
	p.mode(v.DefaultMode, at+".defaultMode")
	if len(v.Sources) > maxVolumes {
		p.add(at+".sources", "more than %d", maxVolumes)
		return
	}
	for i := range v.Sources {
		src, at := &v.Sources[i], indexed(at+".sources", i)
		given := 0
		if src.ConfigMap != nil {
			given++
			p.sourceName(src.ConfigMap.Name, at+".configMap.name")
			p.items(src.ConfigMap.Items, at+".configMap.items")
		}
		if src.Secret != nil {
			given++
			p.sourceName(src.Secret.Name, at+".secret.name")
			p.items(src.Secret.Items, at+".secret.items")
		}
		if src.DownwardAPI != nil {
			given++
			p.downward(s, src.DownwardAPI.Items, at+".downwardAPI.items")
		}
		if given != 1 {
			p.add(at, "want one of configMap, secret and downwardAPI")
		}
	}
}

func (p *problems) volumeMounts(s *corev1.PodSpec, at string, volumes map[string]bool) {
	for name, list := range map[string][]corev1.Container{"containers": s.Containers, "initContainers": s.InitContainers} {
		for i := range list {
			p.mounts(list[i].VolumeMounts, indexed(at+"."+name, i)+".volumeMounts", volumes)
		}
	}
}

func (p *problems) mounts(mounts []corev1.VolumeMount, at string, volumes map[string]bool) {
	if len(mounts) > maxVolumes {
		p.add(at, "more than %d", maxVolumes)
		return
	}
	seen := map[string]bool{}
	for i := range mounts {
		m, at := &mounts[i], indexed(at, i)
		switch {
		case m.Name == "":
			p.add(at+".name", "is missing")
		case !volumes[m.Name]:
			p.hint(at+".name", nearestHint(m.Name, volumes), "the Pod has no volume %q", clip(m.Name))
		}
		p.mountPath(m.MountPath, at+".mountPath", seen)
		switch {
		case m.SubPath != "" && m.SubPathExpr != "":
			p.add(at+".subPathExpr", "there is a subPath already")
		case m.SubPath != "":
			p.inside(m.SubPath, at+".subPath")
		case m.SubPathExpr != "":
			p.inside(m.SubPathExpr, at+".subPathExpr")
		}
		p.recursive(m, at+".recursiveReadOnly")
	}
}

func (p *problems) mountPath(name, at string, seen map[string]bool) {
	clean := path.Clean(name)
	switch {
	case name == "":
		p.add(at, "is missing")
	case !path.IsAbs(name) || strings.ContainsAny(name, ":\x00"):
		p.add(at, "%q: want an absolute path without a colon", clip(name))
	case clean == "/":
		p.add(at, "is the root of the container: mount below it")
	case clean == "/proc" || strings.HasPrefix(clean, "/proc/"):
		p.add(at, "%q: nothing is mounted over or in /proc", clip(name))
	case seen[clean]:
		p.add(at, "%q is mounted over twice", clip(name))
	}
	seen[clean] = true
}

// recursive checks recursiveReadOnly, which Kubernetes takes of read-only mounts
// alone.
func (p *problems) recursive(m *corev1.VolumeMount, at string) {
	if m.RecursiveReadOnly == nil {
		return
	}
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyDisabled:
		return
	case corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled:
	default:
		p.add(at, "%q: want Disabled, IfPossible or Enabled", clip(string(*m.RecursiveReadOnly)))
		return
	}
	switch {
	case !m.ReadOnly:
		p.add(at, "takes readOnly: true")
	case m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone:
		p.add(at, "takes the mountPropagation None")
	}
}

func nearestHint(name string, known map[string]bool) string {
	if near := nearest(name, slices.Sorted(maps.Keys(known))); near != "" {
		return "did you mean " + near + "?"
	}
	return "write it under volumes"
}

func (p *problems) envFrom(list []corev1.EnvFromSource, at string) {
	for i := range list {
		from, at := &list[i], indexed(at, i)
		if from.Prefix != "" {
			p.each(at+".prefix", from.Prefix, validation.IsRelaxedEnvVarName(from.Prefix))
		}
		switch {
		case from.ConfigMapRef != nil && from.SecretRef != nil:
			p.add(at, "names both configMapRef and secretRef")
		case from.ConfigMapRef != nil:
			p.sourceName(from.ConfigMapRef.Name, at+".configMapRef.name")
		case from.SecretRef != nil:
			p.sourceName(from.SecretRef.Name, at+".secretRef.name")
		default:
			p.add(at, "names no source: write configMapRef.name or secretRef.name")
		}
	}
}

// valueFrom checks where the value of a variable comes from.
func (p *problems) valueFrom(s *corev1.PodSpec, from *corev1.EnvVarSource, at string) {
	given := 0
	if from.FieldRef != nil {
		given++
		p.fieldRef(from.FieldRef, at+".fieldRef")
	}
	if from.ResourceFieldRef != nil {
		given++
		p.resourceFieldRef(s, from.ResourceFieldRef, at+".resourceFieldRef")
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		given++
		p.keyRef(ref.Name, ref.Key, at+".configMapKeyRef")
	}
	if ref := from.SecretKeyRef; ref != nil {
		given++
		p.keyRef(ref.Name, ref.Key, at+".secretKeyRef")
	}
	switch {
	case given == 0:
		p.add(at, "names no source: write fieldRef.fieldPath, configMapKeyRef, secretKeyRef or resourceFieldRef")
	case given > 1:
		p.add(at, "names more than one source")
	}
}

func (p *problems) keyRef(name, key, at string) {
	p.sourceName(name, at+".name")
	if key == "" {
		p.add(at+".key", "is missing")
		return
	}
	p.each(at+".key", key, validation.IsConfigMapKey(key))
}
