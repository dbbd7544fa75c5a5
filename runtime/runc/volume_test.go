package runc

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skein-dev/skein/runtime/container"
)

func TestWhatIsBoundIsThePodsOwn(t *testing.T) {
	d := &Driver{cfg: Config{RunDir: "/run/skein", Volumes: []string{"/var/lib/skein/volumes", "/run/skein/volumes"}}}
	bind := func(source string) specs.Mount { return specs.Mount{Type: "bind", Source: source, Destination: "/x"} }
	for name, tt := range map[string]struct {
		mount specs.Mount
		host  bool
		fault string
	}{
		"its folder on disk":           {mount: bind("/var/lib/skein/volumes/p1/data")},
		"its files":                    {mount: bind("/run/skein/volumes/p1/files/conf")},
		"a part of it":                 {mount: bind("/run/skein/volumes/p1/sub/web.0/1")},
		"its shared memory":            {mount: bind("/run/skein/pods/p1/shm")},
		"another Pod's":                {mount: bind("/run/skein/volumes/p2/files/conf"), fault: "not the Pod's"},
		"one whose name begins alike":  {mount: bind("/run/skein/volumes/p11/files/conf"), fault: "not the Pod's"},
		"by way of its own":            {mount: bind("/run/skein/volumes/p1/../p2/files/conf"), fault: "not the Pod's"},
		"what is kept":                 {mount: bind("/run/skein/volumes/.kept"), fault: "not the Pod's"},
		"the machine":                  {mount: bind("/etc"), fault: "not the Pod's"},
		"the machine, allowed":         {mount: bind("/etc"), host: true, fault: "not the Pod's"},
		"bound by an option":           {mount: specs.Mount{Type: "none", Source: "/etc", Destination: "/x", Options: []string{"rbind"}}, fault: "not the Pod's"},
		"a file system of the machine": {mount: specs.Mount{Type: "ext4", Source: "/dev/sda1", Destination: "/x"}, fault: "mount of /dev/sda1"},
		"the machine's, by its place":  {mount: bind("/run/skein/volumes/p1/host/web.0/0"), fault: "does not allow"},
		"allowed, by its place":        {mount: bind("/run/skein/volumes/p1/host/web.0/0"), host: true},
		"a file system of its own":     {mount: specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/x"}},
	} {
		c := container.Spec{ID: container.ID{Pod: "p1", Name: "web"}, Security: container.Security{Allowed: container.Allowed{HostPaths: tt.host}}}
		err := d.checkSources(&specs.Spec{Mounts: []specs.Mount{tt.mount}}, c)
		if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %v, want %q", name, err, tt.fault)
		}
	}
}
