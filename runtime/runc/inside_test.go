package runc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

func (s *scene) one(words ...string) container.Spec {
	return s.spec(container.ID{Pod: "pod", Name: fmt.Sprintf("c%d", worlds.Add(1))}, words...)
}

func TestDefaultsConfine(t *testing.T) {
	s := newScene(t)
	s.serve()
	got := s.says(s.one("status", "CapEff", ";", "status", "CapBnd", ";", "status", "CapInh", ";", "status", "NoNewPrivs", ";", "status", "Seccomp", ";",
		"write", "/proc/sys/kernel/hostname", ";", "read", "/proc/keys", ";", "write", "/sys/fs/cgroup/x", ";", "write", limitFile(s), ";", "id", ";", "pwd"))
	want := strings.Join([]string{
		"CapEff 00000000a80425fb", "CapBnd 00000000a80425fb", "CapInh 0000000000000000", "NoNewPrivs 1", "Seccomp 2",
		"open /proc/sys/kernel/hostname: read-only file system", "", "open /sys/fs/cgroup/x: read-only file system", "open " + limitFile(s) + ": read-only file system", "0 0 []", "/",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inside (-want +got):\n%s", diff)
	}
}

// limitFile is where a container would lift its own limit.
func limitFile(s *scene) string {
	if s.groups.unified {
		return "/sys/fs/cgroup/pids.max"
	}
	return "/sys/fs/cgroup/memory/memory.limit_in_bytes"
}

func TestWhatIsAskedForIsGiven(t *testing.T) {
	s := newScene(t)
	s.serve()
	tests := map[string]struct {
		words []string
		ask   func(*container.Spec)
		want  string
	}{
		"no capabilities": {
			words: []string{"status", "CapBnd"},
			ask:   func(c *container.Spec) { c.Security.DropCapabilities = []string{"ALL"} }, want: "CapBnd 0000000000000000",
		},
		"one more than none": {
			words: []string{"status", "CapBnd"},
			ask: func(c *container.Spec) {
				c.Security.DropCapabilities, c.Security.AddCapabilities = []string{"all"}, []string{"net_admin"}
				c.Security.Allowed.Capabilities = []string{"NET_ADMIN"}
			}, want: "CapBnd 0000000000001000",
		},
		"no seccomp, new privileges": {
			words: []string{"status", "Seccomp", ";", "status", "NoNewPrivs"},
			ask:   func(c *container.Spec) { c.Security.Unconfined, c.Security.AllowPrivilegeEscalation = true, true },
			want:  "Seccomp 0\nNoNewPrivs 0",
		},
		"a read-only root": {
			words: []string{"write", "/x", ";", "write", "/dev/shm/x"},
			ask:   func(c *container.Spec) { c.Security.ReadOnlyRoot = true }, want: "open /x: read-only file system\nwrote /dev/shm/x",
		},
		"a user by name, with the groups of the image": {
			words: []string{"id"}, ask: func(c *container.Spec) { c.User = "redis"; c.Groups = []uint32{7} }, want: "999 998 [7 44]",
		},
		"a user by numbers that are nobody's": {
			words: []string{"id"}, ask: func(c *container.Spec) { c.User = "1000:1000" }, want: "1000 1000 []",
		},
		"a working directory that is missing": {
			words: []string{"pwd"}, ask: func(c *container.Spec) { c.Cwd = "/srv/app" }, want: "/srv/app",
		},
		"an environment": {
			words: []string{"env", "A", ";", "env", "HOME"}, ask: func(c *container.Spec) { c.Env = []string{"A=b"} }, want: "b\n/root",
		},
		"a mount of one's own over ours": {
			words: []string{"read", "/etc/hostname"},
			ask: func(c *container.Spec) {
				c.Mounts = []container.Mount{{Type: "bind", Source: filepath.Join(world, "image/etc/group"), Target: "/etc/hostname", Options: []string{"bind", "ro"}}}
			}, want: "root:x:0:\nredis:x:998:\nlog:x:44:redis",
		},
		"names of the Pod in a volume over their folder": {
			words: []string{"read", "/etc/hostname", ";", "read", "/etc/group"},
			ask: func(c *container.Spec) {
				dir := filepath.Join(s.dir, "etc")
				s.must(os.Mkdir(dir, 0o755))
				s.must(os.WriteFile(filepath.Join(dir, "group"), []byte("of the volume"), 0o644))
				s.must(os.WriteFile(filepath.Join(dir, "hostname"), []byte("hidden"), 0o644))
				c.Mounts = []container.Mount{{Type: "bind", Source: dir, Target: "/etc", Options: []string{"bind", "rw"}}}
			}, want: "host-pod\nof the volume",
		},
		"a volume over their folder that has no place for them": {
			words: []string{"read", "/etc/hostname", ";", "read", "/etc/group"},
			ask: func(c *container.Spec) {
				dir := filepath.Join(s.dir, "etc-ro")
				s.must(os.Mkdir(dir, 0o755))
				s.must(os.WriteFile(filepath.Join(dir, "group"), []byte("of the volume"), 0o644))
				c.Mounts = []container.Mount{{Type: "bind", Source: dir, Target: "/etc", Options: []string{"bind", "ro"}}}
			}, want: "open /etc/hostname: no such file or directory\nof the volume",
		},
		"limits of its processes": {
			words: []string{"limit", "Max core", ";", "limit", "Max stack", ";", "limit", "Max open files", ";", "limit", "Max locked"},
			ask: func(c *container.Spec) {
				c.Ulimits = []container.Ulimit{
					{Name: "core", Soft: 0, Hard: 4096},
					{Name: "stack", Soft: 1 << 20, Hard: container.Unlimited},
					{Name: "nofile", Soft: 200, Hard: 200},
					{Name: "memlock", Soft: 65536, Hard: 65536},
				}
			},
			want: "Max core file size 0 4096 bytes\nMax stack size 1048576 unlimited bytes\nMax open files 200 200 files\nMax locked memory 65536 65536 bytes",
		},
		"settings of the kernel": {
			words: []string{"read", "/proc/sys/net/ipv4/ip_unprivileged_port_start", ";", "read", "/proc/sys/kernel/shm_rmid_forced"},
			ask: func(c *container.Spec) {
				c.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
			}, want: "80\n1",
		},
		"names of the Pod": {words: []string{"read", "/etc/hostname", ";", "hostname"}, ask: func(*container.Spec) {}, want: "host-pod\nhost-pod"},
		"privileges": {
			words: []string{"status", "Seccomp", ";", "status", "NoNewPrivs", ";", "write", "/proc/sys/kernel/printk_ratelimit"},
			ask:   func(c *container.Spec) { c.Security.Privileged, c.Security.Allowed.Privileged = true, true },
			want:  "Seccomp 0\nNoNewPrivs 0\nwrite /proc/sys/kernel/printk_ratelimit: invalid argument",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec := s.one(tt.words...)
			tt.ask(&spec)
			if diff := cmp.Diff(tt.want, s.says(spec)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsWrongIsTold(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.prepare("pod")
	tests := map[string]struct {
		ask  func(*container.Spec)
		want string
	}{
		"no such program":     {func(c *container.Spec) { c.Args = []string{"/missing"} }, "no such file"},
		"no such user":        {func(c *container.Spec) { c.User = "nobody-here" }, `user "nobody-here"`},
		"no such group":       {func(c *container.Spec) { c.User = "redis:none" }, `group "none"`},
		"a user out of range": {func(c *container.Spec) { c.User = "4294967296" }, "out of range"},
		"no program":          {func(c *container.Spec) { c.Args = nil }, "nothing to run"},
		"no root":             {func(c *container.Spec) { c.RootFS = nil }, "no root file system"},
		"a mount in /proc": {func(c *container.Spec) {
			c.Mounts = []container.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/proc/x"}}
		}, "refused by policy"},
		"a capability nobody knows": {func(c *container.Spec) {
			c.Security.AddCapabilities, c.Security.Allowed.Capabilities = []string{"FLY"}, []string{"ALL"}
		}, `capability "FLY"`},
		"a limit that no machine has": {
			func(c *container.Spec) { c.Ulimits = []container.Ulimit{{Name: "nofile", Soft: 1, Hard: 1 << 40}} }, "above the hard limit of this machine",
		},
		"a limit nobody knows": {func(c *container.Spec) { c.Ulimits = []container.Ulimit{{Name: "fun"}} }, `ulimit "fun"`},
		"a name with a slash":  {func(c *container.Spec) { c.ID.Name = "../x" }, "no name for a container"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec := s.one("exit", "0")
			tt.ask(&spec)
			err := s.Start(t.Context(), spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			list, err := s.List(t.Context())
			if err != nil || len(list) != 0 {
				t.Errorf("listed: %v, %v", list, err)
			}
		})
	}
}

// Descriptors that leak into a container are a way out of it.
func TestNoDescriptorLeaks(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("fds", ";", "sleep"))
	s.heard(id, "sleeping")
	check := func(where, text string) {
		t.Helper()
		for line := range strings.Lines(text) {
			if n, to, ok := strings.Cut(strings.TrimSpace(line), " "); ok && n > "2" && n != "sleeping" {
				t.Errorf("%s: descriptor %s is %s", where, n, to)
			}
		}
	}
	s.must(s.Stop(t.Context(), id, time.Minute))
	check("container", strings.Join(s.output(id), "\n"))
	id = s.start(s.one("sleep"))
	var out bytes.Buffer
	if _, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "fds"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	check("exec", out.String())
	out.Reset()
	if _, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "fds"}, Stdout: &out, TTY: true}); err != nil {
		t.Fatal(err)
	}
	check("terminal", out.String())
}
