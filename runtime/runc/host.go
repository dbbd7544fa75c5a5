package runc

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// host is what this machine and this program's rights allow.
type host struct {
	caps     []string // that can be handed on
	noFile   uint64   // highest limit of open files that can be set
	oomFloor int      // lowest oom_score_adj that can be set
	swap     bool     // swap can be limited
	unified  bool     // cgroup v2
	profiles *profiles
}

func measure(groups *cgroups) (host, error) {
	h := host{caps: ownCapabilities(), swap: groups.swap, unified: groups.unified, oomFloor: -1000, profiles: &profiles{}}
	// Both limits bind only whoever lacks this capability. Inside some machines
	// root does.
	if effective, err := hasCapability(unix.CAP_SYS_RESOURCE); err != nil || effective {
		h.noFile = 1 << 20
		return h, err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return h, err
	}
	h.noFile = limit.Max
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
