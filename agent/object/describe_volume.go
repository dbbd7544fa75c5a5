package object

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// valueText tells where the value of a variable comes from, and never a value
// that an object holds.
func valueText(from *corev1.EnvVarSource) string {
	switch {
	case from.FieldRef != nil:
		return "(" + from.FieldRef.FieldPath + ")"
	case from.ResourceFieldRef != nil:
		return "(" + from.ResourceFieldRef.Resource + ")"
	case from.ConfigMapKeyRef != nil:
		return fmt.Sprintf("(key %s of ConfigMap %s%s)", from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Name, maybe(from.ConfigMapKeyRef.Optional))
	case from.SecretKeyRef != nil:
		return fmt.Sprintf("(key %s of Secret %s%s)", from.SecretKeyRef.Key, from.SecretKeyRef.Name, maybe(from.SecretKeyRef.Optional))
	}
	return ""
}

func maybe(optional *bool) string {
	if optional != nil && *optional {
		return ", if there is one"
	}
	return ""
}

func envFromText(from *corev1.EnvFromSource) string {
	text := ""
	switch {
	case from.ConfigMapRef != nil:
		text = "ConfigMap " + from.ConfigMapRef.Name + maybe(from.ConfigMapRef.Optional)
	case from.SecretRef != nil:
		text = "Secret " + from.SecretRef.Name + maybe(from.SecretRef.Optional)
	}
	if from.Prefix != "" {
		text += ", with the prefix " + from.Prefix
	}
	return text
}

// mounted tells what a container takes from elsewhere.
func (d *description) mounted(c *corev1.Container) {
	var from, mounts []string
	for i := range c.EnvFrom {
		from = append(from, envFromText(&c.EnvFrom[i]))
	}
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		text := m.MountPath + " from " + m.Name
		switch {
		case m.SubPath != "":
			text += ", " + m.SubPath
		case m.SubPathExpr != "":
			text += ", " + m.SubPathExpr
		}
		if m.ReadOnly {
			text += ", read-only"
		}
		mounts = append(mounts, text)
	}
	if len(from) > 0 {
		d.many("Environment from", from)
	}
	if len(mounts) > 0 {
		d.many("Mounts", mounts)
	}
}

// volumes tells what a Pod's volumes are.
func (d *description) volumes(list []corev1.Volume) {
	if len(list) == 0 {
		return
	}
	d.title("Volumes")
	for i := range list {
		d.put(list[i].Name, volumeText(&list[i]))
	}
	d.end()
}

func volumeText(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		text := "emptyDir"
		if v.EmptyDir.Medium == corev1.StorageMediumMemory {
			text += " in memory"
		}
		if v.EmptyDir.SizeLimit != nil {
			text += ", at most " + v.EmptyDir.SizeLimit.String()
		}
		return text
	case v.HostPath != nil:
		return v.HostPath.Path + " of its machine"
	case v.ConfigMap != nil:
		return "ConfigMap " + v.ConfigMap.Name + maybe(v.ConfigMap.Optional)
	case v.Secret != nil:
		return "Secret " + v.Secret.SecretName + maybe(v.Secret.Optional)
	case v.DownwardAPI != nil:
		return fmt.Sprintf("downwardAPI, %d files", len(v.DownwardAPI.Items))
	case v.Projected != nil:
		return fmt.Sprintf("projected, of %d sources", len(v.Projected.Sources))
	}
	return none
}
