package runc

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"pgregory.net/rapid"

	"github.com/skein-dev/skein/runtime/container"
)

var update = flag.Bool("update", false, "rewrite golden files")

func plainSpec() container.Spec {
	return container.Spec{
		ID:      container.ID{Pod: "pod", Name: "web"},
		Args:    []string{"/bin/server", "--port", "80"},
		Env:     []string{"PATH=/bin"},
		Cwd:     "/srv",
		Sandbox: container.Sandbox{Pod: "pod", Hostname: "web-1"},
	}
}

func plainFrame() frame {
	return frame{
		Root: "/run/skein/bundles/pod.web.0/rootfs", Cgroup: "/skein/pod/web.0",
		Namespaces: map[string]string{"network": "/run/skein/ns/pod/net", "ipc": "/run/skein/ns/pod/ipc", "uts": "/run/skein/ns/pod/uts"},
		Shm:        "/run/skein/pods/pod/shm",
		Files:      map[string]string{"/etc/hosts": "/run/skein/pods/pod/hosts", "/etc/hostname": "/run/skein/pods/pod/hostname"},
		Caps:       defaultCapabilities, Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno},
		SwapLimit: true, NoFile: 1 << 20, OOMFloor: -1000,
	}
}

func TestMakeSpec(t *testing.T) {
	tests := map[string]func(*container.Spec, *frame){
		"plain": func(*container.Spec, *frame) {},
		"limits": func(c *container.Spec, f *frame) {
			c.Resources = container.Resources{CPUMilli: 500, CPUShares: 250, MemoryBytes: 64 << 20, PIDs: 100, OOMScoreAdj: -500}
			f.OOMFloor, f.NoFile = 0, 20000 // a machine that grants less
		},
		"unified": func(c *container.Spec, f *frame) {
			c.Resources = container.Resources{CPUMilli: 5, CPUShares: 1, MemoryBytes: 64 << 20}
			f.Unified = true
		},
		"host-network": func(c *container.Spec, f *frame) {
			c.Sandbox.HostNetwork = true
			delete(f.Namespaces, "network")
			f.Files["/etc/resolv.conf"] = "/run/skein/pods/pod/resolv.conf"
		},
		"read-only-root": func(c *container.Spec, _ *frame) {
			c.Security.ReadOnlyRoot, c.Security.AllowPrivilegeEscalation = true, true
		},
		"mounts": func(c *container.Spec, _ *frame) {
			c.Mounts = []container.Mount{
				{Type: "bind", Source: "/vol/b", Target: "/data/b/", Options: []string{"bind", "rw"}},
				{Type: "tmpfs", Source: "tmpfs", Target: "/data"},
				{Type: "bind", Source: "/vol/hosts", Target: "/etc/hosts", Options: []string{"bind", "ro"}},
				{Type: "tmpfs", Source: "tmpfs", Target: "/dev/shm", Options: []string{"size=1g"}},
			}
		},
		"volume-at-etc": func(c *container.Spec, _ *frame) {
			c.Mounts = []container.Mount{{Type: "bind", Source: "/vol/etc", Target: "/etc", Options: []string{"bind", "rw"}}}
		},
		"privileged": func(c *container.Spec, f *frame) {
			c.Security.Privileged, c.Security.Allowed.Privileged = true, true
			f.Caps, f.Seccomp = []string{"CAP_SYS_ADMIN"}, nil
			f.Devices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			c, f := plainSpec(), plainFrame()
			change(&c, &f)
			got, err := json.MarshalIndent(makeSpec(c, f), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "spec", name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if err := checkSpec(makeSpec(c, f), c, allCapabilities, []string{"/run/skein/ns"}); err != nil {
				t.Errorf("refused by our own policy: %v", err)
			}
		})
	}
}

func allowDevice(s *specs.Spec, kind string, major, minor int64, access string) {
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access})
}

