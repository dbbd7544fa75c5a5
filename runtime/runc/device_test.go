package runc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/volume"
)

// Two devices of one driver, which no container has by itself.
const (
	misc        = 10
	fuse        = 229
	loopControl = 237
)

// device makes a device on this machine and mounts it for a container.
func (s *scene) device(store *volume.Store, id container.ID, number, minor int, kind volume.HostType) container.Mount {
	s.t.Helper()
	at := filepath.Join(s.dir, "dev-"+string(rune('a'+number)))
	if err := unix.Mknod(at, unix.S_IFCHR|0o666, int(unix.Mkdev(misc, uint32(minor)))); err != nil {
		s.t.Fatal(err)
	}
	source, err := store.Host(id.Pod, id.Name+".0", number, at, kind, "")
	s.must(err)
	return container.Mount{Type: "bind", Source: source, Target: "/dev/" + filepath.Base(at), Options: []string{"rbind", "rprivate", "rw"}}
}

func (s *scene) volumes() *volume.Store {
	s.t.Helper()
	store, err := volume.Open(volume.Config{StateDir: filepath.Join(s.dir, "volumes-disk"), RunDir: filepath.Join(s.dir, "volumes")})
	s.must(err)
	s.t.Cleanup(func() {
		s.must(s.RemoveSandbox(contextWithoutCancel(s.t), "pod"))
		s.must(store.Remove("pod"))
		s.must(store.Close())
	})
	return store
}

// A container uses the device that it mounts, and no other of its kind, by
// whatever name.
func TestADeviceThatIsMountedIsTheOnlyOne(t *testing.T) {
	s := newScene(t)
	s.serve()
	store := s.volumes()
	spec := s.one("open", "rw", "/dev/dev-a", ";", "open", "rw", "/dev/dev-b", ";", "mknod", "/tmp-a", "10", "229", ";", "open", "rw", "/tmp-a", ";",
		"mknod", "/tmp-b", "10", "237", ";", "open", "r", "/tmp-b", ";", "open", "r", "/dev/zero")
	spec.Security.Allowed.HostPaths = true
	given := s.device(store, spec.ID, 0, fuse, volume.HostCharDevice)
	given.Device = true
	seen := s.device(store, spec.ID, 1, loopControl, volume.HostAny) // it is in sight, and cannot be used
	spec.Mounts = []container.Mount{given, seen}
	got := strings.Split(s.says(spec), "\n")
	const denied = "operation not permitted"
	for i, want := range []bool{true, false, true, true, true, false, true} { // anybody with the capability makes one, as Docker has it
		if len(got) != 7 || strings.Contains(got[i], denied) == want {
			t.Errorf("step %d, to be allowed: %v; got %q", i, want, got)
		}
	}
	// A program that is run inside has no more.
	spec = s.one("sleep")
	given = s.mountAgain(store, spec.ID, given)
	given.Device, given.Options[2] = true, "ro"
	spec.Security.Allowed.HostPaths, spec.Mounts = true, []container.Mount{given}
	id := s.start(spec)
	out := &strings.Builder{}
	_, err := s.Exec(t.Context(), id, container.ExecSpec{
		Args: []string{"/prog", "open", "r", "/dev/dev-a", ";", "open", "rw", "/dev/dev-a", ";", "mknod", "/x", "10", "229", ";", "open", "rw", "/x"}, Stdout: out, Stderr: out,
	})
	s.must(err)
	got = strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []bool{true, false, true, false} {
		if len(got) != 4 || strings.Contains(got[i], denied) == want {
			t.Errorf("read-only, step %d, to be allowed: %v; got %q", i, want, got)
		}
	}
}

func (s *scene) mountAgain(store *volume.Store, id container.ID, m container.Mount) container.Mount {
	s.t.Helper()
	var err error
	m.Source, err = store.Host(id.Pod, id.Name+".0", 0, filepath.Join(s.dir, filepath.Base(m.Target)), volume.HostCharDevice, "")
	s.must(err)
	return m
}

func TestDevicesThatAreRefused(t *testing.T) {
	s := newScene(t)
	s.serve()
	store := s.volumes()
	s.prepare("pod")
	for name, tt := range map[string]struct {
		change func(*container.Spec)
		want   string
	}{
		"not allowed":   {func(c *container.Spec) { c.Security.Allowed.HostPaths = false }, "not allowed by its namespace"},
		"no device":     {func(c *container.Spec) { c.Mounts[0].Source = filepath.Join(s.dir, "plain") }, "no device"},
		"another place": {func(c *container.Spec) { c.Mounts[0].Source = filepath.Join(s.dir, "dev-a") }, "not a path of the machine"},
	} {
		spec := s.one("exit", "0")
		spec.Security.Allowed.HostPaths = true
		s.must(os.WriteFile(filepath.Join(s.dir, "plain"), nil, 0o600))
		_ = os.Remove(filepath.Join(s.dir, "dev-a"))
		m := s.device(store, spec.ID, 0, fuse, volume.HostCharDevice)
		m.Device = true
		spec.Mounts = []container.Mount{m}
		tt.change(&spec)
		if err := s.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
