package runc

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// defaultCapabilities are those of container.DefaultCapabilities, as the kernel
// names them.
var defaultCapabilities = func() []string {
	out := container.DefaultCapabilities()
	for i := range out {
		out[i] = "CAP_" + out[i]
	}
	return out
}()

// allCapabilities are those of the kernel's that have a name here, by number.
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// maskedPaths are hidden and readonlyPaths protected as Docker does it, and
// the folder of v1's hierarchies, in which runc leaves room to write.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup"}
)

// capabilities computes what a container may have. own is what this machine
// has to give.
func capabilities(s container.Security, own []string) ([]string, error) {
	if s.Privileged {
		return own, nil
	}
	set := map[string]bool{}
	for _, c := range defaultCapabilities {
		set[c] = true
	}
	for _, name := range s.DropCapabilities {
		if strings.EqualFold(name, "ALL") {
			clear(set)
		}
	}
	for _, name := range s.AddCapabilities {
		if strings.EqualFold(name, "ALL") {
			for _, c := range own {
				set[c] = true
			}
			continue
		}
		c, err := capability(name)
		if err != nil {
			return nil, err
		}
		set[c] = true
	}
	for _, name := range s.DropCapabilities {
		if strings.EqualFold(name, "ALL") {
			continue
		}
		c, err := capability(name)
		if err != nil {
			return nil, err
		}
		delete(set, c)
	}
	var out []string
	for c := range set {
		if slices.Contains(own, c) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out, nil
}

func capability(name string) (string, error) {
	c := strings.ToUpper(name)
	if !strings.HasPrefix(c, "CAP_") {
		c = "CAP_" + c
	}
	if !slices.Contains(allCapabilities, c) {
		return "", fmt.Errorf("unknown capability %q", name)
	}
	return c, nil
}

// ownCapabilities are those that this program can hand on.
func ownCapabilities() []string {
	var out []string
	for n, c := range allCapabilities {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil && has == 1 {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// profiles keeps seccomp profiles by capabilities, of which they depend: almost
// every container has the default ones, and making one costs as much as the
// rest of a spec.
type profiles struct {
	mu    sync.Mutex
	known map[string]*specs.LinuxSeccomp
}

// maxProfiles bounds what is kept. Beyond it a profile is made for each start.
const maxProfiles = 16

// get gives Docker's profile for the native architecture. With its foreign
// ones, which no container here needs, compiling it takes 25 ms of every start.
func (p *profiles) get(caps []string) (*specs.LinuxSeccomp, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := strings.Join(caps, " ")
	if s := p.known[key]; s != nil {
		return s, nil
	}
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
	s, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("make the seccomp profile: %w", err)
	}
	if native, ok := nativeArch[runtime.GOARCH]; ok {
		s.Architectures = []specs.Arch{native}
	}
	if p.known == nil {
		p.known = map[string]*specs.LinuxSeccomp{}
	}
	if len(p.known) < maxProfiles {
		p.known[key] = s
	}
	return s, nil
}

var nativeArch = map[string]specs.Arch{
	"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64, "riscv64": specs.ArchRISCV64,
	"ppc64le": specs.ArchPPC64LE, "s390x": specs.ArchS390X, "loong64": specs.ArchLOONGARCH64,
}