func TestCheckSpecRefuses(t *testing.T) {
	tests := map[string]struct {
		change func(*specs.Spec)
		want   string
	}{
		"new privileges":                          {func(s *specs.Spec) { s.Process.NoNewPrivileges = false }, "new privileges"},
		"no seccomp":                              {func(s *specs.Spec) { s.Linux.Seccomp = nil }, "seccomp"},
		"a capability more":                       {func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"} }, "CAP_SYS_ADMIN"},
		"an ambient capability more":              {func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_NET_ADMIN"} }, "CAP_NET_ADMIN"},
		"a path unmasked":                         {func(s *specs.Spec) { s.Linux.MaskedPaths = s.Linux.MaskedPaths[1:] }, "not masked"},
		"a path writable":                         {func(s *specs.Spec) { s.Linux.ReadonlyPaths = nil }, "not read-only"},
		"a device of the machine":                 {func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda"}} }, "devices"},
		"all devices":                             {func(s *specs.Spec) { s.Linux.Resources.Devices[0].Allow = true }, "devices"},
		"a shared pid namespace nobody asked for": {func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/run/skein/ns/pod/pid" }, "to be shared"},
		"the machine's IPC":                       {func(s *specs.Spec) { s.Linux.Namespaces = slices.Delete(s.Linux.Namespaces, 3, 4) }, "ipc namespace"},
		"a device that is not mounted":            {func(s *specs.Spec) { allowDevice(s, "c", 10, 229, "rwm") }, "not allowed"},
		"all devices of a driver":                 {func(s *specs.Spec) { allowDevice(s, "c", 10, -1, "rwm") }, "more than one"},
		"devices of every kind":                   {func(s *specs.Spec) { allowDevice(s, "a", 10, 229, "rwm") }, "more than one"},
		"the machine's processes":                 {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "pid namespace"},
		"another's network":                       {func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/net" }, "not the Pod's"},
		"another's network, by dots":              {func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/run/skein/ns/../../proc/1/ns/net" }, "not the Pod's"},
		"another's mounts":                        {func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/run/skein/ns/pod/mnt" }, "not the Pod's"},
		"the machine's network":                   {func(s *specs.Spec) { s.Linux.Namespaces = slices.Delete(s.Linux.Namespaces, 2, 3) }, "network"},
		"a writable /sys":                         {func(s *specs.Spec) { s.Mounts[4].Options = nil }, "could be written"},
		"a mount over /proc/sys":                  {func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys", Type: "tmpfs"}) }, "/proc"},
		"a mount over the root":                   {func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/", Type: "tmpfs"}) }, "mount at"},
		"an AppArmor profile":                     {func(s *specs.Spec) { s.Process.ApparmorProfile = "unconfined" }, "AppArmor"},
		"hooks":                                   {func(s *specs.Spec) { s.Hooks = &specs.Hooks{} }, "hooks"},
		"sysctls of the machine":                  {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"} }, "sysctl"},
		"sysctls with more lines":                 {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.tcp_syncookies": "0\n1"} }, "sysctl"},
		"a working directory in /proc":            {func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/7" }, "/proc"},
		"a working directory with dots":           {func(s *specs.Spec) { s.Process.Cwd = "/srv/../../x" }, "clean"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := plainSpec()
			s := makeSpec(c, plainFrame())
			tt.change(s)
			err := checkSpec(s, c, allCapabilities, []string{"/run/skein/ns"})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Whatever is asked for, unless it is privileges: what comes out passes policy,
// and nobody has more than asked for.
func TestSpecsPassPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, f := plainSpec(), plainFrame()
		names := rapid.SliceOfN(rapid.SampledFrom(append([]string{"ALL", "net_admin", "CAP_CHOWN"}, allCapabilities...)), 0, 4)
		c.Security = container.Security{
			AllowPrivilegeEscalation: rapid.Bool().Draw(t, "escalate"), ReadOnlyRoot: rapid.Bool().Draw(t, "read-only"),
			Unconfined: rapid.Bool().Draw(t, "unconfined"), AddCapabilities: names.Draw(t, "add"), DropCapabilities: names.Draw(t, "drop"),
			Allowed: container.Allowed{Capabilities: []string{"ALL"}},
		}
		c.Cwd = rapid.StringMatching(`[a-z./]{0,12}`).Draw(t, "cwd")
		c.Resources.CPUMilli = rapid.Int64Range(0, 64000).Draw(t, "cpu")
		c.Resources.CPUShares = rapid.Int64Range(0, 1<<40).Draw(t, "shares")
		own := rapid.SliceOfDistinct(rapid.SampledFrom(allCapabilities), rapid.ID).Draw(t, "own")
		var err error
		if f.Caps, err = capabilities(c.Security, own); err != nil {
			t.Fatal(err)
		}
		for _, name := range f.Caps {
			if !slices.Contains(own, name) {
				t.Fatalf("%s given, which the machine has not", name)
			}
			if slices.Contains(c.Security.DropCapabilities, name) {
				t.Fatalf("%s given, which was to be dropped", name)
			}
		}
		if err := checkSpec(makeSpec(c, f), c, own, []string{"/run/skein/ns"}); err != nil && !strings.Contains(err.Error(), "/proc") {
			t.Fatal(err)
		}
	})
}

// Whatever is asked for, and whatever becomes of it on the way: what passes the
// last look has no capability and no privilege that its namespace does not allow.
func TestNothingRunsThatItsNamespaceDoesNotAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, f := plainSpec(), plainFrame()
		bare := func(list []string) []string {
			var out []string
			for _, name := range list {
				out = append(out, strings.TrimPrefix(name, "CAP_"))
			}
			return out
		}
		names := rapid.SliceOfN(rapid.SampledFrom(append([]string{"ALL"}, allCapabilities...)), 0, 3)
		allowed := container.Allowed{
			Privileged: rapid.IntRange(0, 4).Draw(t, "privileged allowed") == 0, Capabilities: bare(names.Draw(t, "allowed")),
		}
		c.Security = container.Security{
			Privileged: rapid.IntRange(0, 4).Draw(t, "privileged") == 0, AddCapabilities: names.Draw(t, "add"),
			DropCapabilities: names.Draw(t, "drop"), Allowed: allowed,
		}
		var err error
		if f.Caps, err = capabilities(c.Security, allCapabilities); err != nil {
			t.Fatal(err)
		}
		s := makeSpec(c, f)
		// Something on the way gives more than was asked for.
		for _, extra := range names.Draw(t, "extra") {
			if extra != "ALL" {
				s.Process.Capabilities.Ambient = append(s.Process.Capabilities.Ambient, extra)
			}
		}
		passes := checkSpec(s, c, allCapabilities, []string{"/run/skein/ns"}) == nil
		if passes && !allowed.Privileged {
			if c.Security.Privileged {
				t.Fatal("a privileged container passes")
			}
			for _, have := range slices.Concat(s.Process.Capabilities.Bounding, s.Process.Capabilities.Ambient) {
				name := strings.TrimPrefix(have, "CAP_")
				if !slices.Contains(container.DefaultCapabilities(), name) && !slices.Contains(allowed.Capabilities, name) && !slices.Contains(allowed.Capabilities, "ALL") {
					t.Fatalf("%s passes, allowed are %v", have, allowed.Capabilities)
				}
			}
		}
		if asked := c.Check() == nil; !asked && passes && len(c.Security.DropCapabilities) == 0 {
			t.Fatalf("%+v passes, but is refused as it is asked for", c.Security)
		}
	})
}

// Nor has what passes the machine's processes, IPC or devices, where its namespace
// does not allow them, or they were not asked for.
func TestNothingOfTheMachinesRunsThatIsNotAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, f := plainSpec(), plainFrame()
		rarely := func(what string) bool { return rapid.IntRange(0, 3).Draw(t, what) == 0 }
		c.Sandbox.HostPIDs, c.Sandbox.HostIPC = rarely("host pids"), rarely("host ipc")
		c.Sandbox.SharePIDs = !c.Sandbox.HostPIDs && rarely("share pids")
		c.Security.Allowed = container.Allowed{Privileged: rarely("privileged allowed"), HostPaths: rarely("host paths allowed")}
		if c.Sandbox.SharePIDs {
			f.Namespaces["pid"] = "/run/skein/ns/pod/pid"
		}
		if c.Sandbox.HostIPC {
			delete(f.Namespaces, "ipc")
		}
		rule := func(minor int64) specs.LinuxDeviceCgroup {
			major := int64(10)
			return specs.LinuxDeviceCgroup{
				Allow: true, Type: rapid.SampledFrom([]string{"c", "b", "a", ""}).Draw(t, "type"), Major: &major, Minor: &minor,
				Access: rapid.SampledFrom([]string{"rwm", "r", "rw"}).Draw(t, "access"),
			}
		}
		mounted := rapid.IntRange(0, 2).Draw(t, "devices")
		for i := range mounted {
			c.Mounts = append(c.Mounts, container.Mount{Type: "bind", Source: "/host/dev", Target: "/dev/x" + string(rune('0'+i)), Device: true})
			f.Grants = append(f.Grants, rule(int64(i)))
		}
		s := makeSpec(c, f)
		if rarely("a namespace less") {
			i := rapid.IntRange(0, len(s.Linux.Namespaces)-1).Draw(t, "which")
			s.Linux.Namespaces = slices.Delete(s.Linux.Namespaces, i, i+1)
		}
		if rarely("a device more") {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, rule(rapid.Int64Range(-1, 300).Draw(t, "minor")))
		}
		if checkSpec(s, c, allCapabilities, []string{"/run/skein/ns"}) != nil {
			return
		}
		have := map[specs.LinuxNamespaceType]string{}
		for _, ns := range s.Linux.Namespaces {
			have[ns.Type] = ns.Path
		}
		machines := c.Security.Allowed.Privileged
		for kind, asked := range map[specs.LinuxNamespaceType]bool{
			specs.PIDNamespace: c.Sandbox.HostPIDs && machines, specs.IPCNamespace: c.Sandbox.HostIPC && machines, specs.MountNamespace: false,
			specs.UTSNamespace: false, specs.NetworkNamespace: false,
		} {
			if _, own := have[kind]; own == asked {
				t.Fatalf("%s namespace of its own: %v", kind, own)
			}
		}
		rules := s.Linux.Resources.Devices[1:]
		if len(rules) > mounted || len(rules) > 0 && !c.Security.Allowed.HostPaths {
			t.Fatalf("%d devices pass, %d are mounted, allowed: %v", len(rules), mounted, c.Security.Allowed.HostPaths)
		}
		for _, r := range rules {
			if r.Type != "c" && r.Type != "b" || *r.Minor < 0 || r.Access == "rw" {
				t.Fatalf("passes: %+v", r)
			}
		}
	})
}

func TestSeccompIsOfTheNativeArchitectureAlone(t *testing.T) {
	var p profiles
	s, err := p.get(defaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]specs.Arch{nativeArch[runtime.GOARCH]}, s.Architectures); diff != "" {
		t.Errorf("architectures (-want +got):\n%s", diff)
	}
	allows := func(s *specs.LinuxSeccomp, call string) bool {
		return slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool {
			return slices.Contains(c.Names, call) && c.Action == specs.ActAllow && len(c.Args) == 0
		})
	}
	if s.DefaultAction != specs.ActErrno || !allows(s, "read") || allows(s, "mount") {
		t.Errorf("default %s, read %v, mount %v", s.DefaultAction, allows(s, "read"), allows(s, "mount"))
	}
	if again, _ := p.get(defaultCapabilities); again != s {
		t.Error("made twice")
	}
	admin, err := p.get(append(slices.Clone(defaultCapabilities), "CAP_SYS_ADMIN"))
	if err != nil || !allows(admin, "mount") {
		t.Errorf("with CAP_SYS_ADMIN: mount %v, %v", allows(admin, "mount"), err)
	}
}
