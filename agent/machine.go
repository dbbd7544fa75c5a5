package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/disk"
)

// machine reads what this machine is and has.
func machine(cfg Config) (node.Machine, error) {
	memory, err := totalMemory()
	if err != nil {
		return node.Machine{}, err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return node.Machine{}, fmt.Errorf("uname: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cfg.DataDir, &fs); err != nil {
		return node.Machine{}, fmt.Errorf("statfs of %s: %w", cfg.DataDir, err)
	}
	return node.Machine{
		CPUMilli:    int64(runtime.NumCPU()) * 1000,
		MemoryBytes: memory,
		DiskBytes:   int64(fs.Blocks) * fs.Bsize, //nolint:gosec // less than 8 EiB
		Pods:        cfg.PodLimit,
		Labels:      cfg.Labels,
		Info: corev1.NodeSystemInfo{
			MachineID:               firstLine("/etc/machine-id"),
			BootID:                  firstLine("/proc/sys/kernel/random/boot_id"),
			KernelVersion:           unix.ByteSliceToString(uts.Release[:]),
			OSImage:                 osName(),
			OperatingSystem:         runtime.GOOS,
			Architecture:            runtime.GOARCH,
			ContainerRuntimeVersion: "runc://" + cfg.RuncVersion,
			KubeletVersion:          cfg.Version,
		},
	}, nil
}

// totalMemory is this machine's memory, or what its cgroup leaves it, in bytes.
func totalMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read the size of memory: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the size of memory: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("read the size of memory: /proc/meminfo does not tell")
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "" // only shown to people
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

func osName() string {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS // only shown to people
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

// ownAddress is the address by which others reach this machine: the one from
// which it would talk to the first machine it joins, else its first one that is
// not its own alone.
func ownAddress(ctx context.Context, join []string) (netip.Addr, error) {
	for _, peer := range join {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", peer) // sends nothing
		if err != nil {
			continue
		}
		local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr() //nolint:forcetypeassert // of a UDP socket
		_ = conn.Close()                                           // nothing was sent
		return local.Unmap(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find this machine's address: %w", err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, &UsageError{Text: "this machine has no address that others could reach", Hint: "name one with --advertise"}
}

// bootEpoch is a number that grows with every start of this agent, also when
// the clock went back meanwhile.
func bootEpoch(dir string, now time.Time) (uint64, error) {
	path := filepath.Join(dir, "epoch")
	last := uint64(0)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if last, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			last = 0 // damaged; the clock will do
		}
	case !errors.Is(err, os.ErrNotExist):
		return 0, err
	}
	epoch := max(last+1, uint64(now.UnixMilli())) //nolint:gosec // after 1970
	return epoch, writeFile(path, []byte(strconv.FormatUint(epoch, 10)))
}

// writeFile replaces a file whole: after a power cut there is the old or the new.
func writeFile(path string, body []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // nothing is left of it once it has its name
	_, err = tmp.Write(body)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// diskUse tells how full the file system of a directory is, in bytes.
func diskUse(dir string) func() (used, total uint64, err error) {
	return func() (uint64, uint64, error) {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return 0, 0, fmt.Errorf("size of %s: %w", dir, err)
		}
		size := uint64(fs.Bsize) //nolint:gosec // a block size
		return (fs.Blocks - fs.Bavail) * size, fs.Blocks * size, nil
	}
}

// Where a node takes no more Pods: as Kubernetes has it, with a little left of
// the disk and of memory.
const (
	diskFull   = 950 // thousandths in use
	memoryFull = 970
)

// pressures names what the machine is short of, or what is wrong with it, by the
// type of the condition that says so.
func (a *Agent) pressures() map[string]string {
	out := pressures(a.sampler.load())
	kinds := map[string]corev1.NodeConditionType{
		disk.Full: corev1.NodeDiskPressure, disk.ReadOnly: object.NodeDiskReadOnly,
		disk.Failing: object.NodeDiskFailing, disk.Slow: object.NodeDiskSlow,
	}
	for kind, why := range a.disk.Troubles() {
		out[string(kinds[kind])] = why
	}
	return out
}

func pressures(load gossip.Load) map[string]string {
	out := map[string]string{}
	if load.Disk >= diskFull {
		out[string(corev1.NodeDiskPressure)] = fmt.Sprintf("%.1f%% of the disk of the data directory is used", float64(load.Disk)/10)
	}
	if load.Memory >= memoryFull {
		out[string(corev1.NodeMemoryPressure)] = fmt.Sprintf("%.1f%% of memory is used", float64(load.Memory)/10)
	}
	return out
}

// machineResolv reads this machine's resolv.conf. One that names only resolvers on
// the machine's own loopback is of no use in another network: there it is the one
// that systemd-resolved asks by, as a kubelet has it.
func machineResolv(own bool) string {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return ""
	}
	if !own && node.OnlyLoopback(string(text)) {
		if other, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			return string(other)
		}
	}
	return string(text)
}
