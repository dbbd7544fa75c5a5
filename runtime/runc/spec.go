package runc

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skein-dev/skein/runtime/container"
)

// A frame is what a container's OCI spec depends on besides the wish for it:
// the machine and the places we have made. With it the spec is a pure function.
type frame struct {
	Root       string            // of the file system, on this machine
	Cgroup     string            // absolute, below every hierarchy
	Namespaces map[string]string // "network", "ipc", "uts", "pid": path; missing: the machine's own, or for pid a new one
	Shm        string            // the Pod's /dev/shm on this machine
	Files      map[string]string // of the Pod, by path in the container: hosts, hostname, resolv.conf
	Message    string            // the file on this machine for the container's last message; empty: none
	User       specs.User        // looked up in the image
	Users      uint32            // the first of the Pod's own users; 0: it has none
	Caps       []string          // after policy
	Seccomp    *specs.LinuxSeccomp
	Devices    []specs.LinuxDevice       // of the machine, for the privileged
	Grants     []specs.LinuxDeviceCgroup // devices that are mounted, for the others
	Unified    bool                      // cgroup v2
	SwapLimit  bool                      // this kernel can limit swap
	NoFile     uint64                    // highest limit of open files that we can give
	OOMFloor   int                       // lowest oom_score_adj that we can give
}

const (
	cpuPeriod   = 100_000 // µs
	minCPUQuota = 1_000   // µs, the kernel's
	minShares   = 2       // the kernel's
	maxShares   = 262144  // the kernel's
	nofile      = 1 << 20
)

// makeSpec says in OCI's words what a container is to be.
func makeSpec(c container.Spec, f frame) *specs.Spec {
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: f.Root, Readonly: c.Security.ReadOnlyRoot},
		Process: makeProcess(c, f),
		Mounts:  makeMounts(c, f),
		Linux: &specs.Linux{
			CgroupsPath: f.Cgroup,
			Resources:   makeResources(c, f),
			Namespaces:  makeNamespaces(c, f),
			Devices:     f.Devices,
			Seccomp:     f.Seccomp,
			Sysctl:      c.Sysctls,
		},
	}
	if !c.Security.Privileged {
		s.Linux.MaskedPaths = maskedPaths
		s.Linux.ReadonlyPaths = readonlyPaths
	}
	return s
}

func makeProcess(c container.Spec, f frame) *specs.Process {
	oom := max(c.Resources.OOMScoreAdj, f.OOMFloor)
	files := min(uint64(nofile), f.NoFile)
	cwd := c.Cwd
	if cwd == "" {
		cwd = "/"
	}
	env := c.Env
	if c.TTY && !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "TERM=") }) {
		env = append(slices.Clone(env), "TERM=xterm")
	}
	return &specs.Process{
		User: f.User,
		Args: c.Args,
		Env:  env,
		Cwd:  path.Clean("/" + cwd),

		Terminal: c.TTY,
		Capabilities: &specs.LinuxCapabilities{
			Bounding: f.Caps, Effective: f.Caps, Permitted: f.Caps,
		},
		Rlimits:         makeRlimits(c.Ulimits, files),
		NoNewPrivileges: !c.Security.Privileged && !c.Security.AllowPrivilegeEscalation,
		OOMScoreAdj:     &oom,
		Scheduler:       &specs.Scheduler{Policy: specs.SchedOther}, // not the agent's own priority
	}
}

func makeNamespaces(c container.Spec, f frame) []specs.LinuxNamespace {
	var out []specs.LinuxNamespace
	if !c.Sandbox.HostPIDs {
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: f.Namespaces["pid"]})
	}
	out = append(out, specs.LinuxNamespace{Type: specs.MountNamespace})
	for _, kind := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if at := f.Namespaces[string(kind)]; at != "" {
			out = append(out, specs.LinuxNamespace{Type: kind, Path: at})
		}
	}
	if f.Unified {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}

