package node

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/volume"
)

// Volumes makes the folders that Pods mount; volume.Store is the real one. Every
// method may be repeated.
type Volumes interface {
	Empty(pod, name string, e volume.Empty) (string, error)
	Files(pod, name string, files []volume.File, owner volume.Owner) (string, error)
	Sub(pod, container string, number int, volume, sub string) (string, error)
	Host(pod, container string, number int, path string, kind volume.HostType, sub string) (string, error)
	// Release takes away what Sub and Host have mounted for a container.
	Release(pod, container string) error
	// Remove takes away all of a Pod's.
	Remove(pod string) error
	// Used tells how many bytes of disk an empty folder takes, or that it has more
	// entries than were to be looked at.
	Used(pod, name string, entries int) (bytes int64, over bool, err error)
	smallKeeper
}

// TakeSource hears from a voter of the ConfigMaps and Secrets of this node's Pods.
func (n *Node) TakeSource(msg *skeinv1.SourcesResponse) { n.sources.Take(msg) }

// Sources are the ConfigMaps and Secrets of this node's Pods.
func (n *Node) Sources() *Sources { return n.sources }

// watchSources wakes the Pods when what they name may be different.
func (n *Node) watchSources(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.sources.news:
		}
		n.turn.Add(1)
		n.wakeAll()
	}
}

// reasonConfig is why a container cannot be made: something that its Pod names is
// not there, or not allowed.
const reasonConfig = "CreateContainerConfigError"

// retryConfig has containers tried again that waited for what may be there now.
func (w *worker) retryConfig() {
	if turn := w.node.turn.Load(); w.turn != turn {
		w.turn = turn
		for name := range w.failed {
			if n := w.notes[name]; n != nil && n.reason == reasonConfig {
				delete(w.failed, name)
			}
		}
	}
}

func (w *worker) place() place {
	p := place{names: w.node.cfg.Network != nil, hostIP: w.node.cfg.Address.String(), sources: w.node.sources, machine: w.node.cfg.Machine, resolv: w.node.cfg.Resolv}
	if addr := w.node.addresses.of(string(w.uid)); addr.IsValid() {
		p.podIP, p.mtu = addr.String(), w.node.cfg.Network.MTU()
	}
	return p
}

// boxName names a container's own mounts.
func boxName(id container.ID) string { return id.Name + "." + strconv.Itoa(id.Attempt) }

var errNoVolumes = errors.New("this machine makes no volumes")

// mountVolumes makes what a container mounts and says so in its spec.
func (w *worker) mountVolumes(pod *corev1.Pod, c *corev1.Container, spec *container.Spec) error {
	if len(c.VolumeMounts) == 0 {
		return nil
	}
	if w.node.cfg.Volumes == nil {
		return errNoVolumes
	}
	w.making.Lock() // containers of a Pod start beside each other
	defer w.making.Unlock()
	env := readEnv(spec.Env)
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		mount, err := w.mountOne(pod, m, spec, i, env)
		if err != nil {
			return fmt.Errorf("volume %s: %w", m.Name, err)
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	return nil
}

func readEnv(list []string) *variables {
	v := &variables{values: map[string]string{}}
	for _, kv := range list {
		name, value, _ := strings.Cut(kv, "=")
		v.set(name, value)
	}
	return v
}

func (w *worker) mountOne(pod *corev1.Pod, m *corev1.VolumeMount, spec *container.Spec, number int, env *variables) (container.Mount, error) {
	out := container.Mount{Type: "bind", Target: path.Clean("/" + m.MountPath)}
	v := volumeNamed(pod, m.Name)
	if v == nil {
		return out, errors.New("the Pod has no such volume")
	}
	sub, err := subPath(m, env)
	if err != nil {
		return out, err
	}
	made := w.node.cfg.Volumes
	uid, box := string(w.uid), boxName(spec.ID)
	readOnly := m.ReadOnly
	switch {
	case v.HostPath != nil:
		if !spec.Security.Allowed.HostPaths {
			return out, fmt.Errorf("the namespace %q does not allow hostPath (annotation %s)", pod.Namespace, object.AnnotationHostPath)
		}
		kind := volume.HostAny
		if v.HostPath.Type != nil {
			kind = volume.HostType(*v.HostPath.Type)
		}
		out.Source, err = made.Host(uid, box, number, v.HostPath.Path, kind, sub)
		out.Device = (kind == volume.HostCharDevice || kind == volume.HostBlockDevice) && sub == ""
		sub = ""
	case v.EmptyDir != nil:
		out.Source, err = made.Empty(uid, v.Name, emptyOf(pod, v.EmptyDir, spec.Resources.MemoryBytes))
	default:
		readOnly = true
		out.Source, err = w.fileVolume(pod, v)
	}
	if err == nil && sub != "" {
		out.Source, err = made.Sub(uid, box, number, out.Source, sub)
	}
	out.Options = mountOptions(m, readOnly, v.HostPath != nil)
	return out, err
}

func volumeNamed(pod *corev1.Pod, name string) *corev1.Volume {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return &pod.Spec.Volumes[i]
		}
	}
	return nil
}

// subPath is what a mount takes of its volume, "" for all of it.
func subPath(m *corev1.VolumeMount, env *variables) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = env.expand(m.SubPathExpr)
		if strings.Contains(sub, "$(") {
			return "", fmt.Errorf("subPathExpr %q names a variable that is not set", m.SubPathExpr)
		}
	}
	if sub == "" {
		return "", nil
	}
	if path.IsAbs(sub) || !filepath.IsLocal(sub) {
		return "", errors.New("subPath is no path inside the volume")
	}
	return path.Clean(sub), nil
}

func mountOptions(m *corev1.VolumeMount, readOnly, host bool) []string {
	out := []string{"rbind", "rprivate"}
	if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationHostToContainer {
		out[1] = "rslave"
	}
	switch {
	case !readOnly:
		out = append(out, "rw")
	case m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled:
		out = append(out, "ro", "rro")
	default:
		out = append(out, "ro")
	}
	if !host {
		out = append(out, "nodev")
	}
	return out
}

func emptyOf(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource, memory int64) volume.Empty {
	out := volume.Empty{Memory: e.Medium == corev1.StorageMediumMemory, Owner: ownerOf(pod)}
	if out.Memory {
		out.Size = memory // of the container that mounts it first: it could not hold more
		if e.SizeLimit != nil && (out.Size == 0 || e.SizeLimit.Value() < out.Size) {
			out.Size = e.SizeLimit.Value()
		}
	}
	return out
}

// ownerOf is what fsGroup makes of the Pod's volumes.
func ownerOf(pod *corev1.Pod) volume.Owner {
	s := pod.Spec.SecurityContext
	if s == nil || s.FSGroup == nil {
		return volume.Owner{}
	}
	return volume.Owner{
		Group:      *s.FSGroup,
		OnMismatch: s.FSGroupChangePolicy != nil && *s.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch,
	}
}
