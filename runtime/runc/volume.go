package runc

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/network"
	"github.com/skein-dev/skein/runtime/volume"
)

// checkSources is the last look at where the mounts of a container come from.
// What is bound is the Pod's own: what its containers share, its volumes, and the
// file for the container's last message.
// Folders of the machine are among those, mounted in a place of their own, and
// need the word of the namespace's policy.
func (d *Driver) checkSources(s *specs.Spec, c container.Spec) error {
	own := slices.Clone(d.cfg.binds)
	own = append(own, d.shared(c.ID.Pod), d.messageDir(c.ID), d.volumesDir(c.ID))
	for _, dir := range d.cfg.Volumes {
		own = append(own, filepath.Join(dir, c.ID.Pod))
	}
	if c.Sandbox.HostIPC && c.Security.Allowed.Privileged {
		own = append(own, hostShm)
	}
	for _, m := range c.Mounts {
		if m.Device && !slices.ContainsFunc(own, func(dir string) bool { return strings.HasPrefix(m.Source, filepath.Join(dir, volume.HostDir)+"/") }) {
			return fmt.Errorf("device at %s: %s is not a path of the machine that was mounted for it", m.Target, m.Source)
		}
	}
	for _, m := range s.Mounts {
		if !bound(m) {
			if path.IsAbs(m.Source) && m.Type != "bind" {
				return fmt.Errorf("mount of %s at %s", m.Source, m.Destination)
			}
			continue
		}
		i := slices.IndexFunc(own, func(dir string) bool { return m.Source == dir || strings.HasPrefix(m.Source, dir+"/") })
		if i < 0 || path.Clean(m.Source) != m.Source {
			return fmt.Errorf("mount of %s at %s: it is not the Pod's", m.Source, m.Destination)
		}
		if rest := strings.TrimPrefix(m.Source, own[i]); strings.HasPrefix(rest+"/", "/"+volume.HostDir+"/") && !c.Security.Allowed.HostPaths {
			return fmt.Errorf("mount at %s: the namespace does not allow folders of the machine", m.Destination)
		}
	}
	return nil
}

func bound(m specs.Mount) bool {
	return m.Type == "bind" || slices.ContainsFunc(m.Options, func(o string) bool { return o == "bind" || o == "rbind" })
}

// private gives the driver a file system in memory of its own, as what is in it
// may hold values of Secrets: those of a container's environment. One that an
// earlier build has mounted as it was stays.
func private(dir string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return &fs.PathError{Op: "statx", Path: dir, Err: err}
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		if err := unix.Mount("skein", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
			return &fs.PathError{Op: "mount", Path: dir, Err: err}
		}
	}
	return network.MountPrivate(dir)
}

// written is what of a spec is kept on disk: nothing that could hold a value of a
// Secret.
func written(spec container.Spec) container.Spec {
	spec.Env, spec.Args = nil, nil
	return spec
}