func makeMounts(c container.Spec, f frame) []specs.Mount {
	access := "ro"
	if c.Security.Privileged {
		access = "rw"
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
		{Destination: "/dev/shm", Type: "bind", Source: f.Shm, Options: []string{"bind", "nosuid", "noexec", "nodev"}},
	}
	wished := map[string]bool{}
	for _, m := range c.Mounts {
		wished[path.Clean("/"+m.Target)] = true
	}
	out = slices.DeleteFunc(out, func(m specs.Mount) bool { return wished[m.Destination] })
	rest := make([]specs.Mount, 0, len(c.Mounts)+len(f.Files)+1)
	for _, m := range c.Mounts {
		rest = append(rest, specs.Mount{Destination: path.Clean("/" + m.Target), Type: m.Type, Source: m.Source, Options: m.Options})
	}
	// The Pod's own files are there in a volume over their folder too, as
	// Kubernetes has it, unless the container mounts that very path.
	for _, at := range slices.Sorted(maps.Keys(f.Files)) {
		if !wished[at] {
			rest = append(rest, specs.Mount{Destination: at, Type: "bind", Source: f.Files[at], Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
		}
	}
	if at := path.Clean("/" + c.MessagePath); f.Message != "" && !wished[at] {
		rest = append(rest, specs.Mount{Destination: at, Type: "bind", Source: f.Message, Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"}})
	}
	// Outer before inner, else the outer one would hide what it holds.
	slices.SortStableFunc(rest, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return append(out, rest...)
}

func makeResources(c container.Spec, f frame) *specs.LinuxResources {
	r := &specs.LinuxResources{
		// runc adds the devices that every container has.
		Devices: append([]specs.LinuxDeviceCgroup{{Allow: c.Security.Privileged, Access: "rwm"}}, f.Grants...),
	}
	if n := c.Resources.MemoryBytes; n > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &n}
		if f.SwapLimit {
			r.Memory.Swap = &n // memory and swap together: none of it swap
		}
		if f.Unified {
			// Of a container that is out of memory nothing is left half alive.
			r.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	if n := c.Resources.CPUMilli; n > 0 {
		period := uint64(cpuPeriod)
		quota := max(n*cpuPeriod/1000, minCPUQuota)
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if n := c.Resources.CPUShares; n > 0 {
		shares := uint64(min(max(n*1024/1000, minShares), maxShares)) //nolint:gosec // positive
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		r.CPU.Shares = &shares
	}
	if n := c.Resources.PIDs; n > 0 {
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
	return r
}

// checkSpec is the last look at what will run: policy is held against the final
// spec, not against the wish, so that nothing can get in on the way.
func checkSpec(s *specs.Spec, c container.Spec, own []string, places []string) error {
	p := s.Process
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return fmt.Errorf("nothing to run")
	case !path.IsAbs(p.Cwd) || path.Clean(p.Cwd) != p.Cwd:
		return fmt.Errorf("working directory %q is not a clean absolute path", p.Cwd)
	case strings.HasPrefix(p.Cwd+"/", "/proc/"):
		return fmt.Errorf("working directory %q is in /proc", p.Cwd)
	case s.Hooks != nil:
		return fmt.Errorf("hooks are not allowed")
	case p.ApparmorProfile != "" || p.SelinuxLabel != "":
		return fmt.Errorf("a profile of AppArmor or a label of SELinux that nobody asked for")
	}
	if err := checkSysctls(s.Linux.Sysctl, c.Sandbox); err != nil {
		return err
	}
	if err := checkNamespaces(s, c, places); err != nil {
		return err
	}
	if err := checkMounts(s, c.Security.Privileged); err != nil {
		return err
	}
	if err := checkDevices(s, c); err != nil {
		return err
	}
	if c.Security.Privileged {
		if !c.Security.Allowed.Privileged {
			return fmt.Errorf("a privileged container: %w", container.ErrNotAllowed)
		}
		return nil
	}
	return checkConfined(s, c.Security, own)
}

// safeSysctls belong to the Pod's own namespaces, and can harm nobody else.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}

// SafeSysctls lists the settings that a Spec may have.
func SafeSysctls() []string { return slices.Clone(safeSysctls) }

func checkSysctls(set map[string]string, sandbox container.Sandbox) error {
	for name, value := range set {
		switch {
		case !slices.Contains(safeSysctls, name):
			return fmt.Errorf("sysctl %q is not allowed", name)
		case sandbox.HostNetwork && strings.HasPrefix(name, "net."), sandbox.HostIPC && strings.HasPrefix(name, "kernel.shm"):
			return fmt.Errorf("sysctl %q would be the machine's", name)
		case strings.ContainsAny(value, "\n\x00"):
			return fmt.Errorf("sysctl %q: %q is no value", name, value)
		}
	}
	return nil
}

func checkNamespaces(s *specs.Spec, c container.Spec, places []string) error {
	have := map[specs.LinuxNamespaceType]string{}
	for _, ns := range s.Linux.Namespaces {
		have[ns.Type] = ns.Path
	}
	machine := map[specs.LinuxNamespaceType]bool{
		specs.PIDNamespace: c.Sandbox.HostPIDs && c.Security.Allowed.Privileged, specs.IPCNamespace: c.Sandbox.HostIPC && c.Security.Allowed.Privileged,
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if _, ok := have[kind]; ok == machine[kind] {
			return fmt.Errorf("%s namespace of its own: %v, of the machine: %v", kind, ok, machine[kind])
		}
	}
	if _, ok := have[specs.UserNamespace]; ok != c.Sandbox.Users {
		return fmt.Errorf("users of its own: %v, wanted: %v", ok, c.Sandbox.Users)
	}
	if _, ok := have[specs.NetworkNamespace]; ok == c.Sandbox.HostNetwork {
		return fmt.Errorf("network namespace: %v, host network: %v", ok, c.Sandbox.HostNetwork)
	}
	if have[specs.PIDNamespace] != "" != c.Sandbox.SharePIDs {
		return fmt.Errorf("pid namespace %q, to be shared: %v", have[specs.PIDNamespace], c.Sandbox.SharePIDs)
	}
	for kind, at := range have {
		ours := slices.ContainsFunc(places, func(place string) bool { return strings.HasPrefix(at, place+"/") })
		joined := kind == specs.UserNamespace || kind == specs.PIDNamespace || kind == specs.NetworkNamespace || kind == specs.IPCNamespace || kind == specs.UTSNamespace
		if at != "" && (!joined || !ours || path.Clean(at) != at) {
			return fmt.Errorf("%s namespace %s is not the Pod's", kind, at)
		}
	}
	return nil
}

// checkMounts refuses mounts over or inside /proc, over which runc's guard of
// masked paths could be turned aside.
func checkMounts(s *specs.Spec, privileged bool) error {
	for _, m := range s.Mounts {
		switch {
		case !path.IsAbs(m.Destination) || path.Clean(m.Destination) != m.Destination || m.Destination == "/":
			return fmt.Errorf("mount at %q", m.Destination)
		case m.Destination == "/proc" && m.Type == "proc":
		case privileged:
		case strings.HasPrefix(m.Destination+"/", "/proc/"):
			return fmt.Errorf("mount at %s, in /proc", m.Destination)
		case m.Type == "sysfs" && !slices.Contains(m.Options, "ro"), m.Type == "cgroup" && !slices.Contains(m.Options, "ro"):
			return fmt.Errorf("%s could be written", m.Destination)
		}
	}
	return nil
}

func checkConfined(s *specs.Spec, sec container.Security, own []string) error {
	if !s.Process.NoNewPrivileges && !sec.AllowPrivilegeEscalation {
		return fmt.Errorf("new privileges are not ruled out")
	}
	if s.Linux.Seccomp == nil && (!sec.Unconfined || sec.SeccompProfile != "") {
		return fmt.Errorf("no seccomp profile")
	}
	allowed, err := capabilities(sec, own)
	if err != nil {
		return err
	}
	caps := s.Process.Capabilities
	for _, set := range [][]string{caps.Bounding, caps.Effective, caps.Permitted, caps.Inheritable, caps.Ambient} {
		for _, c := range set {
			if !slices.Contains(allowed, c) {
				return fmt.Errorf("capability %s was not asked for", c)
			}
			if !sec.Allowed.Capability(c) {
				return fmt.Errorf("capability %s: %w", c, container.ErrNotAllowed)
			}
		}
	}
	for _, at := range maskedPaths {
		if !slices.Contains(s.Linux.MaskedPaths, at) {
			return fmt.Errorf("%s is not masked", at)
		}
	}
	for _, at := range readonlyPaths {
		if !slices.Contains(s.Linux.ReadonlyPaths, at) {
			return fmt.Errorf("%s is not read-only", at)
		}
	}
	return nil
}

// checkDevices lets a container use no device but those that it mounts, by number.
func checkDevices(s *specs.Spec, c container.Spec) error {
	if c.Security.Privileged {
		return nil
	}
	d := s.Linux.Resources.Devices
	if len(s.Linux.Devices) > 0 || len(d) == 0 || d[0].Allow || d[0].Type != "" || d[0].Major != nil || d[0].Minor != nil || d[0].Access != "rwm" {
		return fmt.Errorf("devices of the machine are not allowed")
	}
	mounted := 0
	for _, m := range c.Mounts {
		if m.Device {
			mounted++
		}
	}
	for _, rule := range d[1:] {
		one := (rule.Type == "c" || rule.Type == "b") && rule.Major != nil && *rule.Major >= 0 && rule.Minor != nil && *rule.Minor >= 0
		switch {
		case !rule.Allow:
		case !one || rule.Access != "rwm" && rule.Access != "r":
			return fmt.Errorf("devices %q %q are more than one that is mounted", rule.Type, rule.Access)
		case !c.Security.Allowed.HostPaths:
			return fmt.Errorf("a device of the machine: %w", container.ErrNotAllowed)
		case mounted == 0:
			return fmt.Errorf("device %s %d:%d is not mounted", rule.Type, *rule.Major, *rule.Minor)
		}
		mounted--
	}
	return nil
}
