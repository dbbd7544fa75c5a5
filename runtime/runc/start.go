package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/network"
)

const (
	keeperPatience = 5 * time.Second  // for the keeper to open a container's output
	undoPatience   = 10 * time.Second // for what is undone after ctx has ended
)

// Start runs a container in its Pod's sandbox and returns once its process
// runs.
func (d *Driver) Start(ctx context.Context, spec container.Spec) (err error) {
	if err := checkID(spec.ID); err != nil {
		return err
	}
	spec.Sandbox.Pod = spec.ID.Pod
	if s, err := d.sandbox(spec.ID.Pod); err == nil && s.SharePIDs && d.box(spec.ID) == nil {
		if err := d.hold(ctx, spec.ID.Pod); err != nil {
			return fmt.Errorf("start %s: %w", spec.ID, err)
		}
	}
	defer d.pods.share(spec.ID.Pod)()
	defer d.ids.lock(spec.ID)()
	if d.box(spec.ID) != nil {
		return nil
	}
	sandbox, err := d.sandbox(spec.ID.Pod)
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	spec.Sandbox = sandbox
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start %s: %w", spec.ID, err), d.undo(spec.ID))
		}
	}()
	if err := d.clear(spec.ID); err != nil { // of a start that was broken off
		return err
	}
	return d.start(ctx, spec)
}

// undo takes back a start that failed.
func (d *Driver) undo(id container.ID) error {
	return errors.Join(d.clear(id), os.RemoveAll(d.boxDir(id)))
}

func (d *Driver) start(ctx context.Context, spec container.Spec) error {
	id := spec.ID
	if err := os.MkdirAll(d.boxDir(id), 0o700); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(d.boxDir(id), specFile), written(spec), keeper.WriteAside); err != nil {
		return err
	}
	d.cfg.step("spec")
	// The keeper opens the output while we do the rest.
	if (spec.TTY || spec.Stdin) && !d.keeper.Can(keeper.FeatureInput) {
		return fmt.Errorf("standard input and terminals: %w", container.ErrOldKeeper)
	}
	streams, err := d.keeper.OpenLog(id.String(), keeper.LogOptions{Limit: spec.LogLimit, Input: spec.Stdin, Terminal: spec.TTY})
	if err != nil {
		return fmt.Errorf("make the output: %w", err)
	}
	defer streams.Close()
	if base := d.usersOf(id.Pod); base > 0 {
		// For root inside to hand on: programs open their own output anew.
		for _, f := range streams {
			if f != nil {
				if err := f.Chown(int(base), int(base)); err != nil {
					return err
				}
			}
		}
	}
	d.cfg.step("output")
	if err := os.MkdirAll(d.rootfs(id), 0o700); err != nil {
		return err
	}
	if err := d.mountRoot(spec); err != nil {
		return err
	}
	d.cfg.step("root")
	if spec.MessagePath != "" {
		if err := d.makeMessage(id); err != nil {
			return fmt.Errorf("make the file for a last message: %w", err)
		}
	}
	d.cfg.step("message")
	volumes, err := d.makeVolumes(spec)
	if err != nil {
		return err
	}
	spec.Mounts = append(slices.Clone(spec.Mounts), volumes...)
	d.cfg.step("volumes")
	oci, err := d.ociSpec(spec)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(d.bundle(id), "config.json"), oci, keeper.WriteAside); err != nil {
		return err
	}
	if err := d.awaitKeeper(ctx, id); err != nil {
		return err
	}
	d.cfg.step("bundle")
	if err := d.launch(ctx, id, streams, spec.TTY); err != nil {
		return err
	}
	d.cfg.step("run")
	b, err := d.found(id, spec.Labels)
	if err != nil {
		return err
	}
	d.put(b)
	return nil
}

// mountRoot mounts a container's root file system, for the users that its Pod has.
func (d *Driver) mountRoot(spec container.Spec) error {
	id := spec.ID
	if !spec.Sandbox.Users {
		return mountAll(spec.RootFS, d.rootfs(id))
	}
	users, err := os.Open(d.pins.Path(id.Pod, network.User))
	if err != nil {
		return err
	}
	defer users.Close()
	if err := mountMapped(spec.RootFS, d.rootfs(id), filepath.Join(d.bundle(id), "layers"), users, d.usersOf(id.Pod)); err != nil {
		return err
	}
	d.cfg.step("mapped")
	return d.showRoot(id)
}

func (d *Driver) awaitKeeper(ctx context.Context, id container.ID) error {
	ctx, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	if err := d.keeper.AwaitLog(ctx, id.String()); err != nil {
		return fmt.Errorf("wait for the keeper to open the output: %w", err)
	}
	return nil
}

