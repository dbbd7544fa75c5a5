package runc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

func TestAnImagesVolumesCanBeWritten(t *testing.T) {
	s := newScene(t)
	s.serve()
	for _, readOnly := range []bool{true, false} {
		spec := s.one("write", "/var/data/x", ";", "read", "/var/data/seed", ";", "write", "/new/deep/x", ";", "write", "/linked/x", ";",
			"read", "/srv/real/x", ";", "write", "/mine/x", ";", "write", "/y", ";", "write", "/proc/sys/vm/swappiness", ";", "write", "/etc/passwd/x")
		up := s.upper(spec.ID)
		s.must(errors.Join(os.MkdirAll(filepath.Join(up, "var/data"), 0o755), os.MkdirAll(filepath.Join(up, "srv/real"), 0o755),
			os.WriteFile(filepath.Join(up, "var/data/seed"), []byte("of the image"), 0o644), os.Symlink("/srv/real", filepath.Join(up, "linked"))))
		mine := filepath.Join(s.dir, "mine-"+spec.ID.Name)
		s.must(os.Mkdir(mine, 0o755))
		spec.Mounts = []container.Mount{{Type: "bind", Source: mine, Target: "/mine", Options: []string{"bind", "rw"}}}
		spec.Volumes = []string{"/var/data", "/new/deep", "/linked", "/mine/below", "/proc/sys/vm", "/sys/fs/cgroup", "/dev/x", "/", "/etc/passwd"}
		spec.Security.ReadOnlyRoot = readOnly
		root := "open /y: read-only file system"
		if !readOnly {
			root = "wrote /y"
		}
		want := strings.Join([]string{
			"wrote /var/data/x", "of the image", "wrote /new/deep/x", "wrote /linked/x", "written", "wrote /mine/x", root,
			"open /proc/sys/vm/swappiness: read-only file system", "open /etc/passwd/x: not a directory",
		}, "\n")
		if diff := cmp.Diff(want, s.says(spec)); diff != "" {
			t.Errorf("read-only %v (-want +got):\n%s", readOnly, diff)
		}
		if have, err := os.ReadDir(mine); err != nil || len(have) != 1 || have[0].Name() != "x" {
			t.Errorf("in the volume that is mounted: %v, %v", have, err)
		}
	}
}

// An image names as its volume what is not its own: by dots, by links, by links
// of links, by what the kernel shows.
func TestHostileVolumesStayInTheRoot(t *testing.T) {
	s := newScene(t)
	s.serve()
	out := filepath.Join(s.dir, "outside")
	s.must(os.Mkdir(out, 0o755))
	for name, tt := range map[string]struct{ link, to, volume string }{
		"dots":                     {volume: "/../../../../../../../.." + out + "/evil"},
		"an absolute link":         {link: "in", to: out, volume: "/in/evil"},
		"a link up":                {link: "in", to: "../../../../../../../../../../.." + out, volume: "/in/evil"},
		"a link to the machine":    {link: "in", to: "/proc/1/root" + out, volume: "/in/evil"},
		"a link to ours":           {link: "in", to: "/proc/self/fd", volume: "/in/3"},
		"a link to what is masked": {link: "in", to: "/proc", volume: "/in/sys"},
		"a link to itself":         {link: "in", to: "in", volume: "/in"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, readOnly := range []bool{true, false} {
				spec := s.one("write", tt.volume+"/x", ";", "write", "/proc/sys/kernel/hostname")
				s.must(os.MkdirAll(filepath.Join(s.upper(spec.ID), strings.TrimPrefix(out, "/")), 0o755))
				if tt.link != "" {
					s.must(os.Symlink(tt.to, filepath.Join(s.upper(spec.ID), tt.link)))
				}
				spec.Volumes, spec.Security.ReadOnlyRoot = []string{tt.volume}, readOnly
				s.prepare("pod")
				if err := s.Start(t.Context(), spec); err == nil {
					if got := strings.Join(s.output(spec.ID), "\n"); !strings.HasSuffix(got, "/proc/sys/kernel/hostname: read-only file system") {
						t.Errorf("inside: %q", got)
					}
				}
				if have, err := os.ReadDir(out); err != nil || len(have) != 0 {
					t.Fatalf("on the machine: %v, %v", have, err)
				}
			}
		})
	}
}
