package runc

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// host is what this machine and this program's rights allow.
type host struct {
	caps     []string          // that can be handed on
	limits   map[string]uint64 // highest limits of processes that can be set
	oomFloor int               // lowest oom_score_adj that can be set
	swap     bool              // swap can be limited
	unified  bool              // cgroup v2
	profiles *profiles
	users    error // why no Pod can have users of its own; nil: it can
}

func measure(groups *cgroups) (host, error) {
	h := host{caps: ownCapabilities(), swap: groups.swap, unified: groups.unified, oomFloor: -1000, profiles: &profiles{}}
	// Both limits bind only whoever lacks this capability. Inside some machines
	// root does.
	effective, err := hasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return h, err
	}
	if h.limits, err = limits(effective); err != nil || effective {
		return h, err
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return h, err
	}
	h.oomFloor, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return h, err
}

func hasCapability(n int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, err
	}
	return data[n/32].Effective&(1<<(n%32)) != 0, nil
}

// grants are the rules by which a container may use the devices that it mounts,
// each exactly, and no other of their kind.
func grants(mounts []container.Mount) ([]specs.LinuxDeviceCgroup, error) {
	var out []specs.LinuxDeviceCgroup
	for _, m := range mounts {
		if !m.Device {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(m.Source, &st); err != nil {
			return nil, &fs.PathError{Op: "stat device", Path: m.Source, Err: err}
		}
		rule := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			rule.Type = "c"
		case unix.S_IFBLK:
			rule.Type = "b"
		default:
			return nil, fmt.Errorf("what is mounted at %s is no device", m.Target)
		}
		major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		rule.Major, rule.Minor = &major, &minor
		if slices.Contains(m.Options, "ro") {
			rule.Access = "r" // a mount that cannot be written does not keep anybody from writing to a device
		}
		out = append(out, rule)
	}
	return out, nil
}

// devices lists the machine's, for a privileged container. What is made for
// each container anew is left out.
func devices() ([]specs.LinuxDevice, error) {
	own := []string{"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx", "/dev/.lxc", "/dev/.udev"}
	var out []specs.LinuxDevice
	err := filepath.WalkDir("/dev", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // devices come and go
		}
		if slices.Contains(own, path) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil //nolint:nilerr // as above
		}
		kind := "b"
		if e.Type()&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		mode := os.FileMode(st.Mode & 0o7777)
		out = append(out, specs.LinuxDevice{
			Path: path, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		})
		return nil
	})
	return out, err
}