// launch runs runc, so many at once.
func (d *Driver) launch(ctx context.Context, id container.ID, streams keeper.Streams, tty bool) error {
	select {
	case d.starts <- struct{}{}:
		defer func() { <-d.starts }()
	case <-ctx.Done():
		return ctx.Err()
	}
	args := []string{"run", "--detach", "--bundle", d.bundle(id)}
	if tty {
		dir, err := os.Open(d.keeper.LogDir(id.String()))
		if err != nil {
			return err
		}
		defer dir.Close()
		// The keeper takes the terminal; see launchTerminal for the path.
		args = append(args, "--console-socket", fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), dir.Fd(), keeper.Console))
	}
	return d.runc(ctx, filepath.Join(d.bundle(id), "runc.log"), streams, append(args, id.String())...)
}

// ociSpec makes the final spec of a container whose root is mounted.
func (d *Driver) ociSpec(spec container.Spec) (*specs.Spec, error) {
	id := spec.ID
	f := frame{
		Root: d.rootfs(id), Cgroup: d.cgroup(id), Shm: filepath.Join(d.shared(id.Pod), "shm"), Files: mountable(d.podFiles(spec.Sandbox), spec.Mounts),
		Namespaces: map[string]string{"ipc": d.pins.Path(id.Pod, network.IPC), "uts": d.pins.Path(id.Pod, network.UTS)},
		Unified:    d.host.unified, SwapLimit: d.host.swap, NoFile: d.host.limits["nofile"], OOMFloor: d.host.oomFloor,
	}
	if spec.MessagePath != "" {
		f.Message = filepath.Join(d.messageDir(id), messageFile)
	}
	if !spec.Sandbox.HostNetwork {
		f.Namespaces["network"] = d.pins.Path(id.Pod, network.Net)
	}
	if spec.Sandbox.SharePIDs {
		f.Namespaces["pid"] = d.pins.Path(id.Pod, network.PID)
	}
	if spec.Sandbox.HostIPC {
		delete(f.Namespaces, "ipc")
		f.Shm = hostShm
	}
	if spec.Sandbox.Users {
		f.Root, f.Users = d.shownRoot(id), d.usersOf(id.Pod)
		f.Namespaces["user"] = d.pins.Path(id.Pod, network.User)
	}
	err := spec.Check()
	if err != nil {
		return nil, err
	}
	if err := checkUlimits(spec.Ulimits, d.host.limits); err != nil {
		return nil, err
	}
	if f.User, err = lookupUser(f.Root, spec.User, spec.Groups); err != nil {
		return nil, err
	}
	if f.Caps, err = capabilities(spec.Security, d.host.caps); err != nil {
		return nil, err
	}
	switch {
	case spec.Security.Privileged:
		if f.Devices, err = devices(); err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
	case spec.Security.SeccompProfile != "":
		if f.Seccomp, err = localProfile(d.cfg.SeccompDir, spec.Security.SeccompProfile, f.Caps); err != nil {
			return nil, err
		}
	case !spec.Security.Unconfined:
		if f.Seccomp, err = d.host.profiles.get(f.Caps); err != nil {
			return nil, err
		}
	}
	if !spec.Security.Privileged {
		if f.Grants, err = grants(spec.Mounts); err != nil {
			return nil, err
		}
	}
	oci := makeSpec(spec, f)
	if f.Users > 0 {
		mapVolumes(oci, spec, f.Users, d.volumesDir(id))
	}
	if err := checkSpec(oci, spec, d.host.caps, []string{filepath.Join(d.cfg.RunDir, "ns")}); err != nil {
		return nil, fmt.Errorf("refused by policy: %w", err)
	}
	if err := d.checkSources(oci, spec); err != nil {
		return nil, fmt.Errorf("refused by policy: %w", err)
	}
	return oci, nil
}

// started is the first process of what runc has started. runc noted the pid
// together with its start time while it held the process, so both are right even
// if the process has ended since.
func (d *Driver) started(name string) (process, error) {
	var state struct {
		PID   int    `json:"init_process_pid"`
		Start uint64 `json:"init_process_start"`
	}
	if err := readJSON(filepath.Join(d.runcRoot(), name, "state.json"), &state); err != nil {
		return process{}, err
	}
	if state.PID <= 0 || state.Start == 0 {
		return process{}, errors.New("runc started no process")
	}
	return process{PID: state.PID, Start: state.Start, Boot: keeper.BootID(), Started: time.Now()}, nil
}

// found makes a box of what runc has started.
func (d *Driver) found(id container.ID, labels map[string]string) (*box, error) {
	p, err := d.started(id.String())
	if err != nil {
		return nil, err
	}
	p.Sandbox = d.birth(id.Pod)
	if err := writeJSON(filepath.Join(d.boxDir(id), processFile), p, keeper.WriteAside); err != nil {
		return nil, err
	}
	d.cfg.step("process")
	return d.makeBox(id, labels, p)
}
