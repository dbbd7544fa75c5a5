package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/network"
)

// Containers that share processes need a first one that outlives each of them:
// a holder, as Kubernetes' pause. It runs under runc with nothing but its own
// program to see, as nobody, without capabilities, and cannot be read by who
// shares its namespace. When it ends, so do all who share it, and the next start
// makes another.

const (
	holderUser = 65535
	holderPIDs = 64 // threads; it starts no process
	holderPath = "/" + keeper.HoldVerb
)

func holderID(pod string) string { return pod + ".holder" }

func (d *Driver) holderCgroup(pod string) string { return filepath.Join(d.podCgroup(pod), "holder") }

func (d *Driver) holderBundle(pod string) string { return filepath.Join(d.shared(pod), "holder") }

// holderRoot is the root of all holders. It is in a file system of the driver's
// own: many a machine lets nobody execute what is in its /run.
func (d *Driver) holderRoot() string { return filepath.Join(d.cfg.RunDir, "hold", "root") }

// holder is a Pod's, if it lives and the Pod's namespace is its own.
func (d *Driver) holder(pod string) (process, bool) {
	var p process
	if err := readJSON(filepath.Join(d.podDir(pod), holderFile), &p); err != nil {
		return p, false
	}
	stat, err := p.key().Stat()
	return p, err == nil && stat.State != 'Z' && d.pins.Same(pod, network.PID, pidNamespace(p.PID))
}

func pidNamespace(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/pid" }

// hold sees to it that a Pod whose containers share processes has a holder.
func (d *Driver) hold(ctx context.Context, pod string) error {
	if _, ok := d.holder(pod); ok {
		return nil
	}
	defer d.pods.lock(pod)()
	s, err := d.sandbox(pod)
	if err != nil {
		return err
	}
	if _, ok := d.holder(pod); ok {
		return nil
	}
	if err := d.startHolder(ctx, s); err != nil {
		return errors.Join(fmt.Errorf("hold the processes of %s together: %w", pod, err), d.removeHolder(pod))
	}
	return nil
}

func (d *Driver) startHolder(ctx context.Context, s container.Sandbox) error {
	if err := d.removeHolder(s.Pod); err != nil {
		return err
	}
	if err := d.makeHolderRoot(); err != nil {
		return err
	}
	bundle := d.holderBundle(s.Pod)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return err
	}
	oci, err := d.holderSpec(s)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(bundle, "config.json"), oci, keeper.WriteAside); err != nil {
		return err
	}
	d.cfg.step("holder")
	ctx, cancel := context.WithTimeout(ctx, undoPatience)
	defer cancel()
	if err := d.runc(ctx, filepath.Join(bundle, "runc.log"), [3]*os.File{}, "run", "--detach", "--bundle", bundle, holderID(s.Pod)); err != nil {
		return err
	}
	d.cfg.step("held")
	p, err := d.started(holderID(s.Pod))
	if err != nil {
		return err
	}
	if err := d.pins.Pin(s.Pod, network.PID, pidNamespace(p.PID)); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(d.podDir(s.Pod), holderFile), p, keeper.WriteAside); err != nil {
		return err
	}
	if _, ok := d.holder(s.Pod); !ok {
		return errors.New("it ended at once")
	}
	return nil
}

// makeHolderRoot writes the program, which can be executed and not be read: so
// no process of the same user looks into it.
func (d *Driver) makeHolderRoot() error {
	if d.cfg.Holder == nil {
		return errors.New("this machine has no program to do so")
	}
	path := filepath.Join(d.holderRoot(), holderPath)
	if _, err := os.Stat(path); err == nil && d.holderMade.Load() {
		return nil
	}
	for _, dir := range []string{"", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(d.holderRoot(), dir), 0o755); err != nil { //nolint:gosec // in a folder of root's
			return err
		}
	}
	program, err := d.cfg.Holder()
	if err != nil {
		return err
	}
	if err := keeper.WriteAside(path, program); err != nil { // one that runs keeps its own
		return err
	}
	d.holderMade.Store(true)
	return os.Chmod(path, 0o111) //nolint:gosec // for nobody to read
}

func (d *Driver) holderSpec(s container.Sandbox) (*specs.Spec, error) {
	filter, err := d.host.profiles.get(nil)
	if err != nil {
		return nil, err
	}
	oom, threads := max(-998, d.host.oomFloor), int64(holderPIDs)
	out := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: d.holderRoot(), Readonly: true},
		Process: &specs.Process{
			User: specs.User{UID: holderUser, GID: holderUser}, Args: []string{holderPath, keeper.HoldVerb}, Cwd: "/",
			Env:          []string{"GOMAXPROCS=1"},
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true, OOMScoreAdj: &oom,
			Scheduler: &specs.Scheduler{Policy: specs.SchedOther},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "size=64k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: d.holderCgroup(s.Pod),
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, Pids: &specs.LinuxPids{Limit: &threads}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace, Path: d.pins.Path(s.Pod, network.IPC)},
				{Type: specs.UTSNamespace, Path: d.pins.Path(s.Pod, network.UTS)},
			},
			Seccomp: filter, MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
		},
	}
	net := specs.LinuxNamespace{Type: specs.NetworkNamespace} // one of its own, where the Pod has the machine's
	if !s.HostNetwork {
		net.Path = d.pins.Path(s.Pod, network.Net)
	}
	out.Linux.Namespaces = append(out.Linux.Namespaces, net)
	if d.host.unified {
		out.Linux.Namespaces = append(out.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out, nil
}

// removeHolder ends what holds a Pod's processes together, and with it all that
// is left of those, from whatever point a start was broken off at.
func (d *Driver) removeHolder(pod string) error {
	d.endRunc(holderID(pod), d.holderBundle(pod))
	d.groups.kill(d.holderCgroup(pod))
	return errors.Join(
		d.groups.remove(d.holderCgroup(pod)), os.RemoveAll(filepath.Join(d.runcRoot(), holderID(pod))), os.RemoveAll(d.holderBundle(pod)),
		ignoreMissing(os.Remove(filepath.Join(d.podDir(pod), holderFile))),
	)
}

// shareProcesses tells whether the containers of a Pod have no namespace of
// processes each: then the end of one's first process does not end the others.
func (d *Driver) shareProcesses(pod string) bool {
	s, err := d.sandbox(pod)
	return err == nil && (s.SharePIDs || s.HostPIDs)
}

// noted lists the programs that agents have run inside containers, by pid.
func (d *Driver) noted() map[int]bool {
	out := map[int]bool{}
	files, _ := filepath.Glob(filepath.Join(d.cfg.RunDir, "exec", "*", "pid"))
	for _, f := range files {
		if pid, err := keeper.ReadPID(f); err == nil {
			out[pid] = true
		}
	}
	return out
}

// hostShm is where the machine shares memory.
const hostShm = "/dev/shm"
