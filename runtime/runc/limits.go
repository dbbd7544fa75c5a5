package runc

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// resources are the limits of processes that have a name, as docker's, and their
// numbers.
var resources = map[string]int{
	"core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS,
	"memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// UlimitNames lists the limits that a Spec may have.
func UlimitNames() []string {
	out := make([]string, 0, len(resources))
	for name := range resources {
		out = append(out, name)
	}
	return out
}

// limits are the highest that this program can give, by name: those of its own,
// unless it may raise them. Nobody opens more files than the kernel has room for.
func limits(mayRaise bool) (map[string]uint64, error) {
	out := map[string]uint64{}
	for name, number := range resources {
		out[name] = container.Unlimited
		if mayRaise {
			continue
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(number, &own); err != nil {
			return nil, fmt.Errorf("read the limit %s: %w", name, err)
		}
		out[name] = own.Max
	}
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return nil, err
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read /proc/sys/fs/nr_open: %w", err)
	}
	out["nofile"] = min(out["nofile"], most)
	return out, nil
}

// checkUlimits refuses what this machine cannot give, or does not know.
func checkUlimits(list []container.Ulimit, most map[string]uint64) error {
	for _, u := range list {
		top, known := most[u.Name]
		switch {
		case !known:
			return fmt.Errorf("ulimit %q is not known", u.Name)
		case u.Soft > u.Hard:
			return fmt.Errorf("ulimit %s: %d is above %d", u.Name, u.Soft, u.Hard)
		case u.Hard > top:
			return fmt.Errorf("ulimit %s of %s is above the hard limit of this machine, %s", u.Name, limitText(u.Hard), limitText(top))
		}
	}
	return nil
}

func limitText(n uint64) string {
	if n == container.Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// makeRlimits gives what is asked for, and a limit on open files in any case: a
// million, as docker's users know it, or what the machine can give.
func makeRlimits(list []container.Ulimit, files uint64) []specs.POSIXRlimit {
	out := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files, Soft: files}}
	for _, u := range list {
		r := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Hard: u.Hard, Soft: u.Soft}
		if u.Name == "nofile" {
			out[0] = r
			continue
		}
		out = append(out, r)
	}
	return out
}
